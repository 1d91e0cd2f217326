//! A provider that becomes 30 % slower: its calls, and what the sidecar reports about them.
//!
//! In production the sidecar learns for a day what is usual. Here the day is simulated: the detector
//! of the library observes the calls of a day, with delays drawn as the provider draws them, and the
//! result is stored where the sidecar keeps its baselines. The sidecar then starts and restores it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use outrigger::resilience::baseline::calls::{CallFigure, Calls};
use outrigger::resilience::baseline::measure::ROLL_UP_SECONDS;
use outrigger::resilience::baseline::{LEARNING_BLOCKS, SeriesBaseline, SeriesKey};
use outrigger::resilience::outcome::AttemptClass;
use outrigger::store::{Store, TrackingBatch};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::provider::{Fault, Provider};
use crate::{ADMIN, LISTEN, print};

const CALLS_PER_SECOND: u32 = 20;
const DAY: u64 = 24 * 3600;
const BODY: &str = r#"{"model":"demo","messages":[{"role":"user","content":"hi"}]}"#;
/// The provider is slow from the third status line on, and healthy again after the alarm.
const SLOW_AFTER: u32 = 3;
const MENDED_AFTER: u32 = 3;
/// The time that the sidecar and the connection add to each delay.
const OVERHEAD: Duration = Duration::from_millis(2);

/// The phase of the demonstration.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Usual,
    Slow { since: Instant },
    Detected { lines: u32 },
    Mended { since: Instant },
    Recovered,
}

/// Stores what a day of calls to the provider teaches.
pub fn learn(data: &Path, provider: &Provider) -> Result<()> {
    print("quickstart: simulating a day of calls, from which the usual latency is learned\n");
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let last = now / ROLL_UP_SECONDS;
    let mut baseline = SeriesBaseline::new(LEARNING_BLOCKS);
    for number in last - (DAY + 3600) / ROLL_UP_SECONDS..last {
        let mut calls = Calls::default();
        for _ in 0..u64::from(CALLS_PER_SECOND) * ROLL_UP_SECONDS {
            calls.count(AttemptClass::Success);
            calls.record_time(CallFigure::Latency, provider.draw_delay() + OVERHEAD);
        }
        baseline.observe(&calls.roll_up(number));
        baseline.calibrate(fastrand::f64);
    }
    while baseline.calibrate(fastrand::f64) {}
    let [route, provider, model] = ["chat", provider.name, "demo"].map(str::to_owned);
    let baselines = vec![(SeriesKey { route, provider, model }, baseline.encode())];
    save(data, TrackingBatch { at: now, baselines, ..TrackingBatch::default() })
}

/// Writes into the store of a sidecar that is about to start.
fn save(data: &Path, batch: TrackingBatch) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let store = Store::open(data, Box::new(|_| ())).context("cannot open the store")?;
    runtime.block_on(store.save_tracking(Arc::new(batch)))?;
    drop(store);
    // Its threads end in the background.
    let lock = File::open(data.join("lock"))?;
    while lock.try_lock().is_err() {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Calls the provider through the sidecar, slows it down, and reports every 10 s.
pub async fn demonstrate(provider: Arc<Provider>) -> Result<()> {
    let (send, mut latencies) = mpsc::unbounded_channel();
    tokio::spawn(call_steadily(send));
    let (mut phase, mut seconds) = (Phase::Usual, 0);
    loop {
        sleep(Duration::from_secs(ROLL_UP_SECONDS)).await;
        seconds += ROLL_UP_SECONDS;
        let mut times: Vec<Duration> = Vec::new();
        while let Ok(time) = latencies.try_recv() {
            times.push(time);
        }
        let status = status(&mut times).await?;
        print(&format!("  {seconds:>4} s  {status}\n"));
        phase = advance(phase, seconds, status.contains("alarm"), &provider);
    }
}

fn advance(phase: Phase, seconds: u64, has_alarm: bool, provider: &Provider) -> Phase {
    match phase {
        Phase::Usual if seconds >= u64::from(SLOW_AFTER) * ROLL_UP_SECONDS => {
            provider.set_fault(Fault::Slow);
            print("\n  The provider is 30 % slower from now on.\n\n");
            Phase::Slow { since: Instant::now() }
        }
        Phase::Slow { since } if has_alarm => {
            let seconds = since.elapsed().as_secs();
            print(&format!("\n  Detected within {seconds} s. The mode `lean` is in force.\n\n"));
            Phase::Detected { lines: 0 }
        }
        Phase::Detected { lines } if lines < MENDED_AFTER => Phase::Detected { lines: lines + 1 },
        Phase::Detected { .. } => {
            provider.set_fault(Fault::None);
            print("\n  The provider is as fast as before from now on.\n\n");
            Phase::Mended { since: Instant::now() }
        }
        Phase::Mended { since } if !has_alarm => {
            let seconds = since.elapsed().as_secs();
            print(&format!("\n  The alarm was cleared within {seconds} s.\n{MORE}"));
            Phase::Recovered
        }
        other => other,
    }
}

/// One line: the calls of the last 10 s, and what the sidecar says about them.
async fn status(times: &mut [Duration]) -> Result<String> {
    times.sort_unstable();
    let p50 = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3;
    let list = get(ADMIN, "/api/benchmarks/series").await?;
    let series = list["series"].as_array().into_iter().flatten();
    let mut measures = series.flat_map(|one| one["measures"].as_array().into_iter().flatten());
    let found = measures.find(|measure| measure["measure"] == "p50");
    let state = found.and_then(|measure| measure["state"].as_str()).unwrap_or("not measured yet");
    let baseline = found.and_then(|measure| measure["baseline"].as_f64()).unwrap_or_default() * 1e3;
    let calls = times.len();
    Ok(format!("{calls} calls, p50 {p50:.0} ms; usual {baseline:.0} ms, state: {state}"))
}

async fn call_steadily(times: mpsc::UnboundedSender<Duration>) {
    let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let times = times.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let length = BODY.len();
            let request = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{BODY}"
            );
            if exchange(LISTEN, &request).await.is_ok() {
                let _ = times.send(started.elapsed());
            }
        });
    }
}

async fn get(port: u16, path: &str) -> Result<Value> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let response = exchange(port, &request).await?;
    let (_, body) = response.split_once("\r\n\r\n").context("the response has no body")?;
    Ok(serde_json::from_str(body)?)
}

async fn exchange(port: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

const MORE: &str = r#"
  Do it again, and look at it meanwhile:

    curl -X POST localhost:8710/steady/slow        # and localhost:8710/steady/mend
    curl localhost:8701/api/benchmarks/series      # what is usual, what is measured, and the state
    cargo run -- degrade                           # the mode, its cause and its effect

  Ctrl-C ends it.

"#;
