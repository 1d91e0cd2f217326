//! Sliding windows: how many events happened within the last `over`, and how many were bad.
//!
//! A window is ten buckets in a ring ([`TimeBuckets`]). The newest is still filling, so the
//! counts cover between nine tenths of `over` and all of it, never more. Sums are kept as
//! buckets come and go: recording an event has a constant cost and allocates nothing.
//!
//! Counting the last `n` calls instead (a ring of outcomes) would remember an outage of an
//! hour ago at one call a minute, and only an instant at a thousand a second.

use super::time_buckets::TimeBuckets;
use std::time::{Duration, Instant};

const BUCKETS: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    total: u32,
    bad: u32,
}

/// Counts over the last `over`, in ten buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    over: Duration,
    buckets: TimeBuckets<Tally, BUCKETS>,
    sum: Tally,
}

/// Events per second, measured over the last `over`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateMeter {
    window: SlidingWindow,
}

impl Tally {
    fn add(&mut self, bad: bool) {
        self.total = self.total.saturating_add(1);
        self.bad = self.bad.saturating_add(u32::from(bad));
    }

    fn minus(self, expired: Tally) -> Tally {
        Tally {
            total: self.total.saturating_sub(expired.total),
            bad: self.bad.saturating_sub(expired.bad),
        }
    }
}

impl SlidingWindow {
    pub fn new(over: Duration) -> Self {
        let buckets = TimeBuckets::new(over / BUCKETS as u32);
        Self { over, buckets, sum: Tally::default() }
    }

    pub fn over(&self) -> Duration {
        self.over
    }

    pub fn record(&mut self, now: Instant, bad: bool) {
        self.advance(now).add(bad);
        self.sum.add(bad);
    }

    /// Turns an event that was recorded as good into a bad one: the newest good one still
    /// inside; if there is none, records a bad event.
    pub fn mark_bad(&mut self, now: Instant) {
        self.advance(now);
        match self.buckets.newest(|tally| tally.bad < tally.total) {
            Some(tally) => {
                tally.bad += 1;
                self.sum.bad += 1;
            }
            None => self.record(now, true),
        }
    }

    /// `(total, bad)` inside the window at `now`.
    pub fn counts(&self, now: Instant) -> (u32, u32) {
        let expired = self.buckets.expired(now);
        let Tally { total, bad } = expired.fold(self.sum, |sum, expired| sum.minus(*expired));
        (total, bad)
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.over);
    }

    /// The time that the counts cover at `now`: `over` at most, less while the window is
    /// young.
    fn reach(&self, now: Instant) -> Duration {
        self.buckets.reach(now)
    }

    fn advance(&mut self, now: Instant) -> &mut Tally {
        self.buckets.advance(now, |expired| self.sum = self.sum.minus(expired))
    }
}

impl RateMeter {
    pub fn new(over: Duration) -> Self {
        Self { window: SlidingWindow::new(over) }
    }

    pub fn record(&mut self, now: Instant) {
        self.window.record(now, false);
    }

    /// Events per second. A young meter divides by its age, but never by less than a
    /// second: three events in the first millisecond are not a rate of 3000.
    pub fn rate(&self, now: Instant) -> f64 {
        let (total, _) = self.window.counts(now);
        f64::from(total) / self.window.reach(now).as_secs_f64().max(1.0)
    }

    pub fn clear(&mut self) {
        self.window.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Duration = Duration::from_secs(10);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn events_older_than_the_window_are_forgotten() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        window.record(t0, true);
        window.record(t0 + ms(5_000), false);
        assert_eq!(window.counts(t0 + ms(9_999)), (2, 1));
        assert_eq!(window.counts(t0 + ms(10_000)), (1, 0));
        assert_eq!(window.counts(t0 + ms(15_000)), (0, 0));
        assert_eq!(window.counts(t0 + ms(1_000_000)), (0, 0));
    }

    #[test]
    fn a_window_works_after_a_long_silence() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        (0..50).for_each(|n| window.record(t0 + ms(n * 200), true));
        let later = t0 + Duration::from_secs(86_400);
        window.record(later, false);
        assert_eq!(window.counts(later), (1, 0));
    }

    #[test]
    fn clearing_keeps_only_the_length() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        window.record(t0, true);
        window.clear();
        assert_eq!(window, SlidingWindow::new(TEN));
    }

    #[test]
    fn mark_bad_turns_a_good_event_bad() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        window.record(t0, false);
        window.record(t0 + ms(3_000), false);
        window.mark_bad(t0 + ms(6_000));
        assert_eq!(window.counts(t0 + ms(6_000)), (2, 1));
        // The newest was marked: it outlives the older.
        assert_eq!(window.counts(t0 + ms(11_000)), (1, 1));
    }

    #[test]
    fn mark_bad_outside_the_window_records_a_bad_event() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        window.record(t0, false);
        window.mark_bad(t0 + ms(60_000));
        assert_eq!(window.counts(t0 + ms(60_000)), (1, 1));
    }

    #[test]
    fn an_older_now_counts_in_the_newest_bucket() {
        let (t0, mut window) = (Instant::now(), SlidingWindow::new(TEN));
        window.record(t0, false);
        window.record(t0 + ms(12_000), false);
        window.record(t0 + ms(1_000), true);
        assert_eq!(window.counts(t0), (2, 1));
        assert_eq!(window.counts(t0 + ms(21_999)), (2, 1));
        assert_eq!(window.counts(t0 + ms(22_000)), (0, 0));
    }

    #[test]
    fn any_length_works() {
        for over in [Duration::ZERO, Duration::from_nanos(3), Duration::MAX] {
            let (t0, mut window) = (Instant::now(), SlidingWindow::new(over));
            window.record(t0, true);
            assert_eq!(window.counts(t0), (1, 1));
            window.record(t0 + TEN, true);
            window.mark_bad(t0 + TEN);
            assert!(window.counts(t0 + TEN).0 >= 1);
        }
    }

    #[test]
    fn a_rate_is_an_average_over_the_observed_time() {
        let (t0, mut meter) = (Instant::now(), RateMeter::new(TEN));
        assert_eq!(meter.rate(t0), 0.0);
        (0..3).for_each(|_| meter.record(t0));
        assert_eq!(meter.rate(t0), 3.0);
        (1..=400).for_each(|n| meter.record(t0 + ms(n * 50)));
        let rate = meter.rate(t0 + ms(20_000));
        assert!((rate - 20.0).abs() < 1.0, "{rate}");
        assert_eq!(meter.rate(t0 + ms(40_000)), 0.0);
    }

    proptest! {
        #[test]
        fn counts_match_a_full_list_of_events(
            over_ms in 1u64..5_000,
            steps in prop::collection::vec((0u64..700, any::<bool>(), 0u8..8), 1..200),
        ) {
            let mut window = SlidingWindow::new(ms(over_ms));
            let (mut now, mut all) = (Instant::now(), Vec::<(Instant, bool)>::new());
            for (gap, bad, action) in steps {
                now += ms(gap);
                let since = |all: &[(Instant, bool)], reach: Duration| {
                    let inside = all.iter().filter(move |(at, _)| now - *at <= reach);
                    (inside.clone().count() as u32, inside.filter(|(_, bad)| *bad).count() as u32)
                };
                match action {
                    0..6 => {
                        window.record(now, bad);
                        all.push((now, bad));
                    }
                    6 => prop_assert!(window.reach(now) <= ms(over_ms)),
                    _ => {}
                }
                let (total, bad) = window.counts(now);
                prop_assert_eq!((total, bad), since(&all, window.reach(now)));
                prop_assert!(total >= since(&all, ms(over_ms) * 9 / 10).0);
                prop_assert!(total <= since(&all, ms(over_ms)).0);
            }
        }

        #[test]
        fn bad_events_never_exceed_all_events(
            steps in prop::collection::vec((0u64..700, 0u8..4), 1..200),
        ) {
            let (mut now, mut window) = (Instant::now(), SlidingWindow::new(ms(2_000)));
            for (gap, action) in steps {
                now += ms(gap);
                match action {
                    0 => window.mark_bad(now),
                    1 => window.record(now, true),
                    _ => window.record(now, false),
                }
                for later in [0, 300, 900, 1_800] {
                    let (total, bad) = window.counts(now + ms(later));
                    prop_assert!(bad <= total);
                }
            }
        }
    }
}
