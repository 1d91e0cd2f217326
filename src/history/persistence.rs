//! Writes samples into the store.
//!
//! A slow disk or a full one must not delay the samples: the writes wait in a short channel, and what
//! does not fit or cannot be written is left out, with one log line a minute.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::memory::MetricHistory;
use super::series_table::SeriesLabels;
use crate::clock;
use crate::resilience::stats::metric_sample::{MetricSample, SLOT_SECONDS};
use crate::store::{MAX_SAMPLE_BYTES, SampleSeries, Store, StoreError};

/// Samples that may wait for the disk.
const WAITING: usize = 6;
const LEFT_OUT: &str = "samples of the metrics: leaving them out";
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// The store learns this often which series are in use, in samples.
const NUMBERS_KEPT: u32 = 360;

/// The way to the task that writes.
#[derive(Debug)]
pub(super) struct SampleWrites {
    sender: Sender<PendingSample>,
    complaints: WriteComplaints,
}

#[derive(Debug)]
struct PendingSample {
    /// Unix time in seconds.
    at: u64,
    sample: MetricSample,
}

/// When a failure was last logged.
#[derive(Debug, Default)]
pub(super) struct WriteComplaints(Option<Instant>);

impl WriteComplaints {
    /// `effect`: what is not stored, and what becomes of it.
    pub fn log(&mut self, effect: &str, error: &dyn Display) {
        if self.0.is_none_or(|last| clock::since(last) >= COMPLAINT_INTERVAL) {
            self.0 = Some(clock::now());
            tracing::warn!(%error, "cannot store the {effect}");
        }
    }
}

impl SampleWrites {
    /// Starts the task.
    pub fn start(store: Store, history: Arc<MetricHistory>) -> SampleWrites {
        let (sender, samples) = channel(WAITING);
        let numbers = StoredNumbers { store, history, known: HashMap::new(), age: 0 };
        tokio::spawn(write_all(numbers, samples));
        SampleWrites { sender, complaints: WriteComplaints::default() }
    }

    /// Leaves a sample out that has no place.
    pub fn send(&mut self, at: u64, sample: MetricSample) {
        if self.sender.try_send(PendingSample { at, sample }).is_err() {
            self.complaints.log(LEFT_OUT, &"the disk is too slow");
        }
    }
}

/// The store's numbers of the series.
#[derive(Debug)]
struct StoredNumbers {
    store: Store,
    history: Arc<MetricHistory>,
    /// By the number in memory, which another series may get later.
    known: HashMap<u32, StoredNumber>,
    /// Samples since the store was last asked for all numbers.
    age: u32,
}

#[derive(Debug)]
struct StoredNumber {
    labels: Arc<SeriesLabels>,
    number: Option<u32>,
}

async fn write_all(mut numbers: StoredNumbers, mut samples: Receiver<PendingSample>) {
    let (mut minute, mut complaints) = (0, WriteComplaints::default());
    while let Some(PendingSample { at, sample }) = samples.recv().await {
        let mut done = numbers.save(at, sample).await;
        if done.is_ok() && at / 60 != minute {
            minute = at / 60;
            done = tidy(&numbers.store, at + SLOT_SECONDS).await;
        }
        done.unwrap_or_else(|error| complaints.log(LEFT_OUT, &error));
    }
}

async fn tidy(store: &Store, now: u64) -> Result<(), StoreError> {
    store.merge_samples(now).await?;
    store.trim_samples(now, MAX_SAMPLE_BYTES).await
}

impl StoredNumbers {
    async fn save(&mut self, at: u64, mut sample: MetricSample) -> Result<(), StoreError> {
        self.age += 1;
        if self.age >= NUMBERS_KEPT {
            (self.age, self.known) = (0, HashMap::new());
        }
        self.learn(&sample, at).await?;
        sample.renumber(|series| self.known.get(&series)?.number);
        self.store.save_sample(at, sample).await
    }

    /// Requests the numbers of the series that are not known yet.
    async fn learn(&mut self, sample: &MetricSample, at: u64) -> Result<(), StoreError> {
        let (mut new, mut names) = (Vec::new(), Vec::new());
        self.history.with(|state| {
            for section in &sample.sections {
                for series in section.entries.iter().map(|entry| entry.series) {
                    let Some(labels) = state.table.labels(series) else { continue };
                    let known = self.known.get(&series);
                    if known.is_none_or(|known| !Arc::ptr_eq(&known.labels, labels)) {
                        new.push((series, Arc::clone(labels)));
                        let (metric, labels) = (section.metric, labels.to_json());
                        names.push(SampleSeries { metric, labels });
                    }
                }
            }
        });
        if names.is_empty() {
            return Ok(());
        }
        let numbers = self.store.sample_numbers(names, at).await?;
        let learned = new.into_iter().zip(numbers);
        self.known.extend(
            learned.map(|((series, labels), number)| (series, StoredNumber { labels, number })),
        );
        Ok(())
    }
}
