//! Retry budget: how many attempts beyond the first a route may make.
//!
//! A maximum per request does not protect a provider in trouble: three attempts each are three
//! times the load exactly when everything fails. A budget ties retries to the traffic itself,
//! so total failure costs `ratio` more load and not a multiple of it (Google SRE book,
//! "Handling Overload"; Finagle's and tower's retry budgets).
//!
//! A retry is allowed while, including it, the retries of the window are at most `ratio *
//! first attempts of the window + min_per_second * window`. The second term, the *floor*, lets
//! a quiet route retry at all.
//!
//! The window slides by tenths: it spans the last ten whole tenths and the current one, so
//! between one window and a tenth more. Hence over any run `retries <= ratio * firsts +
//! min_per_second * elapsed + floor` holds exactly, while in one sliding window the first
//! attempts of up to one tenth before it may count.

use crate::resilience::stats::time_buckets::TimeBuckets;
use std::time::{Duration, Instant};

/// Ten whole tenths and the current one.
const TENTHS: usize = 11;

/// Bounds are checked by `policy::validate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudgetPolicy {
    /// Retries for each first attempt.
    pub ratio: f64,
    /// Retries per second that are allowed without any traffic.
    pub min_per_second: f64,
    pub window: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct BudgetCounts {
    firsts: u64,
    retries: u64,
}

/// One for each route.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    policy: RetryBudgetPolicy,
    tenths: TimeBuckets<BudgetCounts, TENTHS>,
}

impl RetryBudgetPolicy {
    fn tenth(&self) -> Duration {
        self.window / 10
    }

    fn allowance(&self, firsts: u64) -> f64 {
        self.ratio * firsts as f64 + self.min_per_second * self.window.as_secs_f64()
    }
}

impl RetryBudget {
    pub fn new(policy: RetryBudgetPolicy) -> Self {
        Self { policy, tenths: TimeBuckets::new(policy.tenth()) }
    }

    /// Takes another policy; counts are kept, and count as of now under a new window.
    pub fn retune(&mut self, policy: RetryBudgetPolicy) {
        if policy.window != self.policy.window {
            let all = sum(self.tenths.all());
            self.tenths.resize(policy.tenth(), all);
        }
        self.policy = policy;
    }

    /// Counts one first attempt.
    pub fn deposit(&mut self, now: Instant) {
        self.tenths.advance(now, |_| ()).firsts += 1;
    }

    /// Counts one retry, if it is allowed.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let BudgetCounts { firsts, retries } = sum(self.tenths.current(now));
        let allowed = (retries + 1) as f64 <= self.policy.allowance(firsts);
        self.tenths.advance(now, |_| ()).retries += u64::from(allowed);
        allowed
    }

    /// Remaining retries; below 1, none is allowed.
    pub fn balance(&self, now: Instant) -> f64 {
        let BudgetCounts { firsts, retries } = sum(self.tenths.current(now));
        (self.policy.allowance(firsts) - retries as f64).max(0.0)
    }
}

fn sum<'a>(tenths: impl IntoIterator<Item = &'a BudgetCounts>) -> BudgetCounts {
    tenths.into_iter().fold(BudgetCounts::default(), |sum, tenth| BudgetCounts {
        firsts: sum.firsts + tenth.firsts,
        retries: sum.retries + tenth.retries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryBudgetPolicy =
        RetryBudgetPolicy { ratio: 0.2, min_per_second: 1.0, window: Duration::from_secs(10) };

    fn drain(budget: &mut RetryBudget, now: Instant) -> usize {
        std::iter::repeat_with(|| budget.withdraw(now)).take_while(|allowed| *allowed).count()
    }

    #[test]
    fn a_quiet_route_has_the_floor() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        assert_eq!(budget.balance(t0), 10.0);
        assert_eq!(drain(&mut budget, t0), 10);
        assert_eq!(budget.balance(t0), 0.0);
    }

    #[test]
    fn traffic_earns_retries() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        (0..100).for_each(|_| budget.deposit(t0));
        assert_eq!(drain(&mut budget, t0), 30);
    }

    #[test]
    fn expired_attempts_neither_earn_nor_cost() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        (0..100).for_each(|_| budget.deposit(t0));
        drain(&mut budget, t0);
        assert!(!budget.withdraw(t0 + Duration::from_millis(10_999)));
        assert_eq!(budget.balance(t0 + Duration::from_secs(11)), 10.0);
        assert_eq!(drain(&mut budget, t0 + Duration::from_secs(3_600)), 10);
    }

    #[test]
    fn a_clock_that_steps_back_changes_nothing() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        let later = t0 + Duration::from_secs(5);
        budget.deposit(t0);
        assert_eq!(drain(&mut budget, later), 10);
        assert!(!budget.withdraw(t0));
    }

    #[test]
    fn a_zero_budget_allows_nothing() {
        let none = RetryBudgetPolicy { ratio: 0.0, min_per_second: 0.0, window: Duration::ZERO };
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(none));
        budget.deposit(t0);
        assert!(!budget.withdraw(t0));
    }

    #[test]
    fn retuning_does_not_refill() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        let later = t0 + Duration::from_secs(7);
        drain(&mut budget, later);
        budget.retune(RetryBudgetPolicy { window: Duration::from_secs(5), ..POLICY });
        assert!(!budget.withdraw(later));
        budget.retune(RetryBudgetPolicy { ratio: 0.5, ..POLICY });
        assert!(!budget.withdraw(later));
        assert_eq!(budget.balance(later + Duration::from_secs(12)), 10.0);
    }

    #[test]
    fn total_failure_costs_the_ratio_and_not_a_multiple() {
        let (t0, mut budget) = (Instant::now(), RetryBudget::new(POLICY));
        let (offered, seconds, max_attempts) = (3_000u32, 30.0, 3);
        let mut attempts = 0;
        for request in 0..offered {
            let now = t0 + Duration::from_millis(10) * request;
            budget.deposit(now);
            attempts += 1;
            attempts += (1..max_attempts).take_while(|_| budget.withdraw(now)).count();
        }
        let floor = 10.0;
        assert!(attempts as f64 <= 1.2 * f64::from(offered) + seconds + floor, "{attempts}");
        assert!(attempts as f64 > 1.18 * f64::from(offered), "{attempts}");
    }

    proptest! {
        #[test]
        fn a_run_never_retries_more_than_it_earned(
            ratio in 0.0..2.0f64,
            min_per_second in 0.0..5.0f64,
            window_ms in 1u64..20_000,
            steps in prop::collection::vec((0u64..3_000, 0usize..20, 0usize..20), 1..200),
        ) {
            let window = Duration::from_millis(window_ms);
            let policy = RetryBudgetPolicy { ratio, min_per_second, window };
            let t0 = Instant::now();
            let (mut now, mut budget, mut firsts, mut retries) = (t0, RetryBudget::new(policy), 0, 0);
            for (ms, deposits, withdrawals) in steps {
                now += Duration::from_millis(ms);
                (0..deposits).for_each(|_| budget.deposit(now));
                firsts += deposits;
                retries += (0..withdrawals).filter(|_| budget.withdraw(now)).count();
                let earned = ratio * firsts as f64
                    + min_per_second * ((now - t0) + window).as_secs_f64();
                prop_assert!(retries as f64 <= earned + 1e-6, "{retries} > {earned}");
            }
        }

        #[test]
        fn a_sliding_window_holds_within_one_tenth(
            window_ms in 10u64..20_000,
            steps in prop::collection::vec((0u64..3_000, 0usize..20, 0usize..20), 1..100),
        ) {
            let window = Duration::from_millis(window_ms);
            let policy = RetryBudgetPolicy { window, ..POLICY };
            let (mut now, mut budget) = (Instant::now(), RetryBudget::new(policy));
            let (mut firsts, mut retries) = (Vec::new(), Vec::new());
            for (ms, deposits, withdrawals) in steps {
                now += Duration::from_millis(ms);
                (0..deposits).for_each(|_| { budget.deposit(now); firsts.push(now); });
                let made = (0..withdrawals).filter(|_| budget.withdraw(now)).count();
                retries.extend(std::iter::repeat_n(now, made));
                if made > 0 {
                    let within = |at: &&Instant, span| now.duration_since(**at) <= span;
                    let paid = retries.iter().filter(|at| within(at, window)).count();
                    let earned = firsts.iter().filter(|at| within(at, window + policy.tenth()));
                    let allowed = policy.allowance(earned.count() as u64);
                    prop_assert!(paid as f64 <= allowed + 1e-6, "{paid} > {allowed}");
                }
            }
        }
    }
}
