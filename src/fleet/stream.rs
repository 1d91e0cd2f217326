//! The fleet's stream: transitions, holds and hands, as they happen.
//!
//! Read blocking, on a connection of its own, from where the last snapshot ended: nothing that is
//! told while we are away is lost, as it would be with Pub/Sub. Redis' time of an entry and its
//! clock, as the last heartbeat told it, say how old the entry is; where the two cannot both be right,
//! because the clock was set, the entry counts as new: an end is never taken for an earlier one.

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

/// One read waits for so long.
const BLOCK: Duration = Duration::from_secs(5);
/// What an answer may take beside.
const SLACK: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 256;
/// An entry is not older than this, or clocks disagree.
const OLDEST: Duration = Duration::from_secs(60);
const KEPT: usize = 200;

/// A change of the fleet's breaker, for people.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakerTransition {
    /// RFC 3339, when it was heard here.
    pub at: String,
    pub key: String,
    pub state: Cow<'static, str>,
    pub epoch: u64,
    pub by: String,
    pub reason: String,
}

/// Reads for as long as the process lives.
pub async fn read(task: Rc<FleetSync>) {
    let mut moved = task.position.subscribe();
    loop {
        let from = moved.borrow_and_update().clone();
        if from.is_empty() {
            let _ = moved.changed().await;
            continue;
        }
        // Ends with an error, or because a snapshot was read anew.
        tokio::select! {
            ended = read_from(&task, from) => if let Err(error) = ended {
                tracing::debug!(%error, "fleet: the stream cannot be read");
                tokio::time::sleep(AGAIN).await;
            },
            _ = moved.changed() => {}
        }
    }
}

async fn read_from(task: &FleetSync, mut last: String) -> Result<(), RedisError> {
    let link = task.fleet.link();
    let mut connection = link.address().connect(BLOCK + SLACK).await?;
    let stream = link.key("cb:x");
    let options = StreamReadOptions::default().block(BLOCK.as_millis() as usize).count(AT_ONCE);
    loop {
        let (keys, ids) = ([stream.as_str()], [last.as_str()]);
        let read: Option<StreamReadReply> = match &mut connection {
            RedisConnection::One(one) => one.xread_options(&keys, &ids, &options).await?,
            RedisConnection::Cluster(cluster) => {
                cluster.xread_options(&keys, &ids, &options).await?
            }
        };
        let at = clock::now();
        for entry in read.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            task.hear(&entry, at);
            last.clone_from(&entry.id);
        }
        // Where a reader that breaks begins again.
        task.position.send_if_modified(|position| {
            position.clone_from(&last);
            false
        });
    }
}

impl FleetSync {
    fn hear(&self, entry: &StreamId, at: Instant) {
        let text = |name: &str| entry.get::<String>(name).unwrap_or_default();
        let (kind, key, what, why) = (text("k"), text("p"), text("r"), text("w"));
        let then: u64 = text("n").parse().unwrap_or(0);
        let now = self.now_there(then, at);
        match kind.as_str() {
            "r" => match what.parse::<SharedState>() {
                Ok(register) => {
                    let by = format!("{}: {why}", register.writer);
                    self.fleet.remember(&key, &register, why);
                    self.learn(&key, &register, instant(register.until, now, at), &by);
                }
                Err(error) => tracing::debug!(%error, key, "fleet: an entry of the stream"),
            },
            "h" if why == self.fleet.host() => {}
            "h" => self.hear_hold(&key, instant(what.parse().unwrap_or(0), now, at), at),
            "f" => self.hands.borrow_mut().one(&key, &what, now, at),
            _ => {}
        }
        if kind == "f" {
            self.fleet.side().wake();
        }
    }

    /// Redis' clock `at` that moment, when an entry that it made at `then` was heard.
    fn now_there(&self, then: u64, at: Instant) -> u64 {
        let Some((clock, read)) = self.time.get() else { return then };
        let since = at.saturating_duration_since(read).as_micros() as u64;
        let now = clock.saturating_add(since);
        let age = now.checked_sub(then).map(Duration::from_micros);
        if age.is_some_and(|age| age <= OLDEST) { now } else { then }
    }
}

impl Fleet {
    fn remember(&self, key: &str, register: &SharedState, reason: String) {
        let mut told = self.told();
        if told.transitions.len() >= KEPT {
            told.transitions.remove(0);
        }
        told.transitions.push(BreakerTransition {
            at: rfc3339(clock::wall()),
            key: key.to_owned(),
            state: register.state.as_str().into(),
            epoch: register.epoch,
            by: register.writer.clone(),
            reason,
        });
    }
}
