//! Slow start: how traffic returns to an endpoint that was closed to it.
//!
//! Every request that waited for an endpoint wakes up at the same moment when it opens again.
//! Slow start admits them along a line: from 10 % of the attempt rate before the pause to 100
//! % once `over` has passed, and then it has no effect.
//!
//! The pace is a bucket that holds one attempt (three after a hold) and fills along that line, so
//! any span admits at most the area under the line, plus the bucket. The area is integrated, not stepped: the wait
//! that a rejection names is exact, the root of a quadratic.
//!
//! A previous rate under 1/s counts as 1/s, otherwise a quiet endpoint would get its next
//! attempt after minutes. No wait is longer than ten seconds.
//!
//! Slow start as in nginx and Envoy, paced as GCRA (ITU-T I.371) with a burst of one.

use std::time::{Duration, Instant};

const FIRST_SHARE: f64 = 0.1;
const LEAST_RATE: f64 = 1.0;
const MOST_RATE: f64 = 1e9;
/// After a hold: attempts that go at once, and the rate of a quiet endpoint.
const HOLD_BURST: f64 = 3.0;
const HOLD_LEAST_RATE: f64 = 10.0;
/// Tolerance for rounding: a caller that waited as long as required must find a whole
/// attempt.
const WHOLE: f64 = 1.0 - 1e-6;

/// A line from 10 % to 100 % of a rate, and the pace along it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    rate: f64,
    over: Duration,
    started: Instant,
    /// Most attempts in the bucket.
    burst: f64,
    /// Attempts in the bucket at `filled`, 0 to `burst`.
    credit: f64,
    filled: Instant,
}

impl SlowStart {
    /// `rate` is the attempts per second before the endpoint was closed. With `over` zero
    /// it is over at once.
    pub fn new(rate: f64, over: Duration, now: Instant) -> Self {
        let rate = if rate > LEAST_RATE { rate.min(MOST_RATE) } else { LEAST_RATE };
        Self { rate, over, started: now, burst: 1.0, credit: 1.0, filled: now }
    }

    /// After a hold the endpoint is healthy and has quota again: the first attempts go at once, and
    /// a quiet endpoint is not slowed down.
    pub fn after_hold(rate: f64, over: Duration, now: Instant) -> Self {
        let start = Self::new(rate.max(HOLD_LEAST_RATE), over, now);
        Self { burst: HOLD_BURST, credit: HOLD_BURST, ..start }
    }

    /// The full rate, attempts per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= self.over
    }

    /// Share of the full rate at `now`: 0.1 to 1.
    pub fn share(&self, now: Instant) -> f64 {
        if self.is_over(now) {
            return 1.0;
        }
        FIRST_SHARE + (1.0 - FIRST_SHARE) * self.age(now) / self.over.as_secs_f64()
    }

    /// Takes one attempt, or returns the time until there is one.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.check(now)?;
        self.spend(now);
        Ok(())
    }

    /// Takes the attempt that [`SlowStart::check`] has just allowed.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.credit = (self.credit_at(now) - 1.0).max(0.0);
        self.filled = now;
    }

    /// The result of [`SlowStart::admit`], without taking the attempt.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        if self.is_over(now) {
            return Ok(());
        }
        let credit = self.credit_at(now);
        if credit >= WHOLE { Ok(()) } else { Err(self.wait_for(1.0 - credit, now)) }
    }

    fn age(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.started).as_secs_f64()
    }

    fn credit_at(&self, now: Instant) -> f64 {
        let gained = self.area(self.age(now)) - self.area(self.age(self.filled));
        (self.credit + gained.max(0.0)).min(self.burst)
    }

    /// Attempts under the line in its first `age` seconds.
    fn area(&self, age: f64) -> f64 {
        self.rate * age * (FIRST_SHARE + self.slope() * age / 2.0)
    }

    /// Growth of the share, per second.
    fn slope(&self) -> f64 {
        (1.0 - FIRST_SHARE) / self.over.as_secs_f64()
    }

    /// Solves `share * t + slope * t^2 / 2 = missing / rate` for `t`, at most to the slow start's end.
    fn wait_for(&self, missing: f64, now: Instant) -> Duration {
        let (share, slope, area) = (self.share(now), self.slope(), missing / self.rate);
        // The form without cancellation when the slope is small.
        let seconds = 2.0 * area / (share + (share * share + 2.0 * slope * area).sqrt());
        let to_end = self.over.saturating_sub(now.saturating_duration_since(self.started));
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(to_end);
        wait.saturating_add(Duration::from_nanos(1)).min(to_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Duration = Duration::from_secs(10);

    /// Attempts under the line between two ages, by a sum of thin slices.
    fn under_the_line(rate: f64, over: Duration, from: Duration, to: Duration) -> f64 {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        let slice = (to - from) / 1000.0;
        let share = |at: f64| 0.1 + 0.9 * (at / over.as_secs_f64()).min(1.0);
        (0..1000).map(|n| rate * share(from + (f64::from(n) + 0.5) * slice) * slice).sum()
    }

    /// Retries as soon as it may; the ages at which it was admitted.
    fn eager(rate: f64, over: Duration) -> Vec<Duration> {
        let started = Instant::now();
        let (mut now, mut slow_start, mut admitted) =
            (started, SlowStart::new(rate, over, started), vec![]);
        while !slow_start.is_over(now) {
            match slow_start.admit(now) {
                Ok(()) => admitted.push(now - started),
                Err(wait) => now += wait,
            }
        }
        admitted
    }

    #[test]
    fn the_first_attempt_goes_at_once_and_the_second_waits() {
        let now = Instant::now();
        let mut slow_start = SlowStart::new(100.0, TEN, now);
        assert_eq!(slow_start.admit(now), Ok(()));
        let wait = slow_start.admit(now).unwrap_err();
        // 100/s begins at 10/s, and the line climbs meanwhile.
        assert!(wait > Duration::from_millis(90) && wait < Duration::from_millis(100), "{wait:?}");
    }

    #[test]
    fn an_eager_caller_gets_the_area_under_the_line() {
        let admitted = eager(100.0, TEN);
        // 55 % of 100/s for 10 s, and the first.
        assert!((549..=551).contains(&admitted.len()), "{}", admitted.len());
        let early = admitted.iter().filter(|age| **age < Duration::from_secs(1)).count();
        assert!((14..=16).contains(&early), "{early}");
    }

    #[test]
    fn the_share_grows_from_a_tenth_to_one() {
        let now = Instant::now();
        let slow_start = SlowStart::new(1.0, TEN, now);
        assert_eq!(slow_start.share(now), 0.1);
        assert!((slow_start.share(now + TEN / 2) - 0.55).abs() < 1e-9);
        assert_eq!(slow_start.share(now + TEN), 1.0);
    }

    #[test]
    fn after_the_end_everything_is_admitted() {
        let started = Instant::now();
        let mut slow_start = SlowStart::new(1.0, TEN, started);
        assert!((0..1000).all(|_| slow_start.admit(started + TEN).is_ok()));
        let mut none = SlowStart::new(1.0, Duration::ZERO, started);
        assert!((0..1000).all(|_| none.admit(started).is_ok()));
    }

    #[test]
    fn idle_time_saves_one_attempt_only() {
        let started = Instant::now();
        let mut slow_start = SlowStart::new(1000.0, TEN, started);
        let late = started + Duration::from_secs(5);
        assert_eq!(slow_start.admit(late), Ok(()));
        assert!(slow_start.admit(late).is_err());
    }

    #[test]
    fn a_quiet_endpoint_gets_an_attempt_within_seconds() {
        for rate in [0.0, 0.001, 1.0, f64::NAN, -5.0] {
            let slow_start = SlowStart::new(rate, TEN, Instant::now());
            assert_eq!(slow_start.rate(), 1.0);
            assert!(eager(rate, TEN)[1] < Duration::from_secs(4));
        }
    }

    #[test]
    fn a_time_before_the_start_counts_as_the_start() {
        let started = Instant::now() + TEN;
        let mut slow_start = SlowStart::new(10.0, TEN, started);
        assert_eq!(slow_start.admit(started - TEN), Ok(()));
        assert!(slow_start.admit(started).is_err());
    }

    proptest! {
        #[test]
        fn no_span_admits_more_than_the_area_under_the_line_plus_one(
            rate in 1.0f64..500.0,
            over_ms in 1u64..30_000,
            gaps in prop::collection::vec(0u64..400, 1..200),
        ) {
            let (started, over) = (Instant::now(), Duration::from_millis(over_ms));
            let (mut now, mut slow_start, mut admitted) = (started, SlowStart::new(rate, over, started), vec![]);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if slow_start.is_over(now) {
                    break;
                }
                let checked = slow_start.check(now);
                prop_assert_eq!(slow_start.admit(now), checked);
                match checked {
                    Ok(()) => admitted.push(now - started),
                    Err(wait) => {
                        prop_assert!(wait <= TEN);
                        prop_assert_eq!(slow_start.check(now + wait), Ok(()));
                        let early = wait.mul_f64(0.99);
                        let soon = slow_start.check(now + early);
                        prop_assert!(soon.is_err() || wait < Duration::from_micros(100));
                    }
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                let Some(to) = admitted.last() else { break };
                let most = 1.0 + under_the_line(rate, over, *from, *to);
                prop_assert!((admitted.len() - first) as f64 <= most + 0.001);
            }
        }
    }
}
