//! Latency estimate of an endpoint, as the balancer should assume it.
//!
//! Peak EWMA (Finagle): a slower attempt counts at once, a faster one only gradually (time
//! constant 10 s), so an endpoint that begins to stall loses its traffic after one attempt,
//! not after an average has moved. Between attempts the estimate decays with the same
//! constant: an avoided endpoint becomes worth another try.
//!
//! Failures must count as slow. An endpoint that fails in 1 ms would otherwise be the fastest
//! and attract all traffic. So each failure sets a *penalty* of at least 1 s and ten times the
//! estimate, and each success takes nine tenths of it away. It is kept apart from the average,
//! so that one failure among many successes does not leave a false latency behind.
//!
//! - Only an attempt that began after the last penalty multiplies it: a hundred attempts that
//!   are cut off together are one event.
//! - The limit is 10,000 s and not some timeout, since the balancer multiplies by the pending
//!   attempts: compared with 200 pending attempts of 5 s a penalty of 30 s looks cheap. Recovery is
//!   still quick: 10 s without attempts take away a factor of e.

use std::time::{Duration, Instant};

const TIME_CONSTANT: Duration = Duration::from_secs(10);
const LEAST_PENALTY: f64 = 1e9;
const MOST_PENALTY: f64 = 1e13;
const PENALTY_FACTOR: f64 = 10.0;

/// One for each endpoint. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    nanos: f64,
    penalty: f64,
    /// When both values were current; none: never measured.
    at: Option<Instant>,
    penalised: Option<Instant>,
}

impl PeakEwma {
    /// An attempt got its first byte after `took`.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_nanos() as f64;
        let decay = self.decay(now);
        let decayed = self.nanos * decay;
        self.nanos = if self.at.is_none() || took >= decayed {
            took
        } else {
            decayed + took * (1.0 - decay)
        };
        self.penalty *= decay / PENALTY_FACTOR;
        self.set_time(now);
    }

    /// An attempt failed or was throttled after `took`.
    pub fn penalise(&mut self, took: Duration, now: Instant) {
        let fresh = self.penalised.is_none_or(|at| now.saturating_duration_since(at) >= took);
        let factor = if fresh { PENALTY_FACTOR } else { 1.0 };
        let (estimate, decay) = (self.estimate(now), self.decay(now));
        let slow = (estimate * factor).max(took.as_nanos() as f64);
        self.nanos *= decay;
        self.penalty = slow.clamp(LEAST_PENALTY, MOST_PENALTY);
        self.set_time(now);
        self.penalised = self.at;
    }

    /// Expected nanoseconds of the next attempt; 0 only if none was ever measured.
    pub fn estimate(&self, now: Instant) -> f64 {
        match self.at {
            Some(_) => (self.nanos.max(self.penalty) * self.decay(now)).max(1.0),
            None => 0.0,
        }
    }

    /// The average without penalties, as of the last attempt; none before the first.
    pub fn measured(&self) -> Option<Duration> {
        (self.nanos > 0.0).then(|| Duration::from_nanos(self.nanos as u64))
    }

    /// The share of a value that remains after its age, in [0, 1].
    fn decay(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (-age.as_secs_f64() / TIME_CONSTANT.as_secs_f64()).exp()
    }

    fn set_time(&mut self, now: Instant) {
        self.at = self.at.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAST: Duration = Duration::from_millis(50);

    fn seconds(estimate: f64) -> f64 {
        (estimate / 1e6).round() / 1e3
    }

    fn measured(took: Duration, now: Instant) -> PeakEwma {
        let mut latency = PeakEwma::default();
        latency.observe(took, now);
        latency
    }

    #[test]
    fn the_estimate_is_zero_only_without_measurements() {
        let t0 = Instant::now();
        assert_eq!(PeakEwma::default().estimate(t0), 0.0);
        let latency = measured(Duration::ZERO, t0);
        assert!(latency.estimate(t0 + Duration::from_secs(3_600)) > 0.0);
    }

    #[test]
    fn a_peak_counts_at_once_and_decays_slowly() {
        let t0 = Instant::now();
        let mut latency = measured(FAST, t0);
        latency.observe(Duration::from_secs(2), t0);
        assert_eq!(seconds(latency.estimate(t0)), 2.0);
        latency.observe(FAST, t0 + Duration::from_secs(1));
        let after_one = seconds(latency.estimate(t0 + Duration::from_secs(1)));
        assert!((1.8..2.0).contains(&after_one), "{after_one}");
    }

    #[test]
    fn a_steady_latency_is_the_estimate() {
        let (t0, mut latency) = (Instant::now(), PeakEwma::default());
        for step in 0..100 {
            latency.observe(FAST, t0 + FAST * step);
        }
        assert_eq!(seconds(latency.estimate(t0 + FAST * 99)), 0.05);
    }

    #[test]
    fn the_estimate_decays_by_e_in_ten_seconds() {
        let t0 = Instant::now();
        let latency = measured(Duration::from_secs(1), t0);
        assert_eq!(seconds(latency.estimate(t0 + TIME_CONSTANT)), 0.368);
    }

    #[test]
    fn a_fast_failure_counts_as_slow() {
        let t0 = Instant::now();
        let mut latency = measured(FAST, t0);
        latency.penalise(Duration::from_millis(1), t0);
        assert_eq!(seconds(latency.estimate(t0)), 1.0);
    }

    #[test]
    fn a_slow_failure_counts_with_its_time() {
        let t0 = Instant::now();
        let mut latency = measured(FAST, t0);
        latency.penalise(Duration::from_secs(60), t0);
        assert_eq!(seconds(latency.estimate(t0)), 60.0);
    }

    #[test]
    fn consecutive_failures_multiply_the_penalty_up_to_the_limit() {
        let (t0, mut latency) = (Instant::now(), PeakEwma::default());
        let estimates = [0u32; 6].map(|_| {
            latency.penalise(Duration::ZERO, t0);
            seconds(latency.estimate(t0))
        });
        assert_eq!(estimates, [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 10_000.0]);
    }

    #[test]
    fn attempts_that_fail_together_count_once() {
        let t0 = Instant::now();
        let mut latency = measured(FAST, t0);
        for _ in 0..100 {
            latency.penalise(Duration::from_millis(20), t0);
        }
        assert_eq!(seconds(latency.estimate(t0)), 1.0);
    }

    #[test]
    fn successes_remove_a_penalty_and_keep_the_average() {
        let t0 = Instant::now();
        let mut latency = measured(FAST, t0);
        latency.penalise(Duration::from_millis(1), t0);
        latency.observe(FAST, t0);
        assert_eq!(seconds(latency.estimate(t0)), 0.1);
        latency.observe(FAST, t0);
        assert_eq!(seconds(latency.estimate(t0)), 0.05);
    }

    #[test]
    fn recovery_from_the_limit_takes_about_two_minutes() {
        let t0 = Instant::now();
        let mut latency = measured(Duration::from_secs(10_000), t0);
        latency.penalise(Duration::MAX, t0);
        assert!(seconds(latency.estimate(t0 + Duration::from_secs(125))) < 0.05);
    }

    proptest! {
        #[test]
        fn the_estimate_stays_within_its_bounds(
            steps in prop::collection::vec((any::<bool>(), 0u64..100_000, 0u64..30_000), 1..100)
        ) {
            let (mut now, mut latency) = (Instant::now(), PeakEwma::default());
            let mut slowest = LEAST_PENALTY;
            for (failed, took, ms) in steps {
                let took = Duration::from_millis(took);
                slowest = f64::max(slowest, took.as_nanos() as f64);
                if failed {
                    latency.penalise(took, now);
                    prop_assert!(latency.estimate(now) >= LEAST_PENALTY);
                } else {
                    latency.observe(took, now);
                }
                prop_assert!(latency.estimate(now) >= 1.0);
                prop_assert!(latency.estimate(now) <= f64::max(MOST_PENALTY, slowest));
                now += Duration::from_millis(ms);
            }
        }

        #[test]
        fn an_endpoint_that_also_failed_is_never_cheaper(
            steps in prop::collection::vec((1u64..100_000, 0u64..10_000), 1..50)
        ) {
            let mut now = Instant::now();
            let (mut healthy, mut failing) = (PeakEwma::default(), PeakEwma::default());
            for (took, ms) in steps {
                let took = Duration::from_millis(took);
                healthy.observe(took, now);
                failing.observe(took, now);
                failing.penalise(took, now);
                now += Duration::from_millis(ms);
                prop_assert!(failing.estimate(now) >= healthy.estimate(now) * (1.0 - 1e-9));
            }
        }
    }
}
