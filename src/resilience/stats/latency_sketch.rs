//! Latency quantiles of the last minute, or another period, in a few KiB.
//!
//! Latencies are counted in bins ([`CoarseCounts`]), so the error of a quantile is at most 4.8 %.
//! Latencies below 131 us or above 1,099 s count as those limits.
//!
//! The window is six time buckets, of 10 s by default, so it covers between 50 s and 60 s: a
//! provider that has become slow is noticed within a minute, and a bin without traffic has
//! no effect.

use super::log_counts::CoarseCounts;
use super::time_buckets::TimeBuckets;
use std::time::{Duration, Instant};

const TIME_BUCKETS: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// Latencies, counted by their logarithm.
#[derive(Clone, Debug)]
pub struct LatencySketch {
    buckets: TimeBuckets<CoarseCounts, TIME_BUCKETS>,
    sum: CoarseCounts,
}

impl Default for LatencySketch {
    fn default() -> Self {
        Self::new(MINUTE)
    }
}

impl LatencySketch {
    /// Covers the last `over`, or five sixths of it.
    pub fn new(over: Duration) -> Self {
        let buckets = TimeBuckets::new(over / TIME_BUCKETS as u32);
        Self { buckets, sum: CoarseCounts::default() }
    }

    pub fn record(&mut self, took: Duration, now: Instant) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets.advance(now, |expired| self.sum.subtract(&expired)).record(nanos);
        self.sum.record(nanos);
    }

    /// The number of latencies in the window.
    pub fn count(&self, now: Instant) -> u64 {
        self.counts(now).count()
    }

    /// The least latency that the share `q`, in [0, 1], of the window does not exceed, to
    /// 4.8 %; none if the window has fewer than `least` latencies, or none.
    pub fn quantile(&self, q: f64, least: u64, now: Instant) -> Option<Duration> {
        self.counts(now).quantile(q, least).map(Duration::from_nanos)
    }

    /// The counts of the window at `now`.
    fn counts(&self, now: Instant) -> CoarseCounts {
        let mut counts = self.sum;
        self.buckets.expired(now).for_each(|expired| counts.subtract(expired));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORTEST: Duration = Duration::from_nanos(1 << 17);
    const LONGEST: Duration = Duration::from_nanos(1 << 40);

    fn sketch_of(latencies: impl IntoIterator<Item = Duration>, now: Instant) -> LatencySketch {
        let mut sketch = LatencySketch::default();
        latencies.into_iter().for_each(|took| sketch.record(took, now));
        sketch
    }

    fn is_close(found: Duration, exact: Duration) -> bool {
        (found.as_secs_f64() / exact.as_secs_f64() - 1.0).abs() <= 0.05
    }

    #[test]
    fn an_empty_window_has_no_quantile() {
        let now = Instant::now();
        assert_eq!(LatencySketch::default().quantile(0.5, 0, now), None);
        assert_eq!(LatencySketch::default().count(now), 0);
    }

    #[test]
    fn the_98th_of_a_hundred_is_the_98th_percentile() {
        let now = Instant::now();
        let sketch = sketch_of((1..=100).map(Duration::from_millis), now);
        let found = sketch.quantile(0.98, 0, now).unwrap();
        assert!(is_close(found, Duration::from_millis(98)), "{found:?}");
        let (least, most) =
            (sketch.quantile(0.0, 0, now).unwrap(), sketch.quantile(1.0, 0, now).unwrap());
        assert!(is_close(least, Duration::from_millis(1)), "{least:?}");
        assert!(is_close(most, Duration::from_millis(100)), "{most:?}");
    }

    #[test]
    fn out_of_range_latencies_count_at_the_limits() {
        let now = Instant::now();
        let sketch = sketch_of([Duration::ZERO, Duration::MAX], now);
        assert!(is_close(sketch.quantile(0.5, 0, now).unwrap(), SHORTEST));
        assert!(is_close(sketch.quantile(1.0, 0, now).unwrap(), LONGEST));
    }

    #[test]
    fn a_sketch_is_a_few_kib() {
        assert!(size_of::<LatencySketch>() < 7_000, "{}", size_of::<LatencySketch>());
    }

    #[test]
    fn latencies_are_forgotten_after_a_minute() {
        let now = Instant::now();
        let mut sketch = sketch_of([MINUTE; 3], now);
        assert_eq!(sketch.count(now + MINUTE - Duration::from_nanos(1)), 3);
        assert_eq!(sketch.count(now + MINUTE), 0);
        sketch.record(SHORTEST, now + MINUTE);
        assert_eq!(sketch.count(now + MINUTE), 1);
        assert!(is_close(sketch.quantile(1.0, 0, now + MINUTE).unwrap(), SHORTEST));
    }

    #[test]
    fn another_period_is_forgotten_when_it_ends() {
        let now = Instant::now();
        let mut sketch = LatencySketch::new(MINUTE * 5);
        sketch.record(SHORTEST, now);
        assert_eq!((sketch.count(now + MINUTE * 4), sketch.count(now + MINUTE * 5)), (1, 0));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_5_percent_of_the_exact_one(
            steps in prop::collection::vec((0u64..9_000, 132u64..1_000_000_000, 0.0..=1.0f64), 1..200),
        ) {
            let (mut now, mut sketch) = (Instant::now(), LatencySketch::default());
            let mut all = Vec::new();
            for (gap, micros, q) in steps {
                now += Duration::from_millis(gap);
                let took = Duration::from_micros(micros);
                sketch.record(took, now);
                all.push((now, took));
                let later = now + Duration::from_millis(gap * 7);
                let reach = sketch.buckets.reach(later);
                prop_assert!(reach <= MINUTE);
                let inside = all.iter().filter(|(at, _)| later - *at <= reach);
                let mut exact: Vec<_> = inside.map(|(_, took)| *took).collect();
                exact.sort();
                prop_assert_eq!(sketch.count(later), exact.len() as u64);
                let rank = ((q * exact.len() as f64).ceil() as usize).max(1);
                let found = sketch.quantile(q, 0, later);
                let expected = exact.get(rank - 1);
                prop_assert_eq!(found.is_some(), expected.is_some());
                if let (Some(found), Some(expected)) = (found, expected) {
                    prop_assert!(is_close(found, *expected), "{found:?} is not {expected:?}");
                }
            }
        }
    }
}
