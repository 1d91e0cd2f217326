//! The history in memory: samples of the last hour, and one-second samples of the last minute.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::metric_list::{EACH_SECOND, number_of};
use super::series_table::{SeriesLabels, SeriesTable};
use crate::resilience::stats::metric_sample::{
    HistogramSample, MetricSample, SLOT_SECONDS, SampleEntry, SampleReader, SampledValue,
};

const SLOTS: usize = 3600 / SLOT_SECONDS as usize;
const SECONDS: usize = 60;
/// Bytes of all samples in memory.
const MAX_BYTES: usize = 8 << 20;

/// The history of the metrics in memory, for the admin API and for analyses.
///
/// A window is as long as the time that passed, whatever the wall clock did meanwhile. It reaches
/// back an hour at most, in steps of 10 s; a window of a minute or less has steps of a second for
/// the metrics in [`EACH_SECOND`].
#[derive(Debug, Default)]
pub struct MetricHistory(Mutex<HistoryState>);

#[derive(Debug, Default)]
pub(super) struct HistoryState {
    pub table: SeriesTable,
    pub seconds: SampleRing,
    pub slots: SampleRing,
}

/// Stored samples, the oldest first.
#[derive(Debug, Default)]
pub(super) struct SampleRing {
    samples: VecDeque<StoredSample>,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct StoredSample {
    /// Unix time of its start, in seconds.
    pub at: u64,
    pub data: Box<[u8]>,
}

/// The levels of one gauge.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelHistory {
    pub labels: Arc<SeriesLabels>,
    /// In order, of each sample that had the series.
    pub levels: Vec<f64>,
}

impl SampleRing {
    pub fn push(&mut self, sample: StoredSample, most: usize, max_bytes: usize) {
        self.bytes += sample.data.len();
        self.samples.push_back(sample);
        while self.samples.len() > most || self.bytes > max_bytes {
            let Some(oldest) = self.samples.pop_front() else { return };
            self.bytes -= oldest.data.len();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &StoredSample> {
        self.samples.iter()
    }

    fn newest(&self, count: usize) -> impl Iterator<Item = &StoredSample> {
        self.samples.range(self.samples.len().saturating_sub(count)..)
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

impl HistoryState {
    /// Calls `visit` with the entries of a metric in each sample of a window, the oldest first.
    fn visit(&self, metric: &str, window: Duration, mut visit: impl FnMut(usize, SampleEntry)) {
        let is_short = window <= Duration::from_secs(SECONDS as u64);
        let samples = if is_short && EACH_SECOND.contains(&metric) {
            self.seconds.newest(window.as_secs().max(1) as usize)
        } else {
            let slots = window.as_secs().div_ceil(SLOT_SECONDS).max(1);
            self.slots.newest(usize::try_from(slots).unwrap_or(SLOTS))
        };
        let Some(metric) = number_of(metric) else { return };
        for (at, sample) in samples.enumerate() {
            let section = SampleReader::new(&sample.data).and_then(|reader| reader.section(metric));
            let Ok(Some(mut section)) = section else { continue };
            while let Ok(Some(entry)) = section.next_entry() {
                visit(at, entry);
            }
        }
    }

    fn with_labels<T>(&self, found: BTreeMap<u32, T>) -> Vec<(Arc<SeriesLabels>, T)> {
        let labelled = found
            .into_iter()
            .filter_map(|(series, value)| Some((Arc::clone(self.table.labels(series)?), value)));
        labelled.collect()
    }
}

impl MetricHistory {
    pub(super) fn with<T>(&self, run: impl FnOnce(&mut HistoryState) -> T) -> T {
        run(&mut self.0.lock())
    }

    pub(super) fn push_second(&self, at: u64, sample: &MetricSample) {
        let data = sample.encode().into();
        self.0.lock().seconds.push(StoredSample { at, data }, SECONDS, MAX_BYTES / 8);
    }

    pub(super) fn push_slot(&self, at: u64, sample: &MetricSample) {
        let data = sample.encode().into();
        self.0.lock().slots.push(StoredSample { at, data }, SLOTS, MAX_BYTES - MAX_BYTES / 8);
    }

    /// How much of a window there is: less than the window soon after the start. Seconds for a
    /// metric of [`EACH_SECOND`] and a window of at most a minute.
    pub fn covered(&self, metric: &str, window: Duration) -> Duration {
        let state = self.0.lock();
        let is_short = window <= Duration::from_secs(SECONDS as u64);
        let covered = if is_short && EACH_SECOND.contains(&metric) {
            state.seconds.len() as u64
        } else {
            state.slots.len() as u64 * SLOT_SECONDS
        };
        window.min(Duration::from_secs(covered))
    }

    /// The increase of each series of a counter in the window. A series without one is left out.
    pub fn totals(&self, metric: &str, window: Duration) -> Vec<(Arc<SeriesLabels>, f64)> {
        let (state, mut found) = (self.0.lock(), BTreeMap::<u32, f64>::new());
        state.visit(metric, window, |_, entry| {
            if let SampledValue::Number(number) = entry.value {
                *found.entry(entry.series).or_default() += number;
            }
        });
        state.with_labels(found)
    }

    /// The sampled levels of each series of a gauge in the window.
    pub fn levels(&self, metric: &str, window: Duration) -> Vec<LevelHistory> {
        let (state, mut found) = (self.0.lock(), BTreeMap::<u32, Vec<f64>>::new());
        state.visit(metric, window, |_, entry| {
            if let SampledValue::Number(number) = entry.value {
                found.entry(entry.series).or_default().push(number);
            }
        });
        let found = state.with_labels(found);
        found.into_iter().map(|(labels, levels)| LevelHistory { labels, levels }).collect()
    }

    /// The observations of each series of a histogram in the window. One without any is left out.
    pub fn histograms(
        &self,
        metric: &str,
        window: Duration,
    ) -> Vec<(Arc<SeriesLabels>, HistogramSample)> {
        let (state, mut found) = (self.0.lock(), BTreeMap::<u32, HistogramSample>::new());
        state.visit(metric, window, |_, entry| {
            if let SampledValue::Histogram(histogram) = entry.value {
                found.entry(entry.series).or_default().add(&histogram);
            }
        });
        state.with_labels(found)
    }

    /// A quantile, in seconds, of all series of a histogram that have these labels. `None` without
    /// an observation.
    pub fn quantile(
        &self,
        metric: &str,
        labels: &[(&str, &str)],
        window: Duration,
        q: f64,
    ) -> Option<f64> {
        let mut all = HistogramSample::default();
        for (found, histogram) in self.histograms(metric, window) {
            if found.has(labels) {
                all.add(&histogram);
            }
        }
        all.quantile(q)
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric_list::{SAMPLED, number_of};
    use super::super::reader::MetricReader;
    use super::*;
    use crate::telemetry::metrics::{Metrics, ProviderLabels, RequestLabels, RouteLabels};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A history after some samples; `step` changes the metrics before each.
    fn history(samples: u64, step: impl Fn(&Metrics, u64)) -> MetricHistory {
        let (metrics, history) = (Metrics::new(), MetricHistory::default());
        let mut reader = MetricReader::new(&metrics, SAMPLED);
        for n in 0..samples {
            step(&metrics, n);
            let sample = history.with(|state| reader.read(&mut state.table, n));
            history.push_slot(n * SLOT_SECONDS, &sample);
        }
        history
    }

    #[test]
    fn totals_are_of_a_window_and_of_an_hour_at_most() {
        let status = |n| if n % 2 == 0 { "2xx" } else { "5xx" };
        let history = history(400, |metrics, n| {
            let labels = RequestLabels { route: "chat".to_owned(), status: status(n) };
            metrics.requests.with(&labels).inc_by(n);
        });
        let totals = |window| -> f64 {
            history.totals("requests", window).iter().map(|(_, total)| total).sum()
        };
        assert_eq!(totals(Duration::from_secs(70)), (393..400).sum::<u64>() as f64);
        assert_eq!(totals(Duration::from_secs(100)), (390..400).sum::<u64>() as f64);
        assert_eq!(totals(HOUR), (40..400).sum::<u64>() as f64);
        assert_eq!(totals(HOUR * 24), totals(HOUR));
        let labels = history.totals("requests", HOUR);
        assert_eq!((labels[0].0.get("status"), labels.len()), (Some("2xx"), 2));
        assert_eq!(history.covered("tokens", HOUR * 24), HOUR);
        assert!(history.totals("no_metric", HOUR).is_empty());
    }

    #[test]
    fn levels_and_quantiles_are_of_the_window() {
        let history = history(30, |metrics, n| {
            let provider = ProviderLabels { provider: "a".to_owned() };
            metrics.attempts_in_flight.get_or_create_owned(&provider).set(n as i64);
            let seconds = if n < 20 { 0.2 } else { 0.7 };
            let route = RouteLabels { route: "chat".to_owned() };
            metrics.request_duration_seconds.with(&route).observe(seconds);
        });
        let levels = history.levels("attempts_in_flight", Duration::from_secs(30));
        assert_eq!((levels.len(), &levels[0].levels[..]), (1, &[27.0, 28.0, 29.0][..]));
        let median = |labels: &[(&str, &str)], window| {
            history.quantile("request_duration_seconds", labels, window, 0.5)
        };
        assert_eq!(median(&[("route", "chat")], Duration::from_secs(90)), Some(0.75));
        assert!(median(&[], HOUR).is_some_and(|median| median < 0.25));
        assert_eq!(median(&[("route", "other")], HOUR), None);
    }

    #[test]
    fn the_bytes_in_memory_are_bounded() {
        let mut ring = SampleRing::default();
        for at in 0..20 {
            ring.push(StoredSample { at, data: vec![0; 100].into() }, 15, 1_000);
        }
        assert_eq!((ring.len(), ring.iter().next().map(|first| first.at)), (10, Some(10)));
        assert!(number_of("requests").is_some());
    }
}
