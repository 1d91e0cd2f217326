//! Tests of stored samples: merging, trimming, and what a damaged row does.

use tempfile::TempDir;

use super::*;
use crate::resilience::stats::metric_sample::{
    HistogramSample, MetricSample, SampleSection, SampledKind, SampledValue, SectionReader,
};

const START: u64 = 1_700_006_400;
const DAY: u64 = 86_400;

fn open(folder: &TempDir) -> Store {
    Store::open(folder.path(), Box::new(|_| ())).expect("a store")
}

/// A counter with this increase, a gauge with it as its level and a histogram with one observation.
fn sample(increase: f64) -> MetricSample {
    let section = |metric, kind, value| {
        let mut section = SampleSection { metric, kind, entries: Vec::new() };
        section.push(1, value);
        section
    };
    let mut histogram = HistogramSample { sum: 0.3, ..HistogramSample::default() };
    histogram.buckets[8] = 1;
    let sections = vec![
        section(0, SampledKind::Rate, SampledValue::Number(increase)),
        section(1, SampledKind::Level, SampledValue::Number(increase)),
        section(2, SampledKind::Quantile, SampledValue::Histogram(histogram)),
    ];
    MetricSample { slots: 1, sections }
}

/// Samples: time, slots and value.
#[derive(Debug, Default)]
struct Collected {
    names: Vec<String>,
    samples: Vec<(u64, u32, f64)>,
}

impl StoredSamples for Collected {
    fn series(&mut self, number: u32, labels: &str) {
        self.names.push(format!("{number} {labels}"));
    }

    fn sample(&mut self, at: u64, slots: u32, section: Option<SectionReader<'_>>) {
        let mut section = section.expect("a section");
        let value = match section.next_entry().expect("readable").expect("an entry").value {
            SampledValue::Number(number) => number,
            SampledValue::Histogram(histogram) => histogram.count() as f64,
        };
        self.samples.push((at - START, slots, value));
    }
}

async fn read(
    store: &Store,
    metric: u16,
    resolution: Resolution,
    length: u64,
) -> Vec<(u64, u32, f64)> {
    let query = SampleQuery { metric, resolution, from: START, to: START + length };
    let into = Collected::default();
    store.samples(query, into).await.expect("samples").samples
}

#[tokio::test]
async fn samples_are_merged_into_minutes_and_hours_and_the_rest_is_read_from_finer_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for n in 0..400 {
        store.save_sample(START + n * 10, sample(n as f64)).await.expect("saved");
    }
    store.merge_samples(START + 4_000).await.expect("merged");
    store.merge_samples(START + 4_000).await.expect("merged");
    let minutes = read(&store, 0, Resolution::Minute, 4_000).await;
    // 66 minutes, and the 4 samples of the minute that is not over.
    assert_eq!((minutes.len(), minutes[0], minutes[66]), (70, (0, 6, 15.0), (3_960, 1, 396.0)));
    let hours = read(&store, 0, Resolution::Hour, 4_000).await;
    assert_eq!((hours.len(), hours[0]), (1 + 6 + 4, (0, 360, (0..360).sum::<u64>() as f64)));
    assert_eq!(hours.iter().map(|(.., value)| value).sum::<f64>(), (0..400).sum::<u64>() as f64);
    let levels = read(&store, 1, Resolution::Minute, 120).await;
    assert_eq!(levels, [(0, 6, 5.0), (60, 6, 11.0)]);
    let observations = read(&store, 2, Resolution::Hour, 3_600).await;
    assert_eq!(observations, [(0, 360, 360.0)]);
}

#[tokio::test]
async fn samples_are_deleted_by_their_age_and_the_finest_first_beyond_the_bytes() {
    const MOST: u64 = 40_000;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for hour in 0..24 * 95 {
        let at = START + hour * 3_600;
        store.save_sample(at, sample(1.0)).await.expect("saved");
    }
    let now = START + 95 * DAY;
    store.merge_samples(now).await.expect("merged");
    store.trim_samples(now, MAX_SAMPLE_BYTES).await.expect("trimmed");
    let hours = read(&store, 0, Resolution::Hour, 95 * DAY).await;
    assert_eq!((hours.len(), hours[0].0), (90 * 24, 5 * DAY));
    let fine = read(&store, 0, Resolution::TenSeconds, 95 * DAY).await;
    assert_eq!((fine.len(), fine[0].0), (24, 94 * DAY));
    store.trim_samples(now, MOST).await.expect("trimmed");
    assert!(store.sample_bytes().await.expect("a size") <= MOST);
    assert!(read(&store, 0, Resolution::TenSeconds, 95 * DAY).await.is_empty());
    let hours = read(&store, 0, Resolution::Hour, 95 * DAY).await;
    assert!(hours.last().is_some_and(|(at, ..)| *at == 95 * DAY - 3_600), "{}", hours.len());
}

#[tokio::test]
async fn a_clock_that_was_set_back_averages_and_merging_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let save =
        async |at, increase| store.save_sample(START + at, sample(increase)).await.expect("saved");
    for n in 0..12 {
        save(DAY + n * 10, 1.0).await;
    }
    store.merge_samples(START + DAY + 120).await.expect("merged");
    // A day back.
    for n in 0..12 {
        save(n * 10, 2.0).await;
    }
    save(110, 4.0).await;
    store.merge_samples(START + 120).await.expect("merged");
    let minutes = read(&store, 0, Resolution::Minute, 120).await;
    assert_eq!(minutes, [(0, 6, 12.0), (60, 7, 16.0)]);
}

#[tokio::test]
async fn damaged_rows_are_left_out_and_a_wrong_type_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for at in [0, 10, 20] {
        store.save_sample(START + at, sample(1.0)).await.expect("saved");
    }
    let damage = |data: &'static str| {
        move |db: &rusqlite::Connection| {
            db.execute(
                &format!("UPDATE samples_10s SET data = {data} WHERE id = ?1"),
                [((START as i64 / 10 + 1) << 8) + 1],
            )
        }
    };
    store.0.writer.write(damage("x'01ffffffffffffff'")).await.expect("written");
    store.merge_samples(START + 60).await.expect("merged");
    // The other metrics of that time are whole.
    assert_eq!(read(&store, 0, Resolution::Minute, 60).await, [(0, 3, 2.0)]);
    assert_eq!(read(&store, 1, Resolution::Minute, 60).await, [(0, 3, 1.0)]);
    let fine = read(&store, 0, Resolution::TenSeconds, 60).await;
    assert_eq!(fine, [(0, 1, 1.0), (20, 1, 1.0)]);
    store.0.writer.write(damage("7")).await.expect("written");
    let query =
        SampleQuery { metric: 0, resolution: Resolution::TenSeconds, from: START, to: START + 60 };
    let failed = store.samples(query, Collected::default()).await;
    assert!(matches!(failed, Err(StoreError::Io(_))), "{failed:?}");
}

#[tokio::test]
async fn series_keep_their_numbers_and_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let name = |metric: u16, labels: &str| SampleSeries { metric, labels: labels.to_owned() };
    let numbers =
        async |series: Vec<_>, now| store.sample_numbers(series, now).await.expect("numbers");
    let first = numbers(vec![name(0, "a"), name(1, "a"), name(0, "b")], START).await;
    assert_eq!(first, [Some(0), Some(1), Some(2)]);
    assert_eq!(
        numbers(vec![name(0, "b"), name(0, "a")], START + 91 * DAY).await,
        [Some(2), Some(0)]
    );
    store.trim_samples(START + 92 * DAY, MAX_SAMPLE_BYTES).await.expect("trimmed");
    assert_eq!(numbers(vec![name(5, "c")], START + 92 * DAY).await, [Some(1)]);
    let query = SampleQuery { metric: 0, resolution: Resolution::Hour, from: 0, to: 1 };
    let found = store.samples(query, Collected::default()).await.expect("read");
    assert_eq!(found.names, ["0 a", "2 b"]);
}
