//! The roll-ups of 90 days in the store, within their bound, for `tests/drill roll_ups`.
//!
//! 64 series of 200 calls in each 10 s need more than the bound, so that the finest and oldest go
//! first. Prints the size on each tenth day, and how long the reads of a chart take at the end.
//! Exits with 1 if the roll-ups exceed their bound, the file exceeds it by half, or a read takes
//! more than 50 ms.

#![allow(clippy::print_stdout)]

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use outrigger::clock;
use outrigger::resilience::baseline::SeriesKey;
use outrigger::resilience::baseline::calls::{CallFigure, Calls};
use outrigger::resilience::outcome::AttemptClass;
use outrigger::store::{MAX_BYTES, Resolution, RollUpQuery, Store, StoreError, TrackingBatch};

const SERIES: u64 = 64;
const CALLS: u64 = 200;
const DAYS: u64 = 90;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const START: u64 = 1_700_006_400;
const MOST_READ: Duration = Duration::from_millis(50);

fn main() -> io::Result<ExitCode> {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = tempfile::tempdir_in(folder.map_or_else(std::env::temp_dir, Into::into))?;
    let store = Store::open(folder.path(), Box::new(|_| ())).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let most = runtime.block_on(fill(&store)).map_err(io::Error::other)?;
    let file = std::fs::metadata(folder.path().join("outrigger.db"))?.len();
    println!("largest size {} of {}, file {}", mib(most), mib(MAX_BYTES), mib(file));
    let slowest = runtime.block_on(read(&store)).map_err(io::Error::other)?;
    let is_met = most <= MAX_BYTES && file <= MAX_BYTES * 3 / 2 && slowest <= MOST_READ;
    Ok(ExitCode::from(u8::from(!is_met)))
}

/// Returns the most bytes that the roll-ups had after an hour.
async fn fill(store: &Store) -> Result<u64, StoreError> {
    let stored: Vec<_> = (0..SERIES).map(|n| (key(n), calls(n))).collect();
    let mut most = 0;
    for day in 0..DAYS {
        for hour in 0..24 {
            let start = START + day * DAY + hour * HOUR;
            for at in (start..start + HOUR).step_by(10) {
                let batch = TrackingBatch { at, calls: stored.clone(), ..TrackingBatch::default() };
                store.save_tracking(Arc::new(batch)).await?;
            }
            store.merge_roll_ups(start + HOUR).await?;
            store.trim_roll_ups(start + HOUR, MAX_BYTES).await?;
            most = most.max(store.roll_up_bytes().await?);
        }
        if day % 10 == 9 {
            println!("day {}: {}", day + 1, mib(store.roll_up_bytes().await?));
        }
    }
    Ok(most)
}

/// Returns the time of the slowest read of a chart.
async fn read(store: &Store) -> Result<Duration, StoreError> {
    let end = START + DAYS * DAY;
    let mut slowest = Duration::ZERO;
    for (name, resolution, step, span) in [
        ("an hour", Resolution::TenSeconds, 10, HOUR),
        ("a day", Resolution::Minute, 60, DAY),
        ("90 days", Resolution::Hour, 2 * HOUR, DAYS * DAY),
    ] {
        let began = clock::now();
        let query = RollUpQuery { series: key(7), resolution, step, from: end - span, to: end };
        let quantile = |_, calls: &Calls| calls.quantile(CallFigure::Latency, 0.95, 1);
        let points = store.roll_ups(query, quantile).await?;
        let took = clock::since(began);
        println!("a chart of {name}: {} points in {took:.1?}", points.len());
        slowest = slowest.max(took);
    }
    Ok(slowest)
}

fn key(n: u64) -> SeriesKey {
    SeriesKey { route: "llm".into(), provider: format!("provider-{n}"), model: "model".into() }
}

/// The stored form of calls whose latencies spread over a factor of ten.
fn calls(seed: u64) -> Vec<u8> {
    let mut calls = Calls::default();
    for n in 0..CALLS {
        calls.count(AttemptClass::Success);
        let percent = (n * 7_919 + seed * 104_729) % 900 + 100;
        calls.record_time(CallFigure::Latency, Duration::from_millis(percent * 2));
    }
    let mut stored = Vec::new();
    calls.encode(&mut stored);
    stored
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
