//! Heartbeats of the threads that serve: the watchdog of the service manager is fed while all of
//! them beat.
//!
//! Each thread stamps the time from its own event loop, so a thread that is blocked, or spins
//! without returning to its loop, stops beating although the process is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::clock;

/// In place of a time: the thread has ended.
const ENDED: u64 = u64::MAX;

/// All heartbeats of the process: one for each thread.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// `None`: no watchdog, and no thread beats.
    watchdog: Option<Duration>,
    start: Instant,
    threads: Mutex<Vec<LastBeat>>,
}

/// The last sign of life of a thread.
#[derive(Clone, Debug)]
struct LastBeat {
    thread: String,
    /// Milliseconds since the start.
    last: Arc<AtomicU64>,
}

/// The heartbeat of one thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// `None`: there is no watchdog.
    every: Option<Duration>,
    start: Instant,
    last: Arc<AtomicU64>,
    /// Made by the first beat, because it needs the runtime of the thread.
    ticks: Option<Interval>,
}

impl Heartbeats {
    /// `watchdog`: the longest time without a sign of life.
    pub fn new(watchdog: Option<Duration>) -> Heartbeats {
        Heartbeats { watchdog, start: clock::now(), threads: Mutex::default() }
    }

    /// Adds a thread, which has to beat from now on.
    pub fn register(&self, thread: &str) -> Heartbeat {
        let last = Arc::new(AtomicU64::new(millis(clock::since(self.start))));
        let beat = LastBeat { thread: thread.to_owned(), last: Arc::clone(&last) };
        self.threads.lock().push(beat);
        let every = self.watchdog.map(|watchdog| watchdog / 8);
        Heartbeat { every, start: self.start, last, ticks: None }
    }

    /// The watchdog's time, if there is one.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// A thread that has not beaten for half of the watchdog's time.
    pub fn stalled(&self, now: Instant) -> Option<String> {
        let limit = millis(self.watchdog? / 2);
        let now = millis(now.saturating_duration_since(self.start));
        let is_stalled = |beat: &&LastBeat| {
            let last = beat.last.load(Ordering::Relaxed);
            last != ENDED && now.saturating_sub(last) > limit
        };
        self.threads.lock().iter().find(is_stalled).map(|beat| beat.thread.clone())
    }
}

impl Heartbeat {
    /// Waits until a sign of life is due, and gives it. Waits for ever without a watchdog. Nothing
    /// is lost when the future is dropped.
    pub async fn beat(&mut self) {
        let Some(every) = self.every else { return std::future::pending().await };
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(every.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        self.last.store(millis(clock::since(self.start)), Ordering::Relaxed);
    }

    /// Beats until the future is dropped.
    pub async fn run(mut self) {
        loop {
            self.beat().await;
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.last.store(ENDED, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(ENDED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(20);

    #[test]
    fn a_thread_that_stops_beating_is_found_and_one_that_ends_is_not() {
        let heartbeats = Heartbeats::new(Some(WATCHDOG));
        let (accept, worker) = (heartbeats.register("accept"), heartbeats.register("worker-1"));
        let stalled_after =
            |seconds| heartbeats.stalled(clock::now() + Duration::from_secs(seconds));
        assert_eq!(stalled_after(9), None);
        assert_eq!(stalled_after(11).as_deref(), Some("accept"));
        worker.last.store(12_000, Ordering::Relaxed);
        drop(accept);
        assert_eq!(stalled_after(11), None);
        assert_eq!(stalled_after(23).as_deref(), Some("worker-1"));
        drop(worker);
        assert_eq!(stalled_after(3600), None);
    }

    #[tokio::test]
    async fn a_thread_beats_while_its_loop_runs() {
        let heartbeats = Heartbeats::new(Some(Duration::from_millis(80)));
        let mut heartbeat = heartbeats.register("accept");
        heartbeat.last.store(0, Ordering::Relaxed);
        for _ in 0..3 {
            heartbeat.beat().await;
        }
        assert_eq!(heartbeats.stalled(clock::now()), None);
    }

    #[test]
    fn without_a_watchdog_nothing_is_stalled() {
        let heartbeats = Heartbeats::new(None);
        let _accept = heartbeats.register("accept");
        assert_eq!(heartbeats.stalled(clock::now() + Duration::from_secs(3600)), None);
    }
}
