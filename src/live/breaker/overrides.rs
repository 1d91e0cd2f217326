//! Manual overrides of breakers as rules on key prefixes.
//!
//! A breaker may be created long after an operator decided: of a model that was not requested
//! before, of an endpoint that a reload adds. So an override is kept as a rule under its key, and a
//! new breaker takes the rule that covers it. A later rule replaces the rules below its key.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::resilience::breaker::ManualOverride;

/// Most rules that are kept.
pub const MAX_RULES: usize = 1024;

/// An override with the key that it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OverrideStatus {
    /// Breakers under this key are overridden, those created later included.
    pub key: String,
    #[serde(flatten)]
    pub active: ActiveOverride,
}

/// The overrides in force, by key.
#[derive(Debug, Default)]
pub struct OverrideRules(Mutex<BTreeMap<String, OverrideRule>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct OverrideRule {
    /// `None`: a reset below a wider rule, which no longer applies here.
    manual: Option<ManualOverride>,
    note: AuditNote,
}

/// Whether a breaker's key is `above` or below it.
pub fn is_under(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl OverrideRules {
    /// Sets the rule for all breakers under a key or, with `None`, removes it. Returns false if
    /// there is no place for another rule.
    pub fn set(
        &self,
        key: &str,
        manual: Option<ManualOverride>,
        note: AuditNote,
        now: Instant,
    ) -> bool {
        let mut rules = self.0.lock();
        rules.retain(|known, _| !is_under(known, key));
        remove_ended(&mut rules, now);
        let covered = rules.iter().any(|(above, rule)| is_under(key, above) && rule.is_active(now));
        if manual.is_none() && !covered {
            return true;
        }
        if rules.len() >= MAX_RULES {
            return false;
        }
        rules.insert(key.to_owned(), OverrideRule { manual, note });
        true
    }

    /// Removes the rule with exactly this key if it was set for the fleet.
    pub fn remove_fleet_rule(&self, key: &str) {
        let mut rules = self.0.lock();
        if rules.get(key).is_some_and(|rule| rule.note.fleet) {
            rules.remove(key);
        }
    }

    /// The override that a breaker with this key has.
    pub fn covering(&self, key: &str, now: Instant) -> Option<(ManualOverride, AuditNote)> {
        let rules = self.0.lock();
        // The narrowest rule is the latest: a wider one set later would have replaced it.
        let covers = |(above, _): &(&String, &OverrideRule)| is_under(key, above);
        let (_, rule) = rules.iter().filter(covers).max_by_key(|(above, _)| above.len())?;
        rule.active(now).map(|manual| (manual, rule.note.clone()))
    }

    /// Whether an operator named exactly this key.
    pub fn names(&self, key: &str, now: Instant) -> bool {
        self.0.lock().get(key).is_some_and(|rule| rule.is_active(now))
    }

    /// The rules in force, ordered by key.
    pub fn status(&self, now: Instant) -> Vec<OverrideStatus> {
        let rules = self.0.lock();
        let status = |(key, rule): (&String, &OverrideRule)| {
            let ManualOverride { state, until } = rule.active(now)?;
            let active = ActiveOverride::new(state.as_str(), until, rule.note.clone(), now);
            Some(OverrideStatus { key: key.clone(), active })
        };
        rules.iter().filter_map(status).collect()
    }
}

/// Removes rules that have ended. Below a rule in force an ended one stays: its breakers follow
/// their normal course, and a breaker that is created there now does the same.
fn remove_ended(rules: &mut BTreeMap<String, OverrideRule>, now: Instant) {
    let active: Vec<String> =
        rules.iter().filter(|(_, rule)| rule.is_active(now)).map(|(key, _)| key.clone()).collect();
    rules.retain(|key, _| active.iter().any(|above| is_under(key, above)));
}

impl OverrideRule {
    fn active(&self, now: Instant) -> Option<ManualOverride> {
        self.manual.filter(|manual| !manual.has_expired(now))
    }

    fn is_active(&self, now: Instant) -> bool {
        self.active(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::resilience::breaker::OverrideState;
    use std::time::Duration;

    fn forced(state: OverrideState, until: Option<Instant>) -> Option<ManualOverride> {
        Some(ManualOverride { state, until })
    }

    fn state(rules: &OverrideRules, key: &str, now: Instant) -> Option<OverrideState> {
        rules.covering(key, now).map(|(manual, _)| manual.state)
    }

    #[test]
    fn a_key_covers_itself_and_everything_below_it() {
        assert!(is_under("openai/api/gpt-4o", "openai/api"));
        assert!(is_under("openai/api", "openai/api"));
        assert!(!is_under("openai-2/api", "openai") && !is_under("openai", "openai/api"));
    }

    #[test]
    fn the_latest_rule_that_covers_a_key_counts() {
        let (now, rules) = (clock::now(), OverrideRules::default());
        let set = |key: &str, manual| assert!(rules.set(key, manual, AuditNote::default(), now));
        set("openai", forced(OverrideState::Open, None));
        set("openai/a", forced(OverrideState::Closed, None));
        assert_eq!(state(&rules, "openai/b/gpt", now), Some(OverrideState::Open));
        assert_eq!(state(&rules, "openai/a/gpt", now), Some(OverrideState::Closed));
        set("openai", forced(OverrideState::Shadow, None));
        assert_eq!(state(&rules, "openai/a/gpt", now), Some(OverrideState::Shadow));
        set("openai/a", None);
        assert_eq!(state(&rules, "openai/a/gpt", now), None);
        assert_eq!(state(&rules, "openai/b", now), Some(OverrideState::Shadow));
        set("openai", None);
        assert_eq!((state(&rules, "openai/b", now), rules.0.lock().len()), (None, 0));
    }

    #[test]
    fn a_rule_ends_at_its_time() {
        let (now, rules) = (clock::now(), OverrideRules::default());
        let end = now + Duration::from_secs(60);
        assert!(rules.set(
            "openai",
            forced(OverrideState::Open, Some(end)),
            AuditNote::default(),
            now
        ));
        assert_eq!(
            state(&rules, "openai/a", end - Duration::from_secs(1)),
            Some(OverrideState::Open)
        );
        assert_eq!((state(&rules, "openai/a", end), rules.status(end)), (None, vec![]));
    }

    #[test]
    fn rules_are_bounded() {
        let (now, rules) = (clock::now(), OverrideRules::default());
        let set = |key: &str| {
            rules.set(key, forced(OverrideState::Open, None), AuditNote::default(), now)
        };
        assert!((0..MAX_RULES).all(|n| set(&format!("p{n}"))));
        assert!(!set("another") && set("p7"), "a known key needs no place");
    }
}
