//! The sections `retries` and `breakers`: defaults, bounds, and what a name refers to.
//!
//! `default` exists without being declared; where it is declared, keys that it leaves out keep
//! the documented values, as they do under any other name. `none` switches the feature off.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Breaker, Cost, Retry, Scope};
use super::raw_rules::{RawBreaker, RawBudget, RawFailureRate, RawRetry, RawShared, RawSlowRate};
use super::words::word;
use crate::policy::section::checker::{Check, DAY, MS};
use crate::policy::text::suggest::did_you_mean;
use crate::policy::yaml::types::{At, Spend, SwitchOr, TextOr, Word};
use crate::resilience::breaker::{BreakerPolicy, EnforcementMode, Quorum, RateRule, SlowRule};
use crate::resilience::outcome::{AttemptClass, ClassSet};
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::resilience::retry::budget::RetryBudgetPolicy;
use crate::resilience::retry::cost_budget::CostBudgetPolicy;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What can be referred to by name.
pub(crate) struct Rules {
    pub(crate) retries: BTreeMap<String, Retry>,
    /// Without a probe's lease, which is each provider's.
    pub(crate) breakers: BTreeMap<String, Breaker>,
}

impl Rules {
    pub(crate) fn new(check: &mut Check<'_>) -> Self {
        let retry = check.retry("default", &RawRetry::default());
        let breaker = check.breaker("default", &RawBreaker::default());
        Self {
            retries: BTreeMap::from([("default".to_owned(), retry)]),
            breakers: BTreeMap::from([("default".to_owned(), breaker)]),
        }
    }

    /// `None` where nothing is said.
    pub(crate) fn retry(&self, check: &mut Check<'_>, at: &Option<At<String>>) -> Option<Retry> {
        let at = at.as_ref()?;
        if at.as_str() == "none" {
            return Some(never());
        }
        let found = self.retries.get(at.as_str()).cloned();
        if found.is_none() {
            refers_to_nothing(check, at, "retry policy", "retries", self.retries.keys());
        }
        found
    }

    pub(crate) fn breaker(
        &self,
        check: &mut Check<'_>,
        at: &Option<At<String>>,
    ) -> Option<Breaker> {
        let name = at.as_ref().map_or("default", |at| at.as_str());
        if name == "none" {
            return None;
        }
        let found = self.breakers.get(name).cloned();
        if let (None, Some(at)) = (&found, at) {
            refers_to_nothing(check, at, "breaker", "breakers", self.breakers.keys());
        }
        found
    }
}

/// A place in the list of what is known; `None` was reported, or was declared but could not be read.
pub(crate) fn named(
    check: &mut Check<'_>,
    at: &At<String>,
    what: &str,
    section: &str,
    known: &BTreeMap<String, usize>,
) -> Option<usize> {
    let found = known.get(at.as_str()).copied();
    if found.is_none() {
        refers_to_nothing(check, at, what, section, known.keys());
    }
    found.filter(|index| *index < usize::MAX)
}

pub(crate) fn refers_to_nothing<'n>(
    check: &mut Check<'_>,
    at: &At<String>,
    what: &str,
    section: &str,
    known: impl Iterator<Item = &'n String> + Clone,
) {
    if check.incomplete {
        return;
    }
    let label = did_you_mean(at, known.clone().map(String::as_str));
    let message = format!("there is no {what} `{}` under `{section}`", at.value);
    let mut problem = check.tree.on_value(at.id, message).label(label);
    if problem.label.is_none() {
        let known: Vec<_> = known.take(8).map(|name| format!("`{name}`")).collect();
        problem.help = (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")));
    }
    check.problems.push(problem);
}

/// `retry: none`.
fn never() -> Retry {
    Retry {
        name: "none".to_owned(),
        max_attempts: 1,
        fallback_attempts: 1,
        patience: 5 * SECOND,
        backoff: BackoffPolicy {
            initial: 100 * MS,
            max: 10 * SECOND,
            multiplier: 2.0,
            jitter: Jitter::Full,
        },
        retry_on: ClassSet::of(&[]),
        respect_retry_after: true,
        budget: RetryBudgetPolicy { ratio: 0.2, min_per_second: 1.0, window: 10 * SECOND },
        cost: None,
    }
}

impl Check<'_> {
    pub(crate) fn retry(&mut self, name: &str, raw: &RawRetry) -> Retry {
        let initial = self.length(&raw.initial_delay, 100 * MS, Duration::ZERO..=HOUR);
        let max = self.length(&raw.max_delay, 10 * SECOND, Duration::ZERO..=HOUR);
        if let (Some(at), true) = (
            raw.max_delay.as_ref().map(|at| at.id).or(raw.initial_delay.as_ref().map(|at| at.id)),
            initial > max,
        ) {
            self.error(
                at,
                format!(
                    "`max_delay` ({}) is shorter than `initial_delay` ({})",
                    crate::policy::section::checker::show(max),
                    crate::policy::section::checker::show(initial)
                ),
            );
        }
        Retry {
            name: name.to_owned(),
            max_attempts: self.count(&raw.max_attempts, 3, 1..=100),
            fallback_attempts: self.count(&raw.fallback_attempts, 1, 1..=100),
            patience: self.length(&raw.patience, 5 * SECOND, Duration::ZERO..=HOUR),
            backoff: BackoffPolicy {
                initial,
                max,
                multiplier: self.number(&raw.backoff_multiplier, 2.0, 1.0..=100.0),
                jitter: raw.jitter.map_or(Jitter::Full, |at| at.value.0),
            },
            retry_on: match &raw.retry_on {
                None => ClassSet::of(&[
                    AttemptClass::Unsent,
                    AttemptClass::Failure,
                    AttemptClass::Throttled,
                ]),
                Some(at) => self.classes(
                    &at.value,
                    &[
                        AttemptClass::Unsent,
                        AttemptClass::Failure,
                        AttemptClass::Throttled,
                        AttemptClass::Credential,
                    ],
                ),
            },
            respect_retry_after: raw.respect_retry_after.is_none_or(|at| at.value),
            budget: self.budget(raw.budget.as_ref().map(|at| &at.value)),
            cost: raw.budget.as_ref().and_then(|at| at.cost).map(|at| self.cost(at)),
        }
    }

    fn cost(&mut self, at: At<Spend>) -> Cost {
        let Spend(spend) = at.value;
        if spend.amount <= 0.0 {
            self.error(
                at.id,
                "a cost of nothing: expected more than `0` (`retry: none` switches repeats off)",
            );
        }
        Cost {
            policy: CostBudgetPolicy { limit: spend.amount, window: spend.per },
            currency: spend.currency.iter().collect(),
        }
    }

    fn budget(&mut self, raw: Option<&RawBudget>) -> RetryBudgetPolicy {
        let Some(raw) = raw else { return never().budget };
        RetryBudgetPolicy {
            ratio: raw.ratio.map_or(0.2, |at| at.value.0),
            min_per_second: self.number(&raw.min_per_second, 1.0, 0.0..=100_000.0),
            window: self.length(&raw.window, 10 * SECOND, SECOND..=HOUR),
        }
    }

    /// Those of `allowed` that are listed.
    pub(crate) fn classes(
        &mut self,
        listed: &[At<Word<AttemptClass>>],
        allowed: &[AttemptClass],
    ) -> ClassSet {
        let mut classes = Vec::new();
        for at in listed {
            let class = at.value.0;
            if allowed.contains(&class) {
                classes.push(class);
            } else {
                let words: Vec<_> = allowed.iter().map(|class| word(*class)).collect();
                self.unknown_word(at.id, word(class), &words);
            }
        }
        ClassSet::of(&classes)
    }

    pub(crate) fn breaker(&mut self, name: &str, raw: &RawBreaker) -> Breaker {
        let recovery_timeout = self.length(&raw.recovery_timeout, 5 * SECOND, MS..=DAY);
        let max_recovery_timeout = self.length(&raw.max_recovery_timeout, 60 * SECOND, MS..=DAY);
        let either = raw.max_recovery_timeout.as_ref().or(raw.recovery_timeout.as_ref());
        if let (Some(at), true) = (either, recovery_timeout > max_recovery_timeout) {
            let (first, most) = (
                crate::policy::section::checker::show(recovery_timeout),
                crate::policy::section::checker::show(max_recovery_timeout),
            );
            self.error(
                at.id,
                format!(
                    "`max_recovery_timeout` ({most}) is shorter than `recovery_timeout` ({first})"
                ),
            );
        }
        let policy = BreakerPolicy {
            failure_threshold: self.count(&raw.failure_threshold, 5, 0..=1_000_000),
            failure_rate: self.failure_rate(&raw.failure_rate),
            slow_rate: self.slow_rate(&raw.slow_rate),
            recovery_timeout,
            backoff_multiplier: self.number(&raw.backoff_multiplier, 2.0, 1.0..=100.0),
            max_recovery_timeout,
            success_threshold: self.count(&raw.success_threshold, 2, 1..=1000),
            probes: self.count(&raw.probes, 1, 1..=1000),
            probe_lease: Duration::ZERO,
            ramp: self.length(&raw.ramp, 10 * SECOND, Duration::ZERO..=HOUR),
            mode: raw.mode.map_or(EnforcementMode::Enforce, |at| at.value.0),
            shared: self.shared(&raw.shared),
        };
        Breaker {
            name: name.to_owned(),
            scope: raw.scope.map_or(Scope::Address, |at| at.value.0),
            policy,
        }
    }

    fn failure_rate(&mut self, at: &Option<At<TextOr<RawFailureRate>>>) -> Option<RateRule> {
        let none = RawFailureRate { above: None, over: None, min_requests: None };
        let raw = match at.as_ref().map(|at| (at.id, &at.value)) {
            None => &none,
            Some((_, TextOr::Keys(raw))) => raw,
            Some((id, TextOr::Text(word))) => return self.off(id, word),
        };
        Some(RateRule {
            above: self.share(&raw.above, 0.5),
            over: self.length(&raw.over, 30 * SECOND, SECOND..=HOUR),
            min_requests: self.count(&raw.min_requests, 20, 1..=1_000_000),
        })
    }

    fn slow_rate(&mut self, at: &Option<At<TextOr<RawSlowRate>>>) -> Option<SlowRule> {
        let raw = match at.as_ref().map(|at| (at.id, &at.value)) {
            None => return None,
            Some((_, TextOr::Keys(raw))) => raw,
            Some((id, TextOr::Text(word))) => return self.off(id, word),
        };
        Some(SlowRule {
            slower_than: self.length(&raw.slower_than, 20 * SECOND, MS..=HOUR),
            above: self.share(&raw.above, 0.8),
            over: self.length(&raw.over, 30 * SECOND, SECOND..=HOUR),
            min_requests: self.count(&raw.min_requests, 20, 1..=1_000_000),
        })
    }

    fn shared(&mut self, at: &Option<At<SwitchOr<RawShared>>>) -> Option<Quorum> {
        let usual = RawShared::default();
        let raw = match at.as_ref().map(|at| &at.value) {
            Some(SwitchOr::Switch(false)) => return None,
            Some(SwitchOr::Keys(raw)) => raw,
            Some(SwitchOr::Switch(true)) | None => &usual,
        };
        Some(Quorum {
            hosts: self.count(&raw.quorum, 2, 1..=1000),
            fraction: self.share(&raw.fraction, 0.3),
        })
    }

    fn off<T>(&mut self, id: crate::policy::yaml::tree::NodeId, word: &str) -> Option<T> {
        if word != "none" {
            self.error(id, format!("expected `none` or keys with values, found `{word}`"));
        }
        None
    }
}
