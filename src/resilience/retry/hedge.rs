//! Hedging: when a slow request is sent a second time, to another endpoint; the first response
//! wins.
//!
//! A few requests take many times as long as the others, for reasons of their moment and
//! place. Sent again once they are slower than nearly all others, they finish nearly as fast,
//! for a load that grows only by the share of slow requests (Dean and Barroso, "The Tail at
//! Scale", 2013).
//!
//! - `extra_load` controls both: a hedge goes after the percentile `1 - extra_load` of the
//!   route's own latency (over the last minute; none while that has fewer than 100 samples),
//!   or after `after`.
//! - If a whole provider becomes slow, all its requests exceed that percentile. So each hedge
//!   is paid for from a budget of `extra_load` of the requests of the last 10 s: over any run
//!   `hedges <= extra_load * firsts`. Finagle's BackupRequestFilter does both.
//! - The budget has no floor: a route with a request a minute is not hedged at 2 %.

use super::budget::{RetryBudget, RetryBudgetPolicy};
use crate::resilience::stats::latency_sketch::LatencySketch;
use std::time::{Duration, Instant};

const MIN_SAMPLES: u64 = 100;

/// Bounds are checked by `policy::validate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgePolicy {
    /// Hedges for each request; above 0, at most 1.
    pub extra_load: f64,
    /// `None`: after the percentile `1 - extra_load` of the route's own latency.
    pub after: Option<Duration>,
}

/// One for each route.
#[derive(Clone, Debug)]
pub struct Hedge {
    policy: HedgePolicy,
    latencies: LatencySketch,
    budget: RetryBudget,
}

impl HedgePolicy {
    fn budget(&self) -> RetryBudgetPolicy {
        let window = Duration::from_secs(10);
        RetryBudgetPolicy { ratio: self.extra_load, min_per_second: 0.0, window }
    }
}

impl Hedge {
    pub fn new(policy: HedgePolicy) -> Self {
        Self {
            policy,
            latencies: LatencySketch::default(),
            budget: RetryBudget::new(policy.budget()),
        }
    }

    /// Takes another policy; samples and budget are kept.
    pub fn retune(&mut self, policy: HedgePolicy) {
        self.budget.retune(policy.budget());
        self.policy = policy;
    }

    /// Counts one request: it earns `extra_load` of a hedge.
    pub fn record_request(&mut self, now: Instant) {
        self.budget.deposit(now);
    }

    /// Records the latency of a first attempt; one that lost to its hedge counts with its
    /// time until then, or the percentile would sink with every hedge.
    pub fn record_latency(&mut self, took: Duration, now: Instant) {
        self.latencies.record(took, now);
    }

    /// How long an attempt may take before it is hedged; `None`: it is not hedged.
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        let measured = || self.latencies.quantile(1.0 - self.policy.extra_load, MIN_SAMPLES, now);
        self.policy.after.or_else(measured)
    }

    /// Takes one hedge from the budget; false if it is empty.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.budget.withdraw(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: HedgePolicy = HedgePolicy { extra_load: 0.02, after: None };

    fn measured(samples: u64, now: Instant) -> Hedge {
        let mut hedge = Hedge::new(POLICY);
        (1..=samples).for_each(|n| hedge.record_latency(Duration::from_millis(n), now));
        hedge
    }

    #[test]
    fn too_few_samples_give_no_delay() {
        let now = Instant::now();
        assert_eq!(measured(99, now).delay(now), None);
        let delay = measured(100, now).delay(now).unwrap().as_secs_f64();
        assert!((delay / 0.098 - 1.0).abs() < 0.05, "{delay}");
        assert_eq!(measured(100, now).delay(now + Duration::from_secs(60)), None);
    }

    #[test]
    fn a_fixed_delay_needs_no_samples() {
        let (now, after) = (Instant::now(), Some(Duration::from_millis(700)));
        let hedge = Hedge::new(HedgePolicy { after, ..POLICY });
        assert_eq!(hedge.delay(now), after);
    }

    #[test]
    fn fifty_requests_pay_for_a_hedge_of_2_percent() {
        let (now, mut hedge) = (Instant::now(), Hedge::new(POLICY));
        (0..49).for_each(|_| hedge.record_request(now));
        assert!(!hedge.withdraw(now));
        hedge.record_request(now);
        assert!(hedge.withdraw(now));
        assert!(!hedge.withdraw(now));
        assert!(!hedge.withdraw(now + Duration::from_secs(3_600)));
    }

    #[test]
    fn retuning_keeps_samples_and_budget() {
        let now = Instant::now();
        let mut hedge = measured(200, now);
        (0..50).for_each(|_| hedge.record_request(now));
        assert!(hedge.withdraw(now));
        hedge.retune(HedgePolicy { extra_load: 0.5, after: None });
        let delay = hedge.delay(now).unwrap().as_secs_f64();
        assert!((delay / 0.1 - 1.0).abs() < 0.05, "{delay}");
        assert_eq!((0..50).filter(|_| hedge.withdraw(now)).count(), 24);
    }

    #[test]
    fn hedges_of_a_slow_provider_stay_within_the_budget() {
        let (t0, mut hedge) = (Instant::now(), measured(1_000, Instant::now()));
        let slow = (0..1_000u32).map(|n| t0 + Duration::from_millis(10) * n);
        let hedges = slow.filter(|now| {
            hedge.record_request(*now);
            hedge.delay(*now).is_some() && hedge.withdraw(*now)
        });
        assert_eq!(hedges.count(), 20);
    }

    proptest! {
        #[test]
        fn hedges_never_exceed_their_share_of_requests(
            extra_load in 0.001..=1.0f64,
            steps in prop::collection::vec((0u64..4_000, 0usize..100, 0usize..20), 1..200),
        ) {
            let mut hedge = Hedge::new(HedgePolicy { extra_load, after: None });
            let (mut now, mut firsts, mut hedges) = (Instant::now(), 0, 0);
            for (ms, requests, wanted) in steps {
                now += Duration::from_millis(ms);
                (0..requests).for_each(|_| hedge.record_request(now));
                firsts += requests;
                hedges += (0..wanted).filter(|_| hedge.withdraw(now)).count();
                prop_assert!(hedges as f64 <= extra_load * firsts as f64 + 1e-6);
            }
        }
    }
}
