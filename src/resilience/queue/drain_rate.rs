//! How fast a queue drains: the basis of an honest Retry-After.
//!
//! Services count only while there are waiters: those of an idle queue show the demand, not
//! the capacity. Old counts fade by half every few seconds, so that a provider that became
//! slower is noticed. Waiters that give up are not counted: it is unknown beforehand that they
//! will, and a client that returns too late loses less than one that returns in vain.

use std::time::{Duration, Instant};

/// Counts older than this are halved.
const SPAN: Duration = Duration::from_secs(4);
/// With fewer services, or less time, the rate is unknown.
const LEAST: f64 = 10.0;
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
pub struct DrainRate {
    since: Option<Instant>,
    served: f64,
}

impl DrainRate {
    /// The first waiter arrived.
    pub fn begin(&mut self, now: Instant) {
        *self = DrainRate { since: Some(now), ..DrainRate::default() };
    }

    pub fn served(&mut self, now: Instant) {
        self.fade(now);
        self.served += 1.0;
    }

    /// Services per second; none while unknown.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        let over = now.saturating_duration_since(self.since?);
        let known = self.served >= LEAST && over >= SHORTEST;
        known.then(|| self.served / over.as_secs_f64())
    }

    fn fade(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let over = now.saturating_duration_since(since);
        if over >= 2 * SPAN {
            let kept = SPAN.as_secs_f64() / over.as_secs_f64();
            self.since = now.checked_sub(SPAN);
            self.served *= kept;
        }
    }
}

/// The time until a queue is empty that takes `served` to serve, where no waiter stays for
/// longer than `most`.
///
/// At the latest it is empty when all are served, or when all have timed out: that is the case
/// if other waiters go first. If no others arrive, waiters that would wait for too long leave
/// while others are served; at the soonest it is empty by both together. Which case applies is
/// unknown, so the result is the middle, and more of the sooner end the closer the queue is to
/// `most`: no waiter leaves a short queue.
pub fn drained_after(served: Duration, most: Duration) -> Duration {
    let latest = served.min(most);
    if latest.is_zero() {
        return latest;
    }
    let (served, most) = (served.as_secs_f64(), most.as_secs_f64());
    let soonest = 1.0 / (1.0 / served + 1.0 / most);
    let leaving = (2.0 * served / most - 1.0).clamp(0.0, 1.0);
    latest - (latest.saturating_sub(Duration::from_secs_f64(soonest))).mul_f64(leaving / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rate_is_unknown_before_enough_services_and_time() {
        let (t0, mut drain) = (Instant::now(), DrainRate::default());
        assert_eq!(drain.rate(t0), None);
        drain.begin(t0);
        (0..10).for_each(|_| drain.served(t0));
        assert_eq!(drain.rate(t0 + SHORTEST / 2), None);
        assert_eq!(drain.rate(t0 + SHORTEST), Some(10.0));
        drain.begin(t0);
        assert_eq!(drain.rate(t0 + SHORTEST), None);
    }

    #[test]
    fn a_change_of_pace_shows_within_some_spans() {
        let (t0, mut drain) = (Instant::now(), DrainRate::default());
        drain.begin(t0);
        let mut now = t0;
        for _ in 0..2000 {
            now += Duration::from_millis(10);
            drain.served(now);
        }
        for _ in 0..200 {
            now += Duration::from_millis(100);
            drain.served(now);
        }
        let rate = drain.rate(now).expect("many were served");
        assert!((8.0..20.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_short_queue_is_served_and_a_long_one_also_times_out() {
        let seconds = Duration::from_secs;
        assert_eq!(drained_after(Duration::ZERO, seconds(5)), Duration::ZERO);
        assert_eq!(drained_after(seconds(2), seconds(5)), seconds(2));
        assert_eq!(drained_after(seconds(5), seconds(5)), Duration::from_millis(3750));
        // For any length.
        assert!((drained_after(seconds(500), seconds(5)).as_secs_f64() - 4.975).abs() < 0.001);
    }

    proptest! {
        #[test]
        fn a_queue_is_empty_between_the_soonest_and_the_latest(
            served in 0u64..100_000, most in 1u64..100_000
        ) {
            let (served, most) = (Duration::from_millis(served), Duration::from_millis(most));
            let gone = drained_after(served, most);
            prop_assert!(gone <= served.min(most), "{gone:?}");
            prop_assert!(gone >= served.min(most) / 2, "{gone:?}");
        }

        #[test]
        fn a_steady_pace_is_the_rate(
            ms in 6u64..150, count in 200usize..1000
        ) {
            let (t0, mut drain) = (Instant::now(), DrainRate::default());
            drain.begin(t0);
            let mut now = t0;
            for _ in 0..count {
                now += Duration::from_millis(ms);
                drain.served(now);
            }
            let rate = drain.rate(now).unwrap_or(0.0);
            prop_assert!((rate * ms as f64 / 1000.0 - 1.0).abs() < 0.1, "{}", rate);
        }
    }
}
