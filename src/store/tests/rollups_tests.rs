//! Tests of roll-ups, baselines and regressions in the store.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::rollups::*;
use super::*;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::{CallFigure, Calls};
use crate::resilience::outcome::AttemptClass;

const START: u64 = 1_700_006_400;
const DAY: u64 = 86_400;

fn open(folder: &TempDir) -> Store {
    Store::open(folder.path(), Box::new(|_| ())).expect("a store")
}

fn key(n: u64) -> SeriesKey {
    let (route, provider) = ("chat".to_owned(), "a".to_owned());
    SeriesKey { route, provider, model: format!("m{n}") }
}

/// The stored form of this many calls, whose latencies are spread around one.
fn calls(count: u64, milliseconds: u64) -> Vec<u8> {
    let mut calls = Calls::default();
    for n in 0..count {
        calls.count(AttemptClass::Success);
        // From 50 % to 150 %.
        let share = 500 + n * 7_919 % 1_000;
        calls.record_time(CallFigure::Latency, Duration::from_micros(milliseconds * share));
    }
    let mut bytes = Vec::new();
    calls.encode(&mut bytes);
    bytes
}

fn batch(at: u64, calls: Vec<(SeriesKey, Vec<u8>)>) -> Arc<TrackingBatch> {
    Arc::new(TrackingBatch { at, calls, ..TrackingBatch::default() })
}

async fn counts(store: &Store, resolution: Resolution, from: u64, to: u64) -> Vec<(u64, u32)> {
    let step = resolution.seconds();
    let query = RollUpQuery { series: key(1), resolution, step, from, to };
    store.roll_ups(query, |at, calls| (at, calls.calls())).await.expect("points")
}

#[tokio::test]
async fn finer_roll_ups_are_merged_into_minutes_and_hours_that_are_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    // Two hours and a half of a minute, with a gap of 20 minutes.
    let times = (START..START + 7_230).step_by(10);
    for at in times.filter(|at| !(600..1_800).contains(&(at - START))) {
        let both = vec![(key(1), calls(2, 100)), (key(2), calls(1, 300))];
        store.save_tracking(batch(at, both)).await.expect("saved");
    }
    store.merge_roll_ups(START + 7_230).await.expect("merged");
    // Again, with nothing new.
    store.merge_roll_ups(START + 7_230).await.expect("merged");
    let minutes = counts(&store, Resolution::Minute, START, START + 7_260).await;
    assert_eq!((minutes.len(), minutes[0]), (100, (START, 12)));
    assert_eq!((minutes[10], minutes[99]), ((START + 1_800, 12), (START + 7_140, 12)));
    let hours = counts(&store, Resolution::Hour, START, START + 10_800).await;
    assert_eq!(hours, [(START, 480), (START + 3_600, 720)]);
    let query = RollUpQuery {
        series: key(2),
        resolution: Resolution::Minute,
        step: 300,
        from: START,
        to: START + 600,
    };
    let median = |_, calls: &Calls| (calls.quantile(CallFigure::Latency, 0.5, 1), calls.calls());
    let points = store.roll_ups(query, median).await.expect("points");
    assert_eq!((points.len(), points[0].1), (2, 30));
    assert!((points[0].0.expect("a median") / 0.15 - 1.0).abs() < 0.01, "{points:?}");
    assert!(counts(&store, Resolution::Minute, START + 600, START + 1_800).await.is_empty());
}

#[tokio::test]
async fn roll_ups_are_deleted_by_their_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for day in 0..100 {
        let at = START + day * DAY;
        store.save_tracking(batch(at, vec![(key(1), calls(3, 100))])).await.expect("saved");
        store.merge_roll_ups(at + 3_600).await.expect("merged");
    }
    let now = START + 99 * DAY + 3_600;
    store.trim_roll_ups(now, MAX_BYTES).await.expect("trimmed");
    for (resolution, kept) in Resolution::ALL.into_iter().zip([1, 7, 90]) {
        let points = counts(&store, resolution, START, now).await;
        let expected = if resolution == Resolution::Hour { 90 } else { kept };
        assert_eq!(points.len(), expected, "{resolution:?}");
    }
    // A clock that was set back: what is there stays.
    let old = batch(START + 99 * DAY, vec![(key(1), calls(9, 100))]);
    store.save_tracking(old).await.expect("saved");
    let last = counts(&store, Resolution::TenSeconds, START + 99 * DAY, now).await;
    assert_eq!(last, [(START + 99 * DAY, 3)]);
}

/// Ninety days of many series, with a roll-up every half an hour in place of 10 s.
#[tokio::test]
async fn ninety_days_of_many_series_fit_the_bound_and_the_file_is_not_much_larger() {
    const SERIES: u64 = 24;
    const MOST: u64 = 4 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let stored: Vec<_> = (0..SERIES).map(|n| calls(200, 100 + n)).collect();
    for day in 0..90 {
        for at in (START + day * DAY..START + (day + 1) * DAY).step_by(1_800) {
            let all = (0..SERIES).map(|n| (key(n), stored[n as usize].clone()));
            store.save_tracking(batch(at, all.collect())).await.expect("saved");
        }
        let now = START + (day + 1) * DAY;
        store.merge_roll_ups(now).await.expect("merged");
        store.trim_roll_ups(now, MOST).await.expect("trimmed");
        let bytes = store.roll_up_bytes().await.expect("a size");
        assert!(bytes <= MOST, "day {day}: {bytes}");
    }
    // The oldest are gone, and of the newest the finest.
    let now = START + 90 * DAY;
    let hours = counts(&store, Resolution::Hour, START, now).await;
    assert!(hours.len() > 100 && hours[0].0 > START, "{}", hours.len());
    assert!(counts(&store, Resolution::TenSeconds, START, now - DAY / 2).await.is_empty());
    let file = std::fs::metadata(folder.path().join("outrigger.db")).expect("a file").len();
    assert!(file < MOST * 3 / 2, "{file}");
}

#[tokio::test]
async fn baselines_and_regressions_are_read_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let saved = |at, n, state: &[u8]| TrackingBatch {
        at,
        baselines: vec![(key(n), state.to_vec())],
        regressions: vec![format!("{at}")],
        ..TrackingBatch::default()
    };
    for (at, n, state) in [(START, 1, b"old"), (START, 2, b"two"), (START + DAY, 1, b"new")] {
        store.save_tracking(Arc::new(saved(at, n, state))).await.expect("saved");
    }
    drop(store);
    let store = loop {
        match Store::open(folder.path(), Box::new(|_| ())) {
            Ok(store) => break store,
            Err(OpenError::Locked(..)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    let read = |all: Vec<StoredBaseline>| {
        let mut all: Vec<_> = all.into_iter().map(|one| (one.series, one.state)).collect();
        all.sort();
        all
    };
    let all = read(store.baselines().await.expect("baselines"));
    assert_eq!(all, [(key(1), b"new".to_vec()), (key(2), b"two".to_vec())]);
    let regressions = store.regressions().await.expect("regressions");
    assert_eq!(regressions, [START, START, START + DAY].map(|at| at.to_string()));
    // A week without a save makes a baseline useless.
    store.trim_roll_ups(START + BASELINE_KEPT + 1, MAX_BYTES).await.expect("trimmed");
    assert_eq!(read(store.baselines().await.expect("baselines")), [(key(1), b"new".to_vec())]);
}

#[tokio::test]
async fn the_number_of_series_and_of_regressions_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let many = (0..5_000).map(|n| (key(n), vec![1])).collect();
    let regressions = (0..1_200).map(|n| n.to_string()).collect();
    let batch = TrackingBatch { at: START, calls: many, regressions, ..TrackingBatch::default() };
    store.save_tracking(Arc::new(batch)).await.expect("saved");
    let count = |db: &rusqlite::Connection| {
        db.query_row("SELECT count(*) FROM series", [], |row| row.get::<_, u64>(0))
    };
    assert_eq!(store.0.reader.read(count).await.expect("a count"), 4_096);
    let regressions = store.regressions().await.expect("regressions");
    assert_eq!((regressions.len(), regressions[0].as_str()), (1_000, "200"));
    // A series that was not seen for 90 days gives its place to another.
    store.trim_roll_ups(START + 91 * DAY, MAX_BYTES).await.expect("trimmed");
    assert_eq!(store.0.reader.read(count).await.expect("a count"), 0);
}
