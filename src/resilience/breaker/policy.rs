//! Breaker policy: when to trip, how long to stay open, and how to recover.
//!
//! The open time grows by `backoff_multiplier` with each consecutive trip, up to a cap (8 s after
//! a probe that failed within a second), with a
//! jitter of +-20 % that also applies at the cap: hosts that tripped together must not probe
//! together.
//!
//! `policy` checks the bounds. Here any value is safe: durations are capped at thirty days,
//! since an `Instant` must be able to hold their end.

use crate::resilience::words::words;
use std::time::Duration;

const JITTER: f64 = 0.2;
/// A failed probe that took less was fast.
const FAST_PROBE: Duration = Duration::from_secs(1);
/// Longest open time after a fast probe, before its jitter: with it, at most ten seconds.
const FAST_PROBE_CAP: Duration = Duration::from_secs(8);
/// Longest duration, so that an `Instant` can hold its end.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// When to trip, how long to stay open, and how to recover. `policy` checks the bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Consecutive failures that trip the breaker; 0 disables the rule.
    pub failure_threshold: u32,
    pub failure_rate: Option<RateRule>,
    pub slow_rate: Option<SlowRule>,
    /// Open time of the first trip.
    pub recovery_timeout: Duration,
    /// Growth of the open time with each consecutive trip.
    pub backoff_multiplier: f64,
    /// Longest open time, before its jitter.
    pub max_recovery_timeout: Duration,
    /// Successful probes needed to close; 0 counts as 1.
    pub success_threshold: u32,
    /// Concurrent probes while half-open; 0 counts as 1.
    pub probes: u32,
    /// Longer than an attempt's timeouts, so that only a lost probe outlives it.
    pub probe_lease: Duration,
    /// After closing, traffic grows from 10 % to 100 % over this time; zero disables it.
    pub ramp: Duration,
    pub mode: EnforcementMode,
    /// When a fleet opens it together; `None`: each host decides alone.
    pub shared: Option<Quorum>,
}

/// Opens the fleet's breaker when at least `hosts` hosts tripped, and at least this fraction
/// of those with traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quorum {
    pub hosts: u32,
    pub fraction: f64,
}

/// Trips when more than the share `above` of at least `min_requests` within `over` failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRule {
    pub above: f64,
    pub over: Duration,
    pub min_requests: u32,
}

/// Trips when more than the share `above` of at least `min_requests` in `over` took longer
/// than the limit to their first byte. Failures count with the time they took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowRule {
    pub slower_than: Duration,
    /// In place of `slower_than`: a multiple of the usual 95th percentile.
    pub slower_than_baseline: Option<f64>,
    pub above: f64,
    pub over: Duration,
    pub min_requests: u32,
}

/// The time of an attempt to its first byte or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptLatency {
    pub took: Duration,
    /// The 95th percentile that is usual for such attempts, if it is known.
    pub usual_p95: Option<Duration>,
}

impl From<Duration> for AttemptLatency {
    fn from(took: Duration) -> Self {
        AttemptLatency { took, usual_p95: None }
    }
}

impl SlowRule {
    /// Whether an attempt was slow; none if it cannot be said.
    pub fn is_slow(&self, latency: AttemptLatency) -> Option<bool> {
        let limit = match self.slower_than_baseline {
            None => self.slower_than,
            Some(factor) => latency.usual_p95?.min(LONGEST).mul_f64(factor.clamp(0.0, 1e3)),
        };
        Some(latency.took > limit)
    }
}

words! {
    pub enum EnforcementMode {
        Enforce = "enforce",
        /// Counts and reports, but rejects nothing.
        Shadow = "shadow",
    }
}

impl BreakerPolicy {
    /// The open time after a probe that failed after `took`. A probe that fails fast delays its
    /// request by next to nothing, so the next one follows soon and finds a recovery in time.
    pub(crate) fn open_after_probe(&self, trips: u32, took: Duration, draw: f64) -> Duration {
        let cap = match took < FAST_PROBE {
            true => self.max_recovery_timeout.min(self.fast_cap()),
            false => self.max_recovery_timeout,
        };
        BreakerPolicy { max_recovery_timeout: cap, ..*self }.open_for(trips, draw)
    }

    /// The longest time between two probes that cost next to nothing, before its jitter.
    pub(crate) fn fast_cap(&self) -> Duration {
        self.recovery_timeout.max(FAST_PROBE_CAP)
    }

    /// The open time of the `trips`-th consecutive trip. Jitter applies at the cap too,
    /// else all breakers of a fleet would fall into step there.
    pub(crate) fn open_for(&self, trips: u32, draw: f64) -> Duration {
        let grown = f64::from(trips.saturating_sub(1));
        let seconds = self.recovery_timeout.as_secs_f64() * self.backoff_multiplier.powf(grown);
        let capped = Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.max_recovery_timeout)
            .min(self.max_recovery_timeout)
            .min(LONGEST);
        capped.mul_f64(1.0 + JITTER * (2.0 * draw.clamp(0.0, 1.0) - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: BreakerPolicy = BreakerPolicy {
        failure_threshold: 5,
        failure_rate: None,
        slow_rate: None,
        recovery_timeout: Duration::from_secs(5),
        backoff_multiplier: 2.0,
        max_recovery_timeout: Duration::from_secs(60),
        success_threshold: 2,
        probes: 1,
        probe_lease: Duration::from_secs(30),
        ramp: Duration::from_secs(10),
        mode: EnforcementMode::Enforce,
        shared: None,
    };

    #[test]
    fn open_time_grows_to_its_cap() {
        let times = [1, 2, 3, 4, 5, 6].map(|trips| POLICY.open_for(trips, 0.5));
        assert_eq!(times, [5, 10, 20, 40, 60, 60].map(|n| n * SECOND));
    }

    #[test]
    fn jitter_is_a_fifth_either_way_at_the_cap_too() {
        for (trips, middle) in [(1, 5 * SECOND), (9, 60 * SECOND), (u32::MAX, 60 * SECOND)] {
            let [low, high] = [0.0, 1.0].map(|draw| POLICY.open_for(trips, draw));
            assert_eq!((low, high), (middle * 4 / 5, middle * 6 / 5));
            assert_eq!(POLICY.open_for(trips, 0.5), middle);
        }
    }

    #[test]
    fn a_probe_that_fails_fast_is_repeated_within_ten_seconds() {
        let (fast, slow) = (Duration::from_millis(999), SECOND);
        let longest = [2, 3, 9].map(|trips| POLICY.open_after_probe(trips, fast, 1.0));
        assert!(longest.iter().all(|time| *time < 10 * SECOND), "{longest:?}");
        assert_eq!(POLICY.open_after_probe(9, slow, 0.5), 60 * SECOND);
        let long = BreakerPolicy { recovery_timeout: 30 * SECOND, ..POLICY };
        assert_eq!(long.open_after_probe(9, fast, 0.5), 30 * SECOND);
        let short = BreakerPolicy { max_recovery_timeout: 6 * SECOND, ..POLICY };
        assert_eq!(short.open_after_probe(9, fast, 0.5), 6 * SECOND);
    }

    #[test]
    fn an_initial_open_time_above_the_cap_is_capped() {
        let policy = BreakerPolicy { recovery_timeout: 90 * SECOND, ..POLICY };
        assert_eq!(policy.open_for(1, 0.5), 60 * SECOND);
    }

    proptest! {
        #[test]
        fn no_value_panics_or_exceeds_the_cap(
            first in 0u64..u64::MAX, cap in 0u64..u64::MAX,
            multiplier in any::<f64>(), trips in any::<u32>(), draw in 0.0f64..1.0,
        ) {
            let policy = BreakerPolicy {
                recovery_timeout: Duration::from_millis(first),
                max_recovery_timeout: Duration::from_millis(cap),
                backoff_multiplier: multiplier,
                ..POLICY
            };
            let longest = policy.max_recovery_timeout.min(LONGEST).mul_f64(1.2);
            prop_assert!(policy.open_for(trips, draw) <= longest);
        }
    }
}
