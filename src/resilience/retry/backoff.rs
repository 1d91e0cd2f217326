//! Backoff: the wait before a retry at the same endpoint.
//!
//! The wait grows as `initial * multiplier^(retry - 1)` up to `max`, and jitter is applied
//! *after* that cap: clients that fail together must not come back together, least of all when
//! an outage has lasted so long that all of them are at the cap.
//!
//! `full` spreads over [0, d], which clears contention with the fewest attempts; `equal` keeps
//! at least half of the wait; `none` is for tests and for a sole client (Brooker, "Exponential
//! Backoff and Jitter", AWS Architecture Blog, 2015).

use crate::resilience::words::words;
use std::time::Duration;

/// Bounds are checked by `policy::validate`; any value is safe here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    pub initial: Duration,
    pub max: Duration,
    /// Below 1 counts as 1: a wait never shrinks.
    pub multiplier: f64,
    pub jitter: Jitter,
}

words! {
    pub enum Jitter {
        /// Uniform in [0, d].
        Full = "full",
        /// Uniform in [d/2, d].
        Equal = "equal",
        /// Exactly d.
        None = "none",
    }
}

impl BackoffPolicy {
    /// The wait before retry number `retry`, counted from 1. Never above `max`.
    pub fn delay(&self, retry: u32, draw: f64) -> Duration {
        let whole = self.grown(retry);
        let draw = draw.clamp(0.0, 1.0);
        match self.jitter {
            Jitter::Full => part(whole, draw),
            Jitter::Equal => part(whole, 0.5 + draw / 2.0),
            Jitter::None => whole,
        }
    }

    fn grown(&self, retry: u32) -> Duration {
        if self.initial.is_zero() {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.multiplier.max(1.0).powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.max, |grown| grown.min(self.max))
    }
}

/// `share` of `whole`. `Duration::mul_f64` would panic where a long one rounds up.
fn part(whole: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(whole.as_secs_f64() * share).map_or(whole, |part| part.min(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: BackoffPolicy = BackoffPolicy {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(10),
        multiplier: 2.0,
        jitter: Jitter::None,
    };

    fn with(jitter: Jitter) -> BackoffPolicy {
        BackoffPolicy { jitter, ..POLICY }
    }

    #[test]
    fn without_jitter_it_doubles_up_to_the_cap() {
        let waits = [1, 2, 3, 7, 8, 9, u32::MAX].map(|retry| POLICY.delay(retry, 0.7));
        let expected = [100, 200, 400, 6_400, 10_000, 10_000, 10_000].map(Duration::from_millis);
        assert_eq!(waits, expected);
    }

    #[test]
    fn the_cap_is_jittered_too() {
        let waits = [0.0, 0.25, 0.5].map(|draw| with(Jitter::Full).delay(40, draw));
        assert_eq!(waits, [0, 2_500, 5_000].map(Duration::from_millis));
    }

    #[test]
    fn equal_jitter_keeps_half_of_the_wait() {
        let waits = [0.0, 0.5].map(|draw| with(Jitter::Equal).delay(2, draw));
        assert_eq!(waits, [100, 150].map(Duration::from_millis));
    }

    #[test]
    fn retry_zero_waits_like_retry_one() {
        assert_eq!(POLICY.delay(0, 0.0), POLICY.delay(1, 0.0));
    }

    #[test]
    fn no_initial_delay_is_no_delay() {
        let policy = BackoffPolicy { initial: Duration::ZERO, multiplier: f64::MAX, ..POLICY };
        assert_eq!(policy.delay(u32::MAX, 0.9), Duration::ZERO);
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0u64..100_000).prop_map(Duration::from_millis),
            (any::<u64>(), 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n)),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #[test]
        fn it_never_overflows_nor_exceeds_the_cap(
            initial in any_duration(),
            max in any_duration(),
            multiplier in prop_oneof![0.0..10.0f64, any::<f64>(), Just(f64::NAN)],
            jitter in prop::sample::select(vec![Jitter::Full, Jitter::Equal, Jitter::None]),
            retry in prop_oneof![0u32..20, any::<u32>()],
            draw in 0.0..1.0f64,
        ) {
            let policy = BackoffPolicy { initial, max, multiplier, jitter };
            let wait = policy.delay(retry, draw);
            let whole = BackoffPolicy { jitter: Jitter::None, ..policy }.delay(retry, draw);
            prop_assert!(wait <= whole && whole <= max);
            if jitter == Jitter::Equal {
                let half = whole.as_secs_f64() / 2.0;
                prop_assert!(wait.as_secs_f64() >= half * (1.0 - 1e-9) - 1e-9);
            }
        }

        #[test]
        fn without_jitter_a_later_retry_never_waits_less(
            retry in 1u32..100, multiplier in 1.0..10.0f64
        ) {
            let policy = BackoffPolicy { multiplier, ..POLICY };
            prop_assert!(policy.delay(retry, 0.0) <= policy.delay(retry + 1, 0.0));
        }
    }
}
