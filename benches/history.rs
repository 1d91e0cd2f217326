//! The history of 90 days of metrics in the store, within its bound, for `tests/drill history`.
//!
//! 500 series of a busy sidecar. Prints the size, the cost of a sample, and the 99th percentile of
//! `/api/series` over an hour, a day and 90 days. Exits with 1 if the samples exceed their bound,
//! a percentile exceeds 50 ms, or a sample takes more than a millisecond.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use outrigger::clock;
use outrigger::history::memory::MetricHistory;
use outrigger::history::metric_list::{SAMPLED, kind_of, labels_of};
use outrigger::history::reader::MetricReader;
use outrigger::history::series::{SeriesError, SeriesQuery};
use outrigger::history::series_table::{SeriesLabels, SeriesTable};
use outrigger::resilience::stats::metric_sample::{
    HistogramSample, MetricSample, SampleSection, SampledKind, SampledValue,
};
use outrigger::store::{MAX_SAMPLE_BYTES, Resolution, SampleSeries, Store, StoreError};
use outrigger::telemetry::metrics::{
    AttemptLabels, Metrics, ProviderLabels, RequestLabels, RouteLabels,
};

const SERIES: u32 = 500;
const READS: usize = 200;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const DAYS: u64 = 90;
const START: u64 = 1_700_006_400;
const MOST_READ: Duration = Duration::from_millis(50);
const MOST_SAMPLE: Duration = Duration::from_millis(1);

fn main() -> io::Result<ExitCode> {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = tempfile::tempdir_in(folder.map_or_else(std::env::temp_dir, Into::into))?;
    let store = Store::open(folder.path(), Box::new(|_| ())).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let sampled = sample();
    runtime.block_on(fill(&store)).map_err(io::Error::other)?;
    let bytes = runtime.block_on(store.sample_bytes()).map_err(io::Error::other)?;
    println!("size {} of {}", mib(bytes), mib(MAX_SAMPLE_BYTES));
    let slowest = runtime.block_on(read(&store)).map_err(io::Error::other)?;
    let is_met = bytes <= MAX_SAMPLE_BYTES && slowest <= MOST_READ && sampled <= MOST_SAMPLE;
    Ok(ExitCode::from(u8::from(!is_met)))
}

/// Returns the 99th percentile of the time of a sample of all metrics, of about 100 series.
fn sample() -> Duration {
    let metrics = Metrics::new();
    let statuses = ["2xx", "3xx", "4xx", "5xx"];
    for n in 0..10 {
        let (route, provider) = (format!("route-{n}"), format!("provider-{n}"));
        for status in statuses {
            metrics.requests.with(&RequestLabels { route: route.clone(), status }).inc();
            let (provider, endpoint) = (provider.clone(), "endpoint".to_owned());
            metrics.attempts.with(&AttemptLabels { provider, endpoint, class: status }).inc();
        }
        metrics.request_duration_seconds.with(&RouteLabels { route }).observe(0.3);
        let labels = ProviderLabels { provider };
        metrics.first_byte_seconds.with(&labels).observe(0.1);
    }
    let (mut table, mut reader) = (SeriesTable::default(), MetricReader::new(&metrics, SAMPLED));
    let mut times: Vec<_> = (0..1_000)
        .map(|now| {
            let began = clock::now();
            let _ = reader.read(&mut table, now).encode();
            clock::since(began)
        })
        .collect();
    times.sort_unstable();
    println!(
        "a sample of {} metrics: p50 {:.0?}, p99 {:.0?}",
        SAMPLED.len(),
        times[500],
        times[990]
    );
    times[990]
}

/// Writes the last week by 10 s, and the time before by hours: the rows that are left of it.
async fn fill(store: &Store) -> Result<(), StoreError> {
    let names: Vec<_> = (0..SERIES).map(name).collect();
    let numbers = store.sample_numbers(names, START).await?;
    let end = START + DAYS * DAY;
    for at in (START..end).step_by(HOUR as usize) {
        let fine = if at >= end - 7 * DAY { 10 } else { HOUR };
        for at in (at..at + HOUR).step_by(fine as usize) {
            store.save_sample(at, stored(&numbers, at)).await?;
        }
        store.merge_samples(at + HOUR).await?;
        store.trim_samples(at + HOUR, MAX_SAMPLE_BYTES).await?;
    }
    Ok(())
}

/// Prints the percentiles of the time of `/api/series` for a counter and a histogram; returns the
/// slowest.
async fn read(store: &Store) -> Result<Duration, SeriesError> {
    let (history, end) = (MetricHistory::default(), START + DAYS * DAY);
    let mut slowest = Duration::ZERO;
    for metric in ["attempts", "request_duration_seconds"] {
        for (span_name, resolution, step, span) in [
            ("an hour", Resolution::TenSeconds, 10, HOUR),
            ("a day", Resolution::Minute, 240, DAY),
            ("90 days", Resolution::Hour, 6 * HOUR, DAYS * DAY),
        ] {
            let by = labels_of(metric).iter().map(|label| (*label).to_owned()).collect();
            let (from, wanted) = (end - span, BTreeMap::new());
            let query = SeriesQuery { metric, resolution, by, wanted, from, to: end, step };
            let mut times = Vec::with_capacity(READS);
            let mut series = 0;
            for _ in 0..READS {
                let began = clock::now();
                series = history.series(query.clone(), Some(store)).await?.len();
                times.push(clock::since(began));
            }
            times.sort_unstable();
            let (p50, p99) = (times[READS / 2], times[READS * 99 / 100]);
            println!("{metric} of {span_name}, {series} series: p50 {p50:.1?}, p99 {p99:.1?}");
            slowest = slowest.max(p99);
        }
    }
    Ok(slowest)
}

/// A series: its metric takes turns.
fn name(n: u32) -> SampleSeries {
    let metric = metric_of(n);
    let label = |name: &&'static str| ((*name).to_owned(), format!("value-{n}"));
    let labels = SeriesLabels(labels_of(SAMPLED[usize::from(metric)]).iter().map(label).collect());
    SampleSeries { metric, labels: labels.to_json() }
}

fn metric_of(n: u32) -> u16 {
    (n as usize % SAMPLED.len()) as u16
}

/// A sample in which every series changes.
fn stored(numbers: &[Option<u32>], at: u64) -> MetricSample {
    let mut sections = Vec::new();
    for metric in 0..SAMPLED.len() as u16 {
        let kind = kind_of(SAMPLED[usize::from(metric)]);
        let mut section = SampleSection { metric, kind, entries: Vec::new() };
        let own = (0..SERIES).filter(|n| metric_of(*n) == metric);
        for (n, number) in own.filter_map(|n| Some((n, numbers[n as usize]?))) {
            section.push(number, value(kind, (u64::from(n) * 7_919 + at / 10) % 1_000 + 1));
        }
        section.entries.sort_by_key(|entry| entry.series);
        // A metric without labels has one series.
        section.entries.dedup_by_key(|entry| entry.series);
        sections.push(section);
    }
    MetricSample { slots: 1, sections }
}

fn value(kind: SampledKind, draw: u64) -> SampledValue {
    if kind != SampledKind::Quantile {
        return SampledValue::Number(draw as f64);
    }
    let mut histogram = HistogramSample { sum: draw as f64 / 7.0, ..HistogramSample::default() };
    (5..11).for_each(|bucket| histogram.buckets[bucket] = draw);
    SampledValue::Histogram(histogram)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
