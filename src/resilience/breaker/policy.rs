//! What a breaker is told: when to trip, for how long, and how to come back.
//!
//! Open time grows by `backoff_multiplier` with each trip in a row, up to a cap, and is spread
//! by +-20 % at the cap too: a fleet that tripped together must not ask again together.
//!
//! Bounds are the policy's to check. Here no value can do harm: a length past thirty days ends
//! there, since an `Instant` must be able to hold its end.

use std::time::Duration;

const JITTER: f64 = 0.2;
/// Lengths past it end here: an `Instant` must be able to hold their end.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// When to trip, for how long, and how to come back. Bounds are checked by `policy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Failures in a row that trip; 0 is off.
    pub failure_threshold: u32,
    pub failure_rate: Option<RateRule>,
    pub slow_rate: Option<SlowRule>,
    /// Open time of the first trip.
    pub recovery_timeout: Duration,
    /// Of the open time, for each trip in a row.
    pub backoff_multiplier: f64,
    /// Of the open time, before its jitter.
    pub max_recovery_timeout: Duration,
    /// Probes that must succeed to close; 0 counts as 1.
    pub success_threshold: u32,
    /// Out at once, half-open; 0 counts as 1.
    pub probes: u32,
    /// Longer than an attempt's own timeouts, so that only a lost probe outlives it.
    pub probe_lease: Duration,
    /// After closing, 10 % to 100 % of the rate of before; zero is off.
    pub ramp: Duration,
    pub mode: EnforcementMode,
    /// When a fleet opens it; `None`: each host by itself.
    pub shared: Option<Quorum>,
}

/// Opens a fleet when so many hosts tripped: at least `hosts` of them, and this share of those that
/// have traffic there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quorum {
    pub hosts: u32,
    pub fraction: f64,
}

/// Trips when more than the share `above` of at least `min_requests` in `over` failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRule {
    pub above: f64,
    pub over: Duration,
    pub min_requests: u32,
}

/// Trips when more than the share `above` of at least `min_requests` in `over` took longer
/// than `slower_than` to their first byte. Failures count with the time they took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowRule {
    pub slower_than: Duration,
    pub above: f64,
    pub over: Duration,
    pub min_requests: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EnforcementMode {
    Enforce,
    /// Count and report, refuse nothing.
    Shadow,
}

// === impl Mode ===

impl EnforcementMode {
    pub fn as_str(self) -> &'static str {
        match self {
            EnforcementMode::Enforce => "enforce",
            EnforcementMode::Shadow => "shadow",
        }
    }
}

// === impl BreakerPolicy ===

impl BreakerPolicy {
    /// How long the trip `trips` in a row stays open. Jitter also at the cap, else all breakers
    /// of a fleet fall into step there.
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
    fn a_first_open_time_above_the_cap_is_cut_to_it() {
        let policy = BreakerPolicy { recovery_timeout: 90 * SECOND, ..POLICY };
        assert_eq!(policy.open_for(1, 0.5), 60 * SECOND);
    }

    proptest! {
        #[test]
        fn no_value_panics_and_none_is_past_the_cap(
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
