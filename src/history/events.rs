//! Writes events into the store, and reads those of earlier processes at the start.
//!
//! Events wait in their ring in memory until they are written, so that a full disk delays nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::persistence::WriteComplaints;
use crate::clock;
use crate::store::{Store, StoreError, StoredEvent, StoredEventQuery};
use crate::telemetry::events::{Event, Events};

/// Events that the ring gets at the start.
const RESTORED: usize = 1000;
const WAITING: &str = "events: they wait in memory";
/// Pause after a batch, so that a burst of events is written in few.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Batches between two checks of the bounds.
const TRIM_INTERVAL: u32 = 50;
/// The end of the process waits this long for the last events.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Puts the newest stored events into the ring, before any client sees an id.
pub async fn restore(store: &Store, events: &Events) {
    let query = StoredEventQuery { limit: RESTORED, ..StoredEventQuery::default() };
    match older(store, query).await {
        Ok(mut stored) => {
            stored.reverse();
            events.restore(stored);
        }
        Err(error) => tracing::warn!(%error, "cannot read the stored events"),
    }
}

/// Stored events, the newest first. One that cannot be read is left out.
///
/// # Errors
/// If the store cannot be read.
pub async fn older(store: &Store, query: StoredEventQuery) -> Result<Vec<Event>, StoreError> {
    let records = store.events(query).await?;
    Ok(records.iter().filter_map(|record| serde_json::from_str(record).ok()).collect())
}

/// Writes events until the process ends.
pub(super) async fn write_all(store: Store, events: &Events) {
    let (mut newest, mut saved) = (events.watch(), 0);
    let (mut batches, mut complaints) = (0_u32, WriteComplaints::default());
    loop {
        newest.mark_unchanged();
        match write_after(&store, events, saved).await {
            Ok(last) => saved = last,
            Err(error) => {
                complaints.log(WAITING, &error);
                sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        }
        if batches.is_multiple_of(TRIM_INTERVAL)
            && let Err(error) = store.trim_events(micros()).await
        {
            complaints.log(WAITING, &error);
        }
        batches = batches.wrapping_add(1);
        sleep(PAUSE).await;
        if newest.changed().await.is_err() {
            return;
        }
    }
}

/// Writes the events that are not written yet, at a clean end of the process.
pub async fn save_at_end(store: &Store, events: &Events) {
    match timeout(END_TIMEOUT, write_after(store, events, 0)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot save the last events"),
        Err(_) => tracing::warn!("cannot save the last events: the disk is too slow"),
    }
}

/// Writes the events after an id. Returns the id of the last.
async fn write_after(store: &Store, events: &Events, id: u64) -> Result<u64, StoreError> {
    let new = events.since(id);
    let Some(last) = new.last().map(|event| event.id) else { return Ok(id) };
    let stored = new.into_iter().filter_map(|event| {
        let record = serde_json::to_string(&event).ok()?;
        Some(StoredEvent { id: event.id, kind: event.kind.into_owned(), key: event.key, record })
    });
    store.save_events(Arc::new(stored.collect())).await?;
    Ok(last)
}

fn micros() -> u64 {
    let now = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
