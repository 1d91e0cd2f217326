//! Manual overrides of breakers for the whole fleet: stored in Redis, applied on every host.
//!
//! An override is stored under a key that may stand for many breakers (`openai` for those of all its
//! endpoints), including those that are created later. A later local override on one host takes
//! precedence there.
//!
//! The value in Redis is `until=MICROSECONDS` (or `until=-`), state, author and reason, separated by
//! tabs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use redis::Value;

use super::Fleet;
use super::breakers::breaker_keys;
use super::redis::connection::{RedisCallError, instant};
use crate::clock;
use crate::live::Live;
use crate::live::breaker::overrides::{OverrideStatus, is_under};
use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{ManualOverride, OverrideState, StateKind};

/// An override of every breaker under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOverride {
    pub key: String,
    pub manual: ManualOverride,
    pub note: AuditNote,
}

/// The overrides that are in force.
#[derive(Debug, Default)]
pub struct FleetOverrides {
    active: BTreeMap<String, FleetOverride>,
    /// Keys whose override is set on this host.
    applied: BTreeSet<String>,
    changed: bool,
}

impl FleetOverrides {
    /// Replaces all overrides by those in Redis, whose clock was `now` when this host's was `at`.
    pub fn replace_all(&mut self, stored: &[(String, String)], now: u64, at: Instant) {
        let gone = self.active.keys().filter(|key| !stored.iter().any(|(k, _)| k == *key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.set(&key, "", now, at);
        }
        for (key, value) in stored {
            self.set(key, value, now, at);
        }
    }

    /// Sets one override; an empty value removes it.
    pub fn set(&mut self, key: &str, value: &str, now: u64, at: Instant) {
        let new = FleetOverride::parse(key, value, now, at);
        let same = |known: &FleetOverride| new.as_ref().is_some_and(|new| new.is_same(known));
        if self.active.get(key).is_some_and(same) {
            return;
        }
        self.changed = true;
        match new {
            Some(new) => {
                self.applied.remove(key);
                self.active.insert(key.to_owned(), new);
            }
            None => {
                self.active.remove(key);
            }
        }
    }

    /// Sets new overrides on this host, and removes those that are gone.
    pub fn apply(&mut self, live: &Live, now: Instant) {
        let gone: Vec<String> =
            self.applied.iter().filter(|key| !self.active.contains_key(*key)).cloned().collect();
        for key in gone {
            self.applied.remove(&key);
            live.clear_fleet_override(&key, now);
        }
        // A wide key comes before those below it, which are exceptions from it.
        for (key, active) in self.active.iter().filter(|(_, active)| !active.has_ended(now)) {
            if self.applied.insert(key.clone()) {
                let done = live.override_breakers(key, Some(active.manual), &active.note, now);
                if done.is_none() {
                    tracing::warn!(
                        key,
                        "fleet: manual override ignored: this host has too many (clear some with `outrigger breakers reset`)"
                    );
                }
            }
        }
    }

    /// All overrides, if one changed since the last call.
    pub fn take_changed(&mut self) -> Option<Vec<FleetOverride>> {
        std::mem::take(&mut self.changed).then(|| self.active.values().cloned().collect())
    }
}

impl FleetOverride {
    fn parse(key: &str, value: &str, now: u64, at: Instant) -> Option<FleetOverride> {
        let mut fields = value.split('\t');
        let until = fields.next()?.strip_prefix("until=")?;
        let until = match until {
            "-" => None,
            until => Some(instant(until.parse().ok()?, now, at)).filter(|until| *until > at),
        };
        if until.is_none() && !value.starts_with("until=-") {
            return None;
        }
        let state = OverrideState::from_word(fields.next()?)?;
        let mut text = || fields.next().unwrap_or_default().to_owned();
        let note = AuditNote { by: text(), reason: text(), fleet: true };
        Some(FleetOverride { key: key.to_owned(), manual: ManualOverride { state, until }, note })
    }

    /// Whether it is the same override, read at another moment.
    fn is_same(&self, other: &FleetOverride) -> bool {
        let near = match (self.manual.until, other.manual.until) {
            (Some(a), Some(b)) => a.max(b) - a.min(b) < Duration::from_millis(500),
            (a, b) => a == b,
        };
        near && self.manual.state == other.manual.state && self.note == other.note
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.manual.until.is_some_and(|until| now >= until)
    }

    fn status(&self, now: Instant) -> OverrideStatus {
        let ManualOverride { state, until } = self.manual;
        let active = ActiveOverride::new(state.as_str(), until, self.note.clone(), now);
        OverrideStatus { key: self.key.clone(), active }
    }
}

impl Fleet {
    /// Overrides every breaker under a key, on every host. `None` removes the override and closes the
    /// breakers that the fleet had opened there.
    ///
    /// # Errors
    /// If Redis was not reached. Nothing was changed then.
    pub async fn force(
        &self,
        key: &str,
        state: Option<OverrideState>,
        length: Option<Duration>,
        note: &AuditNote,
    ) -> Result<(), RedisCallError> {
        let until = length.map_or_else(|| "-".to_owned(), |l| format!("+{}", l.as_millis()));
        let value = state.map_or_else(String::new, |state| {
            format!("until={until}\t{}\t{}\t{}", state.as_str(), note.by, note.reason)
        });
        let args = (key, value, self.host());
        let reply = self.link().run::<Value>(&self.0.scripts.force, &["cb:f", "cb:x"], args).await;
        self.count_call("force", reply)?;
        if state.is_none() {
            self.close_all(key).await?;
        }
        Ok(())
    }

    async fn close_all(&self, above: &str) -> Result<(), RedisCallError> {
        let script = &self.0.scripts.assert;
        for (key, known) in self.view().shared_states() {
            if !is_under(&key, above) || known.state == StateKind::Closed {
                continue;
            }
            let keys = breaker_keys(&key);
            let keys = keys.each_ref().map(String::as_str);
            let closed = SharedState {
                epoch: known.epoch + 1,
                writer: self.host().to_owned(),
                state: StateKind::Closed,
                until: 0,
                ..known
            };
            let args = (key.as_str(), closed.to_string());
            let reply = self.link().run::<Value>(script, &keys, args).await;
            self.count_call("assert", reply)?;
        }
        Ok(())
    }

    pub(super) fn cache_overrides(&self, overrides: Vec<FleetOverride>) {
        self.cache().overrides = overrides;
    }

    /// The overrides in force, as this host knows them.
    pub fn overrides(&self) -> Vec<OverrideStatus> {
        let now = clock::now();
        let cache = self.cache();
        let active = cache.overrides.iter().filter(|it| !it.has_ended(now));
        active.map(|it| it.status(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    #[test]
    fn the_end_of_an_override_is_converted_to_this_hosts_clock() {
        let at = clock::now();
        let line = format!("until={}\topen\tanna\tmaintenance", NOW + 2_000_000);
        let parsed = FleetOverride::parse("openai", &line, NOW, at).expect("an override");
        assert_eq!(
            parsed.manual,
            ManualOverride { state: OverrideState::Open, until: Some(at + Duration::from_secs(2)) }
        );
        assert_eq!((parsed.note.by.as_str(), parsed.note.reason.as_str()), ("anna", "maintenance"));
        let open_ended =
            FleetOverride::parse("openai", "until=-\tclosed\t\t", NOW, at).expect("an override");
        assert_eq!(open_ended.manual, ManualOverride { state: OverrideState::Closed, until: None });
    }

    #[test]
    fn an_ended_or_malformed_override_is_ignored() {
        let at = clock::now();
        for line in ["", "until=5\topen\t\t", "until=-\tajar\t\t", "until=x\topen\t\t", "open"] {
            assert_eq!(FleetOverride::parse("openai", line, NOW, at), None, "{line}");
        }
    }

    #[test]
    fn setting_the_same_override_again_changes_nothing() {
        let (at, mut overrides) = (clock::now(), FleetOverrides::default());
        overrides.set("openai", "until=-\topen\tanna\t", NOW, at);
        assert_eq!(overrides.take_changed().map(|on| on.len()), Some(1));
        overrides.set("openai", "until=-\topen\tanna\t", NOW, at);
        assert_eq!(overrides.take_changed(), None);
        overrides.replace_all(&[], NOW, at);
        assert_eq!(overrides.take_changed().map(|on| on.len()), Some(0));
    }
}
