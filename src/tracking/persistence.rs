//! Writes roll-ups and baselines into the store, and reads them at the start.
//!
//! A slow disk or a full one must not delay the detection: the writes wait in a short channel, and
//! what does not fit or cannot be written is left out, with one log line a minute.

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
    match timeout(END_TIMEOUT, store.save_tracking(Arc::new(batch))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot save the baselines"),
        Err(_) => tracing::warn!("cannot save the baselines: the disk is too slow"),
    }
}

/// Starts the task that writes batches.
pub(super) fn start(store: Store) -> Sender<TrackingBatch> {
    let (sender, batches) = channel(WAITING);
    tokio::spawn(write_all(store, batches));
    sender
}

/// A batch that has no place is left out: the disk is slow.
pub(super) fn send(writes: &Sender<TrackingBatch>, batch: TrackingBatch) {
    if writes.try_send(batch).is_err() {
        tracing::debug!("the store is busy: a roll-up is left out");
    }
}

async fn write_all(store: Store, mut batches: Receiver<TrackingBatch>) {
    let (mut minute, mut complaint) = (0, None::<Instant>);
    while let Some(batch) = batches.recv().await {
        let at = batch.at;
        let mut done = write(&store, batch).await;
        if done.is_ok() && at / 60 > minute {
            minute = at / 60;
            done = tidy(&store, at).await;
        }
        let is_due = complaint.is_none_or(|last| clock::since(last) >= COMPLAINT_INTERVAL);
        if let Err(error) = done
            && is_due
        {
            complaint = Some(clock::now());
            tracing::warn!(%error, "cannot store the roll-ups of calls: leaving them out");
        }
    }
}

async fn write(store: &Store, batch: TrackingBatch) -> Result<(), StoreError> {
    if batch.is_empty() { Ok(()) } else { store.save_tracking(Arc::new(batch)).await }
}

async fn tidy(store: &Store, now: u64) -> Result<(), StoreError> {
    store.merge_roll_ups(now).await?;
    store.trim_roll_ups(now, MAX_BYTES).await
}
