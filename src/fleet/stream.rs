//! Reads the fleet's stream: transitions, holds and overrides, as they happen.
//!
//! The stream is read with blocking `XREAD`, on a connection of its own, from the position of the last
//! snapshot, so nothing is lost while the host reconnects, as it would be with Pub/Sub. The age of an
//! entry is the difference between its time and Redis' clock at the last heartbeat. If that is
//! implausible, because the clock was set, the entry counts as new, so that no end comes too early.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::redis::connection::instant;
use super::redis::url::RedisConnection;
use super::sync::FleetSync;
use crate::clock;
use crate::resilience::breaker::shared_state::SharedState;
use crate::telemetry::events::rfc3339;

/// Length of one blocking read.
const BLOCK: Duration = Duration::from_secs(5);
/// Additional time for a reply.
const SLACK: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const PAGE: usize = 256;
/// An older entry means that a clock was set.
const OLDEST: Duration = Duration::from_secs(60);
/// Transitions that `/api/fleet` shows.
const MAX_TRANSITIONS: usize = 200;

/// A transition of a shared breaker in `/api/fleet`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FleetTransition {
    /// When this host read it, in RFC 3339.
    pub at: String,
    pub key: String,
    pub state: Cow<'static, str>,
    pub epoch: u64,
    pub by: String,
    pub reason: String,
}

/// Reads the stream until the process ends.
pub async fn read(sync: Rc<FleetSync>) {
    let mut moved = sync.position.subscribe();
    loop {
        let from = moved.borrow_and_update().clone();
        if from.is_empty() {
            let _ = moved.changed().await;
            continue;
        }
        // Ends with an error, or because a new snapshot moved the position.
        tokio::select! {
            ended = read_from(&sync, from) => if let Err(error) = ended {
                tracing::debug!(%error, "fleet: cannot read the stream");
                tokio::time::sleep(RETRY).await;
            },
            _ = moved.changed() => {}
        }
    }
}

async fn read_from(sync: &FleetSync, mut last: String) -> Result<(), RedisError> {
    let link = sync.fleet.link();
    let mut connection = link.address().connect(BLOCK + SLACK).await?;
    let stream = link.key("cb:x");
    let options = StreamReadOptions::default().block(BLOCK.as_millis() as usize).count(PAGE);
    loop {
        let (keys, ids) = ([stream.as_str()], [last.as_str()]);
        let read: Option<StreamReadReply> = match &mut connection {
            RedisConnection::Single(single) => single.xread_options(&keys, &ids, &options).await?,
            RedisConnection::Cluster(cluster) => {
                cluster.xread_options(&keys, &ids, &options).await?
            }
        };
        let at = clock::now();
        for entry in read.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            sync.apply_entry(&entry, at);
            last.clone_from(&entry.id);
        }
        // A reader whose connection broke continues here.
        sync.position.send_if_modified(|position| {
            position.clone_from(&last);
            false
        });
    }
}

impl FleetSync {
    fn apply_entry(&self, entry: &StreamId, at: Instant) {
        let text = |name: &str| entry.get::<String>(name).unwrap_or_default();
        let (kind, key, value, reason) = (text("k"), text("p"), text("r"), text("w"));
        let written: u64 = text("n").parse().unwrap_or(0);
        let now = self.redis_time(written, at);
        match kind.as_str() {
            "r" => match value.parse::<SharedState>() {
                Ok(state) => {
                    let by = format!("{}: {reason}", state.writer);
                    self.fleet.add_transition(&key, &state, reason);
                    self.learn(&key, &state, instant(state.until, now, at), &by);
                }
                Err(error) => tracing::debug!(%error, key, "fleet: cannot read a stream entry"),
            },
            "h" if reason == self.fleet.host() => {}
            "h" => self.apply_hold(&key, instant(value.parse().unwrap_or(0), now, at), at),
            "f" => {
                self.overrides.borrow_mut().set(&key, &value, now, at);
                // A reset also ends holds.
                if value.is_empty() {
                    self.fleet.0.live.clear_holds(&key);
                }
            }
            _ => {}
        }
        if kind == "f" {
            self.fleet.view().wake();
        }
    }

    /// Redis' time when an entry was read; `written` is the entry's own time.
    fn redis_time(&self, written: u64, at: Instant) -> u64 {
        let Some((clock, read)) = self.time.get() else { return written };
        let since = at.saturating_duration_since(read).as_micros() as u64;
        let now = clock.saturating_add(since);
        let age = now.checked_sub(written).map(Duration::from_micros);
        if age.is_some_and(|age| age <= OLDEST) { now } else { written }
    }
}

impl Fleet {
    fn add_transition(&self, key: &str, state: &SharedState, reason: String) {
        let mut cache = self.cache();
        if cache.transitions.len() >= MAX_TRANSITIONS {
            cache.transitions.remove(0);
        }
        cache.transitions.push(FleetTransition {
            at: rfc3339(clock::wall()),
            key: key.to_owned(),
            state: state.state.as_str().into(),
            epoch: state.epoch,
            by: state.writer.clone(),
            reason,
        });
    }
}
