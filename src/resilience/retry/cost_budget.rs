//! Cost budget: a limit on what retries cost.
//!
//! The retry budget counts retries, but a retry of a long prompt costs more than one of a
//! short prompt. Where tokens have a price, the cost of retries and hedges is summed over a
//! window, and past the limit none is made until enough of it has expired. A cost is known
//! only when its attempt ends: attempts in flight when the limit is reached still add to it.
//!
//! The window slides by tenths, as in [`super::budget`]: a cost counts for the window and up
//! to a tenth more, never for less. The sum is recomputed each time: subtracting from a
//! running sum would accumulate rounding errors of small amounts beside large ones.

use crate::resilience::stats::time_buckets::TimeBuckets;
use std::time::{Duration, Instant};

/// Ten whole tenths and the current one.
const TENTHS: usize = 11;

/// Bounds are checked by `policy::validate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostBudgetPolicy {
    /// In the currency of the prices; above 0.
    pub limit: f64,
    pub window: Duration,
}

/// One for each route that has a limit.
#[derive(Clone, Debug)]
pub struct CostBudget {
    policy: CostBudgetPolicy,
    tenths: TimeBuckets<f64, TENTHS>,
}

impl CostBudget {
    pub fn new(policy: CostBudgetPolicy) -> Self {
        Self { policy, tenths: TimeBuckets::new(policy.window / 10) }
    }

    /// Takes another policy; costs are kept, and count as of now under a new window.
    pub fn retune(&mut self, policy: CostBudgetPolicy) {
        if policy.window != self.policy.window {
            let spent = self.tenths.all().iter().sum();
            self.tenths.resize(policy.window / 10, spent);
        }
        self.policy = policy;
    }

    /// Adds the cost of a retry or hedge.
    pub fn add(&mut self, cost: f64, now: Instant) {
        *self.tenths.advance(now, |_| ()) += cost.max(0.0);
    }

    /// Whether another retry is within the limit.
    pub fn allows_retry(&self, now: Instant) -> bool {
        self.remaining(now) > 0.0
    }

    /// The remaining amount; never below 0.
    pub fn remaining(&self, now: Instant) -> f64 {
        (self.policy.limit - self.tenths.current(now).sum::<f64>()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: CostBudgetPolicy =
        CostBudgetPolicy { limit: 5.0, window: Duration::from_secs(3_600) };

    #[test]
    fn past_the_limit_no_retry_is_allowed_until_costs_expire() {
        let (t0, mut budget) = (Instant::now(), CostBudget::new(POLICY));
        budget.add(4.5, t0);
        assert_eq!((budget.allows_retry(t0), budget.remaining(t0)), (true, 0.5));
        budget.add(2.0, t0);
        assert_eq!((budget.allows_retry(t0), budget.remaining(t0)), (false, 0.0));
        assert!(!budget.allows_retry(t0 + POLICY.window));
        assert_eq!(budget.remaining(t0 + POLICY.window.mul_f64(1.1)), 5.0);
    }

    #[test]
    fn a_cost_that_is_not_positive_changes_nothing() {
        let (t0, mut budget) = (Instant::now(), CostBudget::new(POLICY));
        [0.0, -1.0, f64::NAN, f64::NEG_INFINITY].iter().for_each(|cost| budget.add(*cost, t0));
        assert_eq!(budget.remaining(t0), 5.0);
    }

    #[test]
    fn retuning_keeps_the_costs() {
        let (t0, mut budget) = (Instant::now(), CostBudget::new(POLICY));
        budget.add(1.0, t0);
        budget.add(3.0, t0 + POLICY.window / 2);
        budget.retune(CostBudgetPolicy { limit: 4.0, ..POLICY });
        assert!(!budget.allows_retry(t0 + POLICY.window / 2));
        let window = Duration::from_secs(60);
        budget.retune(CostBudgetPolicy { limit: 4.0, window });
        assert!(!budget.allows_retry(t0 + POLICY.window / 2 + window));
        assert_eq!(budget.remaining(t0 + POLICY.window / 2 + window * 2), 4.0);
    }

    proptest! {
        #[test]
        fn a_cost_counts_for_the_window_and_at_most_a_tenth_more(
            window_ms in 10u64..20_000,
            steps in prop::collection::vec((0u64..3_000, 0u32..1_000), 1..100),
        ) {
            let window = Duration::from_millis(window_ms);
            // Whole numbers, so that sums are exact.
            let limit = 1e9;
            let (mut now, mut budget) = (Instant::now(), CostBudget::new(CostBudgetPolicy { limit, window }));
            let mut all = Vec::new();
            for (ms, cost) in steps {
                budget.add(f64::from(cost), now);
                all.push((now, f64::from(cost)));
                now += Duration::from_millis(ms);
                let spent_within = |span: Duration| {
                    let inside = all.iter().filter(|(at, _)| now - *at < span);
                    inside.map(|(_, cost)| cost).sum::<f64>()
                };
                let spent = limit - budget.remaining(now);
                prop_assert!(spent >= spent_within(window + Duration::from_nanos(1)));
                prop_assert!(spent <= spent_within(window + window / 10));
            }
        }
    }
}
