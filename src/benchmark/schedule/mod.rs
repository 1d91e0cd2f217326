//! Starts the benchmarks that have `every`, one at a time.
//!
//! The time of the last start is read from the history, so a restart neither repeats a run nor
//! forgets one. In a fleet one host starts each run, with a lease in Redis
//! (docs/design/fleet.md). While Redis is away, no run is started: a missing run costs less than one
//! on every host.

mod timetable;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::benchmark::history::RunHistory;
use crate::benchmark::schedule::timetable::Timetable;
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::benchmarks::BenchmarkLease;

/// How often the schedule looks for benchmarks that are due.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts runs for the schedule.
pub trait RunStarter {
    /// The scheduled benchmarks of the policy in force, each with its `every`.
    fn scheduled(&self) -> BTreeMap<String, Duration>;

    /// A run is in progress: others wait for its end.
    fn is_busy(&self) -> bool;

    /// Starts a run.
    ///
    /// # Errors
    /// If it cannot start now: the reason.
    fn start_scheduled(&self, benchmark: &str) -> impl Future<Output = Result<(), String>>;
}

/// The schedule of this host.
#[derive(Debug)]
pub struct Schedule {
    history: Arc<RunHistory>,
    /// `None`: the host is in no fleet.
    fleet: Option<Fleet>,
    timetable: Mutex<Timetable>,
    /// Benchmarks that this host has started, and of which Redis is not informed yet.
    unsettled: Mutex<BTreeMap<String, Duration>>,
}

impl Schedule {
    pub fn new(history: Arc<RunHistory>, fleet: Option<Fleet>) -> Schedule {
        let (timetable, unsettled) = (Mutex::default(), Mutex::default());
        Schedule { history, fleet, timetable, unsettled }
    }

    /// When a benchmark is due, as this host knows; a time in the past if it waits.
    pub fn due_at(&self, benchmark: &str) -> Option<SystemTime> {
        let wait = self.timetable.lock().wait(benchmark, clock::now())?;
        clock::wall().checked_add(wait)
    }

    /// Starts runs until the process ends.
    pub async fn run(&self, starter: &impl RunStarter) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.step(starter).await;
        }
    }

    async fn step(&self, starter: &impl RunStarter) {
        self.timetable.lock().update(&starter.scheduled());
        self.settle_started().await;
        self.read_last_starts().await;
        let due = self.timetable.lock().due(clock::now());
        for (name, every) in due {
            if starter.is_busy() {
                return;
            }
            if !self.may_start(&name, every).await {
                continue;
            }
            let started = starter.start_scheduled(&name).await;
            if let Err(reason) = &started {
                let text = "a scheduled benchmark cannot start now; trying again";
                self.log_once(&name, |benchmark| tracing::warn!(benchmark, reason, "{text}"));
                self.timetable.lock().postpone(&name, clock::now());
            } else {
                self.set_started(&name, Some(Duration::ZERO));
            }
            self.settle(&name, every, started.is_ok()).await;
        }
    }

    fn set_started(&self, name: &str, age: Option<Duration>) {
        self.timetable.lock().set_started(name, age, clock::now());
    }

    /// Reads the last starts that are not known yet. Without a store or a fleet, a benchmark that
    /// never ran waits for its interval: a process that ends again and again runs none.
    async fn read_last_starts(&self) {
        let unknown = self.timetable.lock().unknown();
        let is_kept = self.history.runs().is_durable() || self.fleet.is_some();
        for name in unknown {
            match self.history.scheduled_age(&name).await {
                Ok(None) if !is_kept => self.set_started(&name, Some(Duration::ZERO)),
                Ok(age) => self.set_started(&name, age),
                Err(error) => self.log_once(&name, |benchmark| {
                    tracing::warn!(benchmark, %error, "cannot read when the benchmark last ran; it is not started");
                }),
            }
        }
    }

    /// Requests the lease of the fleet, if there is one.
    async fn may_start(&self, name: &str, every: Duration) -> bool {
        let Some(fleet) = &self.fleet else { return true };
        let age = self.timetable.lock().age(name, clock::now());
        match fleet.lease_benchmark(name, every, age).await {
            Ok(BenchmarkLease::Granted) => true,
            Ok(BenchmarkLease::Taken) => false,
            Ok(BenchmarkLease::NotDue(age)) => {
                self.set_started(name, Some(age));
                false
            }
            Err(error) => {
                let text =
                    "a scheduled benchmark waits until redis responds: another host may run it";
                self.log_once(name, |benchmark| tracing::warn!(benchmark, %error, "{text}"));
                false
            }
        }
    }

    async fn settle(&self, name: &str, every: Duration, started: bool) {
        let Some(fleet) = &self.fleet else { return };
        // A lease that was not used ends by itself if Redis is away.
        if fleet.settle_benchmark(name, every, started).await.is_err() && started {
            self.unsettled.lock().insert(name.to_owned(), every);
        }
    }

    async fn settle_started(&self) {
        let unsettled = std::mem::take(&mut *self.unsettled.lock());
        for (name, every) in unsettled {
            self.settle(&name, every, true).await;
        }
    }

    fn log_once(&self, name: &str, log: impl FnOnce(&str)) {
        if self.timetable.lock().first_log(name) {
            log(name);
        }
    }
}

#[cfg(test)]
mod tests;
