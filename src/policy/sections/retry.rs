//! The section `retries`: when an attempt is repeated, how soon, and what that may cost.

use std::time::Duration;

use crate::policy::section::{Checker, OrNone, Share, defaults, section, texts, words};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{self, HOUR, MS, SECOND, SPANS, Spend, show_duration};
use crate::resilience::outcome::{AttemptClass, ClassSet};
use crate::resilience::retry::backoff::{BackoffPolicy, Jitter};
use crate::resilience::retry::budget::RetryBudgetPolicy;
use crate::resilience::retry::cost_budget::CostBudgetPolicy;

use super::response::ClassNames;

section! {
    /// When an attempt is repeated; all values below have defaults, also in the entry `default`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Retry, finish longest_delay_last {
        /// Attempts at the route's `providers`, the first one included.
        max_attempts: u32 = 3, in 1..=100;
        /// After that, attempts at each of `fallback`.
        fallback_attempts: u32 = 1, in 1..=100;
        /// The longest wait for a provider in `providers`. If the wait would be longer, the request moves to `fallback`.
        patience: Duration = 5 * SECOND, in Duration::ZERO..=HOUR;
        /// Delay before the first retry at the same endpoint.
        initial_delay: Duration = 100 * MS, in Duration::ZERO..=HOUR;
        /// The longest delay.
        max_delay: Duration = 10 * SECOND, in Duration::ZERO..=HOUR;
        /// The delay grows by this factor with each retry.
        backoff_multiplier: f64 = 2.0, in 1.0..=100.0;
        /// How the delay is spread: `full` from 0 to the delay, `equal` from half of it, `none` not at all.
        jitter: Jitter = Jitter::Full;
        /// Classes after which an attempt is repeated.
        retry_on: ClassSet as RetryOn = RETRY_ON;
        /// Whether `Retry-After` sets the delay.
        respect_retry_after: bool = true;
        /// A limit on all retries, hedges and fallbacks of a route together.
        budget: Budget;
    }
    computed {
        /// Its name under `retries`.
        name: String = "default".to_owned();
    }
}

section! {
    /// A limit on all attempts of a route beyond the first of each request.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Budget {
        /// Retries allowed for each first attempt.
        ratio: f64 as Share = 0.2;
        /// Retries per second that are always allowed.
        min_per_second: f64 = 1.0, in 0.0..=100_000.0;
        /// The time over which both are counted.
        window: Duration = 10 * SECOND, in SECOND..=HOUR;
        /// Limit on the cost of retries and hedges per time unit, at the providers' prices.
        cost: Option<Cost> as OrNone<Cost>;
    }
}

const RETRY_ON: ClassSet =
    ClassSet::of(&[AttemptClass::Unsent, AttemptClass::Failure, AttemptClass::Throttled]);

/// The classes after which an attempt may be repeated.
#[derive(Debug)]
pub struct RetryOn;

impl ClassNames for RetryOn {
    const ALLOWED: &'static [AttemptClass] = {
        use AttemptClass::*;
        &[Unsent, Failure, Throttled, Credential]
    };
}

words!(for Jitter: &Jitter::ALL);

impl Retry {
    /// `retry: none`.
    pub fn none() -> Retry {
        let (name, retry_on) = ("none".to_owned(), ClassSet::of(&[]));
        Retry { name, max_attempts: 1, retry_on, ..defaults() }
    }

    /// Whether it is `none`: the policy allows no retry.
    pub fn is_none(&self) -> bool {
        self.name == "none"
    }

    pub fn backoff(&self) -> BackoffPolicy {
        BackoffPolicy {
            initial: self.initial_delay,
            max: self.max_delay,
            multiplier: self.backoff_multiplier,
            jitter: self.jitter,
        }
    }
}

impl Budget {
    pub fn policy(&self) -> RetryBudgetPolicy {
        let Budget { ratio, min_per_second, window, .. } = *self;
        RetryBudgetPolicy { ratio, min_per_second, window }
    }
}

fn longest_delay_last(retry: &mut Retry, node: NodeId, check: &mut Checker<'_>) {
    let times = [retry.initial_delay, retry.max_delay];
    check.in_order(node, ["initial_delay", "max_delay"], times);
}

/// A bound on what retries cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub policy: CostBudgetPolicy,
    /// Three capital letters (ISO 4217).
    pub currency: String,
}

texts! {
    impl Cost for Cost: "a cost like `5 USD/h`", ValueShape::Scalar("cost", serde_json::json!({
        "description": "`5 USD/h`, `0.25 EUR/min`, `40 USD/day`", "type": "string",
        "pattern": "^[0-9.]+ [A-Z]{3}/(s|min|h|day)$",
    })), cost, |cost: &Cost| {
        let window = cost.policy.window;
        let span = SPANS.into_iter().find(|(_, seconds)| Duration::from_secs(*seconds) == window);
        let span = span.map_or_else(|| show_duration(window), |(name, _)| name.to_owned());
        format!("{} {}/{span}", cost.policy.limit, cost.currency)
    };
}

fn cost(text: &str) -> Result<Cost, String> {
    let Spend { amount, currency, per } = units::spend(text)?;
    if amount <= 0.0 {
        return Err("a cost of 0: expected more (`retry: none` switches retries off)".to_owned());
    }
    let policy = CostBudgetPolicy { limit: amount, window: per };
    Ok(Cost { policy, currency: currency.iter().collect() })
}
