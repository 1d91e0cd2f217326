//! Writes roll-ups and baselines into the store, and reads them at the start.
//!
//! A slow disk or a full one must not delay the detection: the writes wait in a short channel, and
//! what does not fit or cannot be written is left out, with one log line a minute.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use super::number_of;
use super::tracker::Tracker;
use crate::clock;
use crate::live::Live;
use crate::resilience::baseline::measure::ROLL_UP_SECONDS;
use crate::store::{MAX_BYTES, Store, StoreError, TrackingBatch};

/// Roll-ups that may wait for the disk.
const WAITING: usize = 6;
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// The end of the process waits this long for the baselines.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads what earlier processes have learned.
pub(super) async fn restore(store: &Store, live: &Live, tracker: &Mutex<Tracker>, number: u64) {
    match store.baselines().await {
        Ok(stored) => tracker.lock().restore(live, stored, number),
        Err(error) => tracing::warn!(%error, "cannot read the stored baselines: learning again"),
    }
    match store.regressions().await {
        Ok(stored) => tracker.lock().changes.restore(&stored),
        Err(error) => tracing::warn!(%error, "cannot read the stored regressions"),
    }
}

/// Saves every baseline, at a clean end of the process.
pub async fn save_at_end(store: &Store, tracker: &Mutex<Tracker>) {
    let at = number_of(clock::wall()) * ROLL_UP_SECONDS;
    let batch = TrackingBatch { at, ..tracker.lock().last_batch() };
    match timeout(END_TIMEOUT, write(store, batch)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot save the baselines"),
        Err(_) => tracing::warn!("cannot save the baselines: the disk is too slow"),
    }
}

/// The way to the task that writes.
#[derive(Debug)]
pub(super) struct StoreWrites {
    sender: Sender<TrackingBatch>,
    complaints: Complaints,
}

/// When a failure was last logged.
#[derive(Debug, Default)]
struct Complaints(Option<Instant>);

impl StoreWrites {
    /// Starts the task.
    pub fn start(store: Store) -> StoreWrites {
        let (sender, batches) = channel(WAITING);
        tokio::spawn(write_all(store, batches));
        StoreWrites { sender, complaints: Complaints::default() }
    }

    /// Leaves a batch out that has no place.
    pub fn send(&mut self, batch: TrackingBatch) {
        if self.sender.try_send(batch).is_err() {
            self.complaints.log(&"the disk is too slow");
        }
    }
}

impl Complaints {
    fn log(&mut self, error: &dyn Display) {
        if self.0.is_none_or(|last| clock::since(last) >= COMPLAINT_INTERVAL) {
            self.0 = Some(clock::now());
            tracing::warn!(%error, "cannot store the roll-ups of calls: leaving them out");
        }
    }
}

async fn write_all(store: Store, mut batches: Receiver<TrackingBatch>) {
    let (mut minute, mut complaints) = (0, Complaints::default());
    while let Some(batch) = batches.recv().await {
        let at = batch.at;
        let mut done = write(&store, batch).await;
        if done.is_ok() && at / 60 > minute {
            minute = at / 60;
            done = tidy(&store, at).await;
        }
        done.unwrap_or_else(|error| complaints.log(&error));
    }
}

async fn write(store: &Store, batch: TrackingBatch) -> Result<(), StoreError> {
    if batch.is_empty() { Ok(()) } else { store.save_tracking(Arc::new(batch)).await }
}

async fn tidy(store: &Store, now: u64) -> Result<(), StoreError> {
    store.merge_roll_ups(now).await?;
    store.trim_roll_ups(now, MAX_BYTES).await
}
