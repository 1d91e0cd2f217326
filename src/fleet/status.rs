//! What a fleet looks like from this host: `/api/fleet`.
//!
//! What this host knows from memory is told always; votes and leases are asked of Redis, and left
//! out where it does not answer.

use std::borrow::Cow;
use std::time::Duration;

use redis::{FromRedisValue, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::limits::SharedLimit;
use super::overrides::OverrideStatus;
use super::redis::connection::RedisCallError;
use super::stream::BreakerTransition;
use super::sync::FleetSnapshot;
use crate::clock;
use crate::resilience::breaker::StateKind;
use crate::resilience::breaker::shared_state::SharedState;
use crate::telemetry::events::rfc3339;

/// Breakers of which votes and leases are asked.
const MOST: usize = 64;
/// Whoever looks waits no longer for what only Redis knows.
const PATIENCE: Duration = Duration::from_millis(300);

/// Facts that a host publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HostInfo {
    pub version: String,
    /// The hash of the policy in force there.
    pub policy: String,
    /// When it was started.
    pub since: String,
}

/// `/api/fleet`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct FleetStatus {
    pub fleet: String,
    /// The id of this host.
    pub host: String,
    /// Redis can be reached.
    pub attached: bool,
    /// Start of the attached or detached state, RFC 3339.
    pub since: String,
    /// The address of Redis, without its password.
    pub redis: String,
    pub hosts: Vec<HostStatus>,
    /// Not all hosts have the same policy in force.
    pub policies_differ: bool,
    pub breakers: Vec<SharedBreaker>,
    /// Endpoints that are in cooldown after a `Retry-After`.
    pub holds: Vec<SharedHold>,
    /// Rate limits of providers, as this host sees them.
    pub limits: Vec<SharedLimit>,
    /// Manual overrides that are in force on every host.
    pub overrides: Vec<OverrideStatus>,
    /// The latest transitions of breakers, oldest first.
    pub transitions: Vec<BreakerTransition>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostStatus {
    pub id: String,
    #[serde(flatten)]
    pub facts: HostInfo,
    /// The host that sent this response.
    pub this_host: bool,
}

/// A breaker that the fleet shares.
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
    /// Time until the breaker probes, by this host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// Successful probes so far.
    pub ok: u32,
    /// Successful probes that close the breaker.
    pub needed: u32,
    /// Probes that may run at the same time.
    pub permits: u32,
    /// The state of this host's own breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_state: Option<Cow<'static, str>>,
    /// Hosts that voted to trip; empty when Redis does not respond.
    pub votes: Vec<String>,
    /// Probes that are running; empty when Redis does not respond.
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

    pub fn written(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Of another host, perhaps of another version.
    pub fn read(text: &str) -> HostInfo {
        serde_json::from_str(text).unwrap_or_default()
    }
}

impl Fleet {
    pub async fn view(&self) -> FleetStatus {
        let now = clock::now();
        let mut breakers: Vec<SharedBreaker> =
            self.side().shared_states().into_iter().map(|(key, r)| self.shared(key, r)).collect();
        for cell in self.0.live.breakers() {
            let key = cell.key().to_string();
            let known = breakers.iter().any(|shared| shared.key == key);
            if !known && cell.replica_status(now).is_some() {
                breakers.push(self.shared(key, SharedState::initial()));
            }
        }
        breakers.sort_by(|a, b| a.key.cmp(&b.key));
        let asked = tokio::time::timeout(PATIENCE, async {
            let hosts = FleetSnapshot::of(self).await?.living();
            self.told().hosts = hosts;
            self.ask_details(&mut breakers).await
        });
        let asked = asked.await;
        if !matches!(asked, Ok(Ok(()))) {
            tracing::debug!("fleet: votes and leases are not told: Redis does not answer");
        }
        let held = self.side().holds(now).into_iter();
        let (since, hosts, transitions) = {
            let told = self.told();
            (told.since, told.hosts.clone(), told.transitions.clone())
        };
        let mine = HostInfo::of(self).policy;
        FleetStatus {
            fleet: self.0.name.clone(),
            host: self.host().to_owned(),
            attached: self.link().is_attached(),
            since: rfc3339(since),
            redis: self.link().address().shown().to_owned(),
            policies_differ: hosts.iter().any(|(_, facts)| facts.policy != mine),
            hosts: hosts.into_iter().map(|(id, facts)| self.host_of(id, facts)).collect(),
            breakers,
            holds: held
                .map(|(key, left)| SharedHold { key, remaining_ms: left.as_millis() as u64 })
                .collect(),
            limits: self.limits(now),
            overrides: self.hands(),
            transitions,
        }
    }

    fn host_of(&self, id: String, facts: HostInfo) -> HostStatus {
        let me = id == self.host();
        HostStatus { facts: if me { HostInfo::of(self) } else { facts }, this_host: me, id }
    }

    fn shared(&self, key: String, register: SharedState) -> SharedBreaker {
        let now = clock::now();
        let member = self.0.live.find_breaker(&key).and_then(|cell| cell.replica_status(now));
        let until = member.as_ref().and_then(|(_, until, _)| *until);
        let left = |until: std::time::Instant| until.saturating_duration_since(now).as_millis();
        SharedBreaker {
            state: register.state.as_str().into(),
            epoch: register.epoch,
            writer: register.writer,
            trips: register.trips,
            remaining_ms: until.map(|until| left(until) as u64),
            ok: register.succeeded,
            needed: register.required,
            permits: register.permits,
            local_state: member.map(|(_, _, own): (_, _, StateKind)| own.as_str().into()),
            votes: Vec::new(),
            leases: Vec::new(),
            key,
        }
    }

    /// Votes and leases, as Redis has them now.
    async fn ask_details(&self, breakers: &mut [SharedBreaker]) -> Result<(), RedisCallError> {
        for shared in breakers.iter_mut().filter(|shared| shared.local_state.is_some()).take(MOST) {
            let (votes, leases) = (format!("cb:v:{}", shared.key), format!("cb:l:{}", shared.key));
            let (script, keys) = (&self.0.scripts.look, ["cb", &votes, &leases]);
            let told = self.link().run::<Vec<Value>>(script, &keys, &shared.key).await;
            let told = self.counted("look", told)?;
            let texts = |at: usize| {
                let part = told.get(at).and_then(|part| Vec::from_redis_value_ref(part).ok());
                part.unwrap_or_default()
            };
            shared.votes = texts(0);
            let lease = |pair: &[String]| {
                let host = pair[0].split(':').nth(1).unwrap_or_default().to_owned();
                ProbeLease { host, remaining_ms: pair[1].parse::<f64>().unwrap_or(0.0) as u64 }
            };
            shared.leases = texts(1).chunks_exact(2).map(lease).collect();
            if let Some(Ok(register)) =
                texts(2).first().map(|line: &String| line.parse::<SharedState>())
            {
                (shared.ok, shared.needed) = (register.succeeded, register.required);
            }
        }
        Ok(())
    }
}
