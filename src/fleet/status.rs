//! `/api/fleet`: the fleet as this host sees it.
//!
//! Most of it comes from memory. Votes and leases are read from Redis, and left out if it does not
//! respond in time.

use std::borrow::Cow;
use std::time::Duration;

use redis::{FromRedisValue, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::limits::SharedLimit;
use super::redis::connection::RedisCallError;
use super::stream::FleetTransition;
use super::sync::FleetSnapshot;
use crate::clock;
use crate::live::breaker::overrides::OverrideStatus;
use crate::resilience::breaker::StateKind;
use crate::resilience::breaker::shared_state::SharedState;
use crate::telemetry::events::rfc3339;

/// Breakers whose votes and leases are read.
const MAX_DETAILED: usize = 64;
/// Timeout for votes and leases.
const DETAILS_TIMEOUT: Duration = Duration::from_millis(300);

/// The information that a host publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HostInfo {
    pub version: String,
    /// Hash of its policy in force.
    pub policy: String,
    /// Start of the process, in RFC 3339.
    pub since: String,
}

/// `/api/fleet`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct FleetStatus {
    pub fleet: String,
    /// The id of this host.
    pub host: String,
    /// Redis responds.
    pub attached: bool,
    /// Time of the last attach or detach, in RFC 3339.
    pub since: String,
    /// The URL of Redis, without secrets.
    pub redis: String,
    pub hosts: Vec<HostStatus>,
    /// Whether hosts have different policies in force.
    pub policies_differ: bool,
    pub breakers: Vec<SharedBreaker>,
    /// Credentials, and models at them, that are held after a `Retry-After`.
    pub holds: Vec<SharedHold>,
    /// Rate limits of providers, as this host sees them.
    pub limits: Vec<SharedLimit>,
    /// Manual overrides that are in force on every host.
    pub overrides: Vec<OverrideStatus>,
    /// The latest transitions of breakers, oldest first.
    pub transitions: Vec<FleetTransition>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostStatus {
    pub id: String,
    #[serde(flatten)]
    pub info: HostInfo,
    /// The host that sent this response.
    pub this_host: bool,
}

/// A shared breaker.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SharedBreaker {
    pub key: String,
    /// `closed`, `open` or `half_open`.
    pub state: Cow<'static, str>,
    pub epoch: u64,
    /// The host that wrote this state.
    pub writer: String,
    /// Consecutive trips without a recovery.
    pub trips: u32,
    /// Remaining open time, by this host's copy of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// Successful probes so far.
    pub ok: u32,
    /// Successful probes that close the breaker.
    pub needed: u32,
    /// Probes that may run at the same time.
    pub permits: u32,
    /// State of this host's own breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_state: Option<Cow<'static, str>>,
    /// Hosts that voted to open it; empty if Redis does not respond.
    pub votes: Vec<String>,
    /// Probes in progress; empty if Redis does not respond.
    pub leases: Vec<ProbeLease>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProbeLease {
    pub host: String,
    pub remaining_ms: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SharedHold {
    pub key: String,
    pub remaining_ms: u64,
}

impl HostInfo {
    pub fn of(fleet: &Fleet) -> HostInfo {
        HostInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy: fleet.0.current.load().hash.chars().take(12).collect(),
            since: rfc3339(fleet.0.started),
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses the text of another host, which may run another version.
    pub fn parse(text: &str) -> HostInfo {
        serde_json::from_str(text).unwrap_or_default()
    }
}

impl Fleet {
    pub async fn status(&self) -> FleetStatus {
        let now = clock::now();
        let mut breakers: Vec<SharedBreaker> = self
            .view()
            .shared_states()
            .into_iter()
            .map(|(key, r)| self.shared_breaker(key, r))
            .collect();
        for cell in self.0.live.breakers() {
            let key = cell.key().to_string();
            let known = breakers.iter().any(|shared| shared.key == key);
            if !known && cell.replica_status(now).is_some() {
                breakers.push(self.shared_breaker(key, SharedState::initial()));
            }
        }
        breakers.sort_by(|a, b| a.key.cmp(&b.key));
        let details = tokio::time::timeout(DETAILS_TIMEOUT, async {
            let hosts = FleetSnapshot::fetch(self).await?.live_hosts();
            self.cache().hosts = hosts;
            self.read_details(&mut breakers).await
        });
        if !matches!(details.await, Ok(Ok(()))) {
            tracing::debug!("fleet: no votes and leases in the status: redis does not respond");
        }
        let holds = self.view().holds(now).into_iter();
        let (since, hosts, transitions) = {
            let cache = self.cache();
            (cache.since, cache.hosts.clone(), cache.transitions.clone())
        };
        let policy = HostInfo::of(self).policy;
        FleetStatus {
            fleet: self.0.name.clone(),
            host: self.host().to_owned(),
            attached: self.link().is_attached(),
            since: rfc3339(since),
            redis: self.link().address().display().to_owned(),
            policies_differ: hosts.iter().any(|(_, info)| info.policy != policy),
            hosts: hosts.into_iter().map(|(id, info)| self.host_status(id, info)).collect(),
            breakers,
            holds: holds
                .map(|(key, left)| SharedHold { key, remaining_ms: left.as_millis() as u64 })
                .collect(),
            limits: self.limits(now),
            overrides: self.overrides(),
            transitions,
        }
    }

    fn host_status(&self, id: String, info: HostInfo) -> HostStatus {
        let this_host = id == self.host();
        HostStatus { info: if this_host { HostInfo::of(self) } else { info }, this_host, id }
    }

    fn shared_breaker(&self, key: String, state: SharedState) -> SharedBreaker {
        let now = clock::now();
        let member = self.0.live.find_breaker(&key).and_then(|cell| cell.replica_status(now));
        let until = member.as_ref().and_then(|(_, until, _)| *until);
        let left = |until: std::time::Instant| until.saturating_duration_since(now).as_millis();
        SharedBreaker {
            state: state.state.as_str().into(),
            epoch: state.epoch,
            writer: state.writer,
            trips: state.trips,
            remaining_ms: until.map(|until| left(until) as u64),
            ok: state.succeeded,
            needed: state.required,
            permits: state.permits,
            local_state: member.map(|(_, _, local): (_, _, StateKind)| local.as_str().into()),
            votes: Vec::new(),
            leases: Vec::new(),
            key,
        }
    }

    /// Reads votes and leases from Redis.
    async fn read_details(&self, breakers: &mut [SharedBreaker]) -> Result<(), RedisCallError> {
        for shared in
            breakers.iter_mut().filter(|shared| shared.local_state.is_some()).take(MAX_DETAILED)
        {
            let (votes, leases) = (format!("cb:v:{}", shared.key), format!("cb:l:{}", shared.key));
            let (script, keys) = (&self.0.scripts.breaker_details, ["cb", &votes, &leases]);
            let reply = self.link().run::<Vec<Value>>(script, &keys, &shared.key).await;
            let reply = self.count_call("breaker_details", reply)?;
            let texts = |at: usize| {
                let part = reply.get(at).and_then(|part| Vec::from_redis_value_ref(part).ok());
                part.unwrap_or_default()
            };
            shared.votes = texts(0);
            let lease = |pair: &[String]| {
                let host = pair[0].split(':').nth(1).unwrap_or_default().to_owned();
                ProbeLease { host, remaining_ms: pair[1].parse::<f64>().unwrap_or(0.0) as u64 }
            };
            shared.leases = texts(1).chunks_exact(2).map(lease).collect();
            if let Some(Ok(state)) =
                texts(2).first().map(|line: &String| line.parse::<SharedState>())
            {
                (shared.ok, shared.needed) = (state.succeeded, state.required);
            }
        }
        Ok(())
    }
}
