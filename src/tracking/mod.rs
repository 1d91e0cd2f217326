//! Watches the calls of all series for regressions, off the request path.
//!
//! Every 10 s the calls of each route, provider and model are rolled up and compared with the
//! baseline of their series (`docs/design/baselines.md`). A regression is logged, counted and kept as
//! an event, and degradation modes read it (`slower_than_baseline`). With a store, the roll-ups and
//! the baselines outlive the process.

pub mod changes;
pub mod persistence;
mod recent;
mod report;
pub mod tracker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::clock;
use crate::live::Live;
use crate::resilience::baseline::measure::ROLL_UP_SECONDS;
use crate::store::{Store, TrackingBatch};
use crate::tracking::persistence::StoreWrites;
use crate::tracking::recent::{KEPT, KEPT_BESIDE_STORE};
use crate::tracking::tracker::Tracker;

const INTERVAL: Duration = Duration::from_secs(ROLL_UP_SECONDS);

/// Tracks the calls until the process ends.
pub async fn run(live: Arc<Live>, tracker: Arc<Mutex<Tracker>>, store: Option<Store>) {
    let started = clock::now();
    let first = number_of(clock::wall());
    let mut ticks = interval_at((started + INTERVAL).into(), INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    if let Some(store) = &store {
        persistence::restore(store, &live, &tracker, first).await;
    }
    let mut writes = store.map(StoreWrites::start);
    loop {
        ticks.tick().await;
        // The wall clock may be set meanwhile, so it is read once.
        let number = first + clock::since(started).as_secs() / ROLL_UP_SECONDS;
        let mut tracker = tracker.lock();
        let batch = tracker.roll_up(&live, number, clock::draw);
        let (at, calls) = (batch.at, batch.calls.clone());
        let kept = if writes.is_some() { KEPT_BESIDE_STORE } else { KEPT };
        tracker.recent.push(TrackingBatch { at, calls, ..TrackingBatch::default() }, kept);
        if let Some(writes) = &mut writes {
            writes.send(batch);
        }
    }
}

/// The roll-up of a time.
fn number_of(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / ROLL_UP_SECONDS
}
