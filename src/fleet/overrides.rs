//! Operators' hands on the whole fleet: kept in Redis, laid on the breakers of every host.
//!
//! A hand is kept by the key that it was laid on, which may stand for many breakers (`openai` for all
//! of its addresses), also for one that is made later. Where an operator of one host changes a
//! breaker there afterwards, that counts there.
//!
//! In Redis it is `until=MICROSECONDS` (or `until=-`), what, by whom and why, parted by tabs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::redis::connection::{RedisCallError, instant};
use super::redis::scripts::RedisScript;
use crate::clock;
use crate::live::Live;
use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{ManualOverride, OverrideState, StateKind};

/// A hand on what is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOverride {
    pub key: String,
    pub hand: ManualOverride,
    pub note: AuditNote,
}

/// An override that is in force on the whole fleet, as the admin API reports it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverrideStatus {
    /// Breakers under this key are overridden.
    pub key: String,
    #[serde(flatten)]
    pub active: ActiveOverride,
}

/// The hands that are on the fleet.
#[derive(Debug, Default)]
pub struct FleetOverrides {
    on: BTreeMap<String, FleetOverride>,
    /// Keys of breakers that each was laid on.
    laid: BTreeMap<String, HashSet<String>>,
    changed: bool,
}

/// Whether a key stands for a breaker: its own, or what it lies under.
pub fn is_under(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl FleetOverrides {
    /// All that Redis has, which was `now` by its clock `at` that moment.
    pub fn all(&mut self, told: &[(String, String)], now: u64, at: Instant) {
        let gone = self.on.keys().filter(|key| !told.iter().any(|(k, _)| k == *key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.one(&key, "", now, at);
        }
        for (key, line) in told {
            self.one(key, line, now, at);
        }
    }

    /// One of them changed; an empty line: it was taken off.
    pub fn one(&mut self, key: &str, line: &str, now: u64, at: Instant) {
        let read = FleetOverride::read(key, line, now, at);
        let same = |known: &FleetOverride| read.as_ref().is_some_and(|read| read.is_like(known));
        if self.on.get(key).is_some_and(same) {
            return;
        }
        self.changed = true;
        match read {
            Some(force) => {
                self.laid.remove(key);
                self.on.insert(key.to_owned(), force);
            }
            None => {
                self.on.remove(key);
            }
        }
    }

    /// Lays them on whatever is under their keys and has not felt them yet.
    pub fn lay_on(&mut self, live: &Live, now: Instant) {
        if self.on.is_empty() && self.laid.is_empty() {
            return;
        }
        let cells = live.breakers();
        let over: Vec<String> =
            self.laid.keys().filter(|key| !self.on.contains_key(*key)).cloned().collect();
        for key in over {
            let laid = self.laid.remove(&key).unwrap_or_default();
            for cell in cells.iter().filter(|cell| laid.contains(&cell.key().to_string())) {
                cell.clear_fleet_override(now);
            }
        }
        for (key, force) in self.on.iter().filter(|(_, force)| !force.is_over(now)) {
            let laid = self.laid.entry(key.clone()).or_default();
            for cell in &cells {
                let name = cell.key().to_string();
                if is_under(&name, key) && laid.insert(name) {
                    cell.set_override(Some(force.hand), force.note.clone(), now);
                }
            }
        }
    }

    /// Those that are on, when they changed since this was asked last.
    pub fn news(&mut self) -> Option<Vec<FleetOverride>> {
        std::mem::take(&mut self.changed).then(|| self.on.values().cloned().collect())
    }
}

impl FleetOverride {
    fn read(key: &str, line: &str, now: u64, at: Instant) -> Option<FleetOverride> {
        let mut fields = line.split('\t');
        let until = fields.next()?.strip_prefix("until=")?;
        let until = match until {
            "-" => None,
            until => Some(instant(until.parse().ok()?, now, at)).filter(|until| *until > at),
        };
        if until.is_none() && !line.starts_with("until=-") {
            return None;
        }
        let wish = match fields.next()? {
            "open" => OverrideState::Open,
            "closed" => OverrideState::Closed,
            "shadow" => OverrideState::Shadow,
            _ => return None,
        };
        let mut text = || fields.next().unwrap_or_default().to_owned();
        let note = AuditNote { by: text(), reason: text(), fleet: true };
        Some(FleetOverride {
            key: key.to_owned(),
            hand: ManualOverride { state: wish, until },
            note,
        })
    }

    /// The same hand, read at another moment.
    fn is_like(&self, other: &FleetOverride) -> bool {
        let near = match (self.hand.until, other.hand.until) {
            (Some(a), Some(b)) => a.max(b) - a.min(b) < Duration::from_millis(500),
            (a, b) => a == b,
        };
        near && self.hand.state == other.hand.state && self.note == other.note
    }

    fn is_over(&self, now: Instant) -> bool {
        self.hand.until.is_some_and(|until| now >= until)
    }

    fn shown(&self, now: Instant) -> OverrideStatus {
        let ManualOverride { state, until } = self.hand;
        let active = ActiveOverride::new(state.as_str(), until, self.note.clone(), now);
        OverrideStatus { key: self.key.clone(), active }
    }
}

impl Fleet {
    /// Lays a hand on everything under a key, at every host; or, with `None`, takes it off, and closes
    /// what the fleet had opened there.
    ///
    /// # Errors
    /// When Redis was not reached: nothing was changed then.
    pub async fn force(
        &self,
        key: &str,
        wish: Option<OverrideState>,
        length: Option<Duration>,
        note: &AuditNote,
    ) -> Result<(), RedisCallError> {
        let until = length.map_or_else(|| "-".to_owned(), |l| format!("+{}", l.as_millis()));
        let line = wish.map_or_else(String::new, |wish| {
            format!("until={until}\t{}\t{}\t{}", wish.as_str(), note.by, note.reason)
        });
        let args = (key, line, self.host());
        let told = self.link().run::<Value>(&self.0.scripts.force, &["cb:f", "cb:x"], args).await;
        self.counted("force", told)?;
        if wish.is_none() {
            self.close_all(key).await?;
        }
        Ok(())
    }

    async fn close_all(&self, above: &str) -> Result<(), RedisCallError> {
        let script: &RedisScript = &self.0.scripts.assert;
        for (key, known) in self.side().shared_states() {
            if !is_under(&key, above) || known.state == StateKind::Closed {
                continue;
            }
            let of = |what: &str| format!("cb:{what}:{key}");
            let (votes, leases, awaited, busy) = (of("v"), of("l"), of("w"), of("h"));
            let keys = ["cb", "cb:t", "cb:x", &votes, &leases, &awaited, &busy];
            let closed = SharedState {
                epoch: known.epoch + 1,
                writer: self.host().to_owned(),
                state: StateKind::Closed,
                until: 0,
                ..known
            };
            let args = (key.as_str(), closed.to_string());
            let told = self.link().run::<Value>(script, &keys, args).await;
            self.counted("assert", told)?;
        }
        Ok(())
    }

    /// Remembers the hands for who asks.
    pub(super) fn remember_hands(&self, hands: Vec<FleetOverride>) {
        self.told().hands = hands;
    }

    /// The hands that are on the fleet, as this host knows them.
    pub fn hands(&self) -> Vec<OverrideStatus> {
        let now = clock::now();
        let told = self.told();
        told.hands.iter().filter(|force| !force.is_over(now)).map(|f| f.shown(now)).collect()
    }
}

/// Breakers under a key.
pub fn under(live: &Live, key: &str) -> Vec<Arc<crate::live::breaker::cell::BreakerCell>> {
    let all = live.breakers();
    all.into_iter().filter(|cell| is_under(&cell.key().to_string(), key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    #[test]
    fn a_hand_is_read_with_its_end_by_this_hosts_clock() {
        let at = clock::now();
        let line = format!("until={}\topen\tanna\tmaintenance", NOW + 2_000_000);
        let force = FleetOverride::read("openai", &line, NOW, at).expect("a hand");
        assert_eq!(
            force.hand,
            ManualOverride { state: OverrideState::Open, until: Some(at + Duration::from_secs(2)) }
        );
        assert_eq!((force.note.by.as_str(), force.note.reason.as_str()), ("anna", "maintenance"));
        let open_ended =
            FleetOverride::read("openai", "until=-\tclosed\t\t", NOW, at).expect("a hand");
        assert_eq!(open_ended.hand, ManualOverride { state: OverrideState::Closed, until: None });
    }

    #[test]
    fn what_is_over_or_is_no_hand_is_none() {
        let at = clock::now();
        for line in ["", "until=5\topen\t\t", "until=-\tajar\t\t", "until=x\topen\t\t", "open"] {
            assert_eq!(FleetOverride::read("openai", line, NOW, at), None, "{line}");
        }
    }

    #[test]
    fn the_same_hand_again_is_no_news() {
        let (at, mut hands) = (clock::now(), FleetOverrides::default());
        hands.one("openai", "until=-\topen\tanna\t", NOW, at);
        assert_eq!(hands.news().map(|on| on.len()), Some(1));
        hands.one("openai", "until=-\topen\tanna\t", NOW, at);
        assert_eq!(hands.news(), None);
        hands.all(&[], NOW, at);
        assert_eq!(hands.news().map(|on| on.len()), Some(0));
    }
}
