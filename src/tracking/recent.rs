//! The last roll-ups: of an hour, or of a few minutes where a store keeps them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::Calls;
use crate::resilience::baseline::measure::ROLL_UP_SECONDS;
use crate::store::TrackingBatch;

/// Seconds that are kept without a store.
pub(super) const KEPT: u64 = 3600;
/// Seconds that are kept beside a store, for the rates of the last minute.
pub(super) const KEPT_BESIDE_STORE: u64 = 600;

/// Roll-ups in their stored form, the oldest first.
#[derive(Debug, Default)]
pub struct RecentRollUps(VecDeque<TrackingBatch>);

impl RecentRollUps {
    /// Adds a roll-up, and removes those from `kept` seconds before it.
    pub fn push(&mut self, batch: TrackingBatch, kept: u64) {
        let oldest = batch.at.saturating_sub(kept);
        self.0.push_back(batch);
        while self.0.front().is_some_and(|first| first.at <= oldest) {
            self.0.pop_front();
        }
    }

    /// The calls of the last roll-ups, by provider.
    pub fn by_provider(&self, window: Duration) -> HashMap<String, Box<Calls>> {
        let count = (window.as_secs() / ROLL_UP_SECONDS) as usize;
        let mut by_provider = HashMap::<String, Box<Calls>>::new();
        for batch in self.0.iter().rev().take(count) {
            for (key, stored) in &batch.calls {
                let calls = by_provider.entry(key.provider.clone()).or_default();
                let _ = calls.merge_stored(stored);
            }
        }
        by_provider
    }

    /// The points of a series from a time on, each made of the calls of `step` seconds.
    pub fn points<T>(
        &self,
        series: &SeriesKey,
        times: std::ops::Range<u64>,
        step: u64,
        point: impl Fn(u64, &Calls) -> T,
    ) -> Vec<T> {
        let (mut points, mut open) = (Vec::new(), None::<(u64, Box<Calls>)>);
        for batch in self.0.iter().filter(|batch| times.contains(&batch.at)) {
            let start = batch.at / step * step;
            let Some((_, stored)) = batch.calls.iter().find(|(key, _)| key == series) else {
                continue;
            };
            if let Some((at, calls)) = open.take_if(|(at, _)| *at != start) {
                points.push(point(at, &calls));
            }
            let (_, calls) = open.get_or_insert_with(|| (start, Box::default()));
            let _ = calls.merge_stored(stored);
        }
        points.extend(open.map(|(at, calls)| point(at, &calls)));
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::outcome::AttemptClass;

    #[test]
    fn the_last_hour_is_kept_and_merged_by_steps() {
        let (route, provider, model) = ("chat".to_owned(), "a".to_owned(), "m".to_owned());
        let series = SeriesKey { route, provider, model };
        let mut stored = Vec::new();
        let mut calls = Calls::default();
        calls.count(AttemptClass::Success);
        calls.encode(&mut stored);
        let mut recent = RecentRollUps::default();
        for at in (0..7_200).step_by(10).filter(|at| !(5_000..5_060).contains(at)) {
            let calls = vec![(series.clone(), stored.clone())];
            recent.push(TrackingBatch { at, calls, ..TrackingBatch::default() }, KEPT);
        }
        let count = |at, calls: &Calls| (at, calls.calls());
        let points = recent.points(&series, 0..7_200, 60, count);
        assert_eq!(points.len(), 60);
        assert_eq!((points[0], points[59]), ((3_600, 6), (7_140, 6)));
        assert!(points.contains(&(4_980, 2)) && points.contains(&(5_040, 4)), "{points:?}");
    }
}
