//! What repeats cost, against what they may cost.
//!
//! A budget counts repeats, and a repeat of a long prompt is not one of a short one. Where tokens
//! have a price, what repeats and hedges came to is added up over a window, and past the limit none
//! is made until enough of it is forgotten. A cost is known when the attempt is over: those that
//! are out when the limit is met still come on top.
//!
//! The window slides by tenths, as in [`super::budget`]: what was spent counts for the window and up
//! to a tenth more, never for less. Its sum is made anew each time: taken from a running
//! one, small amounts beside large ones would leave something behind, and never less than nothing.

use crate::resilience::stats::time_buckets::TimeBuckets;
use std::time::{Duration, Instant};

/// Ten that are whole and the one under way.
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
    slices: TimeBuckets<TENTHS>,
    tenths: [f64; TENTHS],
}

impl CostBudget {
    pub fn new(policy: CostBudgetPolicy) -> Self {
        Self { policy, slices: TimeBuckets::new(policy.window / 10), tenths: [0.0; TENTHS] }
    }

    /// What was spent stays spent; under a new window it counts as of now.
    pub fn retune(&mut self, policy: CostBudgetPolicy) {
        if policy.window != self.policy.window {
            let spent = self.tenths.iter().sum();
            self.slices.recut(policy.window / 10);
            self.tenths = [0.0; TENTHS];
            self.tenths[self.slices.head()] = spent;
        }
        self.policy = policy;
    }

    /// A repeat cost this much.
    pub fn add(&mut self, cost: f64, now: Instant) {
        self.slices.advance(now).for_each(|slot| self.tenths[slot] = 0.0);
        self.tenths[self.slices.head()] += cost.max(0.0);
    }

    /// Whether another repeat may be paid for.
    pub fn allows_retry(&self, now: Instant) -> bool {
        self.remaining(now) > 0.0
    }

    /// What may be spent yet; never below 0.
    pub fn remaining(&self, now: Instant) -> f64 {
        let mut tenths = self.tenths;
        self.slices.gone(now).for_each(|slot| tenths[slot] = 0.0);
        (self.policy.limit - tenths.iter().sum::<f64>()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: CostBudgetPolicy =
        CostBudgetPolicy { limit: 5.0, window: Duration::from_secs(3_600) };

    #[test]
    fn past_the_limit_nothing_may_be_spent_until_it_is_forgotten() {
        let (t0, mut spend) = (Instant::now(), CostBudget::new(POLICY));
        spend.add(4.5, t0);
        assert_eq!((spend.allows_retry(t0), spend.remaining(t0)), (true, 0.5));
        spend.add(2.0, t0);
        assert_eq!((spend.allows_retry(t0), spend.remaining(t0)), (false, 0.0));
        assert!(!spend.allows_retry(t0 + POLICY.window));
        assert_eq!(spend.remaining(t0 + POLICY.window.mul_f64(1.1)), 5.0);
    }

    #[test]
    fn what_costs_nothing_or_is_no_number_changes_nothing() {
        let (t0, mut spend) = (Instant::now(), CostBudget::new(POLICY));
        [0.0, -1.0, f64::NAN, f64::NEG_INFINITY].iter().for_each(|cost| spend.add(*cost, t0));
        assert_eq!(spend.remaining(t0), 5.0);
    }

    #[test]
    fn retuning_forgets_nothing() {
        let (t0, mut spend) = (Instant::now(), CostBudget::new(POLICY));
        spend.add(1.0, t0);
        spend.add(3.0, t0 + POLICY.window / 2);
        spend.retune(CostBudgetPolicy { limit: 4.0, ..POLICY });
        assert!(!spend.allows_retry(t0 + POLICY.window / 2));
        let window = Duration::from_secs(60);
        spend.retune(CostBudgetPolicy { limit: 4.0, window });
        assert!(!spend.allows_retry(t0 + POLICY.window / 2 + window));
        assert_eq!(spend.remaining(t0 + POLICY.window / 2 + window * 2), 4.0);
    }

    proptest! {
        #[test]
        fn it_counts_for_the_window_and_at_most_a_tenth_more(
            window_ms in 10u64..20_000,
            steps in prop::collection::vec((0u64..3_000, 0u32..1_000), 1..100),
        ) {
            let window = Duration::from_millis(window_ms);
            // Whole numbers, whose sums are exact.
            let limit = 1e9;
            let (mut now, mut spend) = (Instant::now(), CostBudget::new(CostBudgetPolicy { limit, window }));
            let mut all = Vec::new();
            for (ms, cost) in steps {
                spend.add(f64::from(cost), now);
                all.push((now, f64::from(cost)));
                now += Duration::from_millis(ms);
                let spent_within = |span: Duration| {
                    let inside = all.iter().filter(|(at, _)| now - *at < span);
                    inside.map(|(_, cost)| cost).sum::<f64>()
                };
                let spent = limit - spend.remaining(now);
                prop_assert!(spent >= spent_within(window + Duration::from_nanos(1)));
                prop_assert!(spent <= spent_within(window + window / 10));
            }
        }
    }
}
