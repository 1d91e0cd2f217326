//! The history of the metrics and of the events, off the request path.
//!
//! Once a second the metrics that need it are read, and every 10 s all that have a history
//! (`metric_list.rs`). A sample holds the increases of counters and histograms, and the levels of
//! gauges. The last hour is in memory; with a store, up to 90 days are on disk.

pub mod events;
pub mod gauges;
pub mod memory;
pub mod metric_list;
mod persistence;
pub mod reader;
pub mod series;
pub mod series_table;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::history::memory::MetricHistory;
use crate::history::metric_list::{EACH_SECOND, SAMPLED};
use crate::history::persistence::SampleWrites;
use crate::history::reader::MetricReader;
use crate::live::Live;
use crate::resilience::stats::metric_sample::SLOT_SECONDS;
use crate::snapshot::CurrentSnapshot;
use crate::store::Store;

const SECOND: Duration = Duration::from_secs(1);

/// A series that no sample had for this many samples is forgotten: no sample in memory has it.
const FORGOTTEN_AFTER: u64 = 3600 / SLOT_SECONDS + 1;

/// Samples the metrics and stores the events until the process ends.
pub async fn run(
    live: Arc<Live>,
    current: Arc<CurrentSnapshot>,
    history: Arc<MetricHistory>,
    store: Option<Store>,
) {
    let write_events = async {
        if let Some(store) = store.clone() {
            events::write_all(store, &live.events).await;
        }
    };
    tokio::join!(write_events, sample(&live, &current, history, store.clone()));
}

async fn sample(
    live: &Live,
    current: &CurrentSnapshot,
    history: Arc<MetricHistory>,
    store: Option<Store>,
) {
    let mut ticks = interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut each_second = MetricReader::new(&live.metrics, EACH_SECOND);
    let mut all = MetricReader::new(&live.metrics, SAMPLED);
    let mut writes = store.clone().map(|store| SampleWrites::start(store, Arc::clone(&history)));
    let (mut slot, mut number) = (slot_of(clock::wall()), 0);
    loop {
        ticks.tick().await;
        let now = clock::wall();
        let sample = history.with(|state| each_second.read(&mut state.table, number));
        history.push_second(unix(now), &sample);
        // A slot ends when the wall clock says so, also if it was set.
        let next = slot_of(now);
        if next == slot {
            continue;
        }
        gauges::refresh(live, &current.load_full(), clock::now());
        let jobs = current.load_full();
        let jobs = gauges::refresh_jobs(&live.metrics, &jobs, store.as_ref());
        // A disk that is too slow delays no sample.
        let _ = timeout(SECOND, jobs).await;
        let sample = history.with(|state| all.read(&mut state.table, number));
        history.push_slot(slot * SLOT_SECONDS, &sample);
        if let Some(writes) = &mut writes {
            writes.send(slot * SLOT_SECONDS, sample);
        }
        live.metrics.history_series_left_out.set(all.left_out as i64);
        (slot, number) = (next, number + 1);
        history.with(|state| state.table.remove_before(number.saturating_sub(FORGOTTEN_AFTER)));
    }
}

fn slot_of(at: SystemTime) -> u64 {
    unix(at) / SLOT_SECONDS
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
