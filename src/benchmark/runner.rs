//! Starts and stops runs: one at a time, each on a thread of its own named `benchmark`.
//!
//! A run does not start while its target takes no calls of the application (an open breaker, a
//! hold, a drain), and ends when that happens.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Builder;

use super::history::{HistoryError, RunHistory};
use super::report::{RunReport, RunState, RunTrigger};
use super::run::execution::{RunContext, begun_report, execute};
use super::run::obstacles::obstacle;
use super::run::plan::{RunPlan, TargetPlan, named_target};
use super::schedule::RunStarter;
use crate::clock;
use crate::live::Live;
use crate::policy::sections::model::BenchmarkTarget;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::events::NewEvent;
use crate::telemetry::metrics::{BenchmarkLabels, BenchmarkQuantileLabels, BenchmarkRunLabels};

/// Runs that are kept in memory.
const KEPT: usize = 20;

/// Why a run does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunRefused {
    /// There is no such benchmark.
    Unknown(String),
    /// A target that is not known.
    Target(String),
    /// Another run is under way: its id.
    Busy(String),
    /// Its target takes no calls now.
    Obstacle(String),
    System(String),
}

/// A run that is to start.
#[derive(Clone, Debug)]
pub struct RunRequest {
    pub benchmark: String,
    pub trigger: RunTrigger,
    /// Two targets like `provider:openai`, in place of the benchmark's own.
    pub targets: Option<[String; 2]>,
}

/// The runs of this host.
#[derive(Debug)]
pub struct BenchmarkRunner {
    live: Arc<Live>,
    current: Arc<CurrentSnapshot>,
    state: Mutex<RunnerState>,
    log: OnceLock<AccessLogSender>,
    history: Arc<RunHistory>,
}

#[derive(Debug, Default)]
struct RunnerState {
    running: Option<Arc<RunHandle>>,
    /// Those that have ended, the newest first.
    ended: VecDeque<RunReport>,
}

/// A run under way.
#[derive(Debug)]
pub struct RunHandle {
    report: Mutex<RunReport>,
    /// Why it is to stop.
    stop: Mutex<Option<String>>,
}

impl BenchmarkRunner {
    pub fn new(
        live: &Arc<Live>,
        current: &Arc<CurrentSnapshot>,
        history: &Arc<RunHistory>,
    ) -> Arc<BenchmarkRunner> {
        Arc::new(BenchmarkRunner {
            live: Arc::clone(live),
            current: Arc::clone(current),
            state: Mutex::default(),
            log: OnceLock::new(),
            history: Arc::clone(history),
        })
    }

    /// Starts a run.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(self: &Arc<Self>, request: &RunRequest) -> Result<RunReport, RunRefused> {
        let plan = self.plan(request)?;
        let mut state = self.state.lock();
        if let Some(running) = &state.running {
            return Err(RunRefused::Busy(running.report.lock().id.clone()));
        }
        if let Some(why) = self.obstacle(&plan) {
            return Err(RunRefused::Obstacle(why));
        }
        let system = |error: std::io::Error| RunRefused::System(error.to_string());
        let log = self.log().map_err(system)?;
        let report = begun_report(&plan, request.trigger, clock::wall()).map_err(system)?;
        let stop = Mutex::new(None);
        let handle = Arc::new(RunHandle { report: Mutex::new(report.clone()), stop });
        tracing::info!(benchmark = plan.benchmark, run = report.id, "benchmark started");
        let (runner, run) = (Arc::clone(self), Arc::clone(&handle));
        let spawned = thread::Builder::new()
            .name("benchmark".into())
            .spawn(move || runner.run(plan, &run, log));
        spawned.map_err(system)?;
        state.running = Some(handle);
        Ok(report)
    }

    fn plan(&self, request: &RunRequest) -> Result<RunPlan, RunRefused> {
        let snapshot = self.current.load();
        let (policy, name) = (&snapshot.policy, request.benchmark.as_str());
        let benchmark = policy.benchmarks.iter().find(|one| one.name == name);
        let benchmark = benchmark.ok_or_else(|| RunRefused::Unknown(name.to_owned()))?;
        let targets: Vec<BenchmarkTarget> = match &request.targets {
            None => vec![benchmark.target.clone()],
            Some(names) => {
                let found = names.iter().map(|name| named_target(policy, name));
                found.collect::<Result<_, _>>().map_err(RunRefused::Target)?
            }
        };
        let plans =
            targets.iter().map(|target| TargetPlan::new(policy, &snapshot.hash, benchmark, target));
        Ok(RunPlan::new(benchmark, plans.collect()))
    }

    fn log(&self) -> std::io::Result<AccessLogSender> {
        if let Some(log) = self.log.get() {
            return Ok(log.clone());
        }
        let log = AccessLogSender::start(self.live.metrics.access_log_lines_dropped.clone())?;
        Ok(self.log.get_or_init(|| log).clone())
    }

    fn obstacle(&self, plan: &RunPlan) -> Option<String> {
        let snapshot = self.current.load();
        plan.targets.iter().find_map(|target| obstacle(&snapshot, &target.providers, clock::now()))
    }

    /// The thread of a run.
    fn run(&self, plan: RunPlan, run: &RunHandle, log: AccessLogSender) {
        let checked = plan.clone();
        let check = |report: &RunReport| {
            *run.report.lock() = report.clone();
            match run.stop.lock().clone().or_else(|| self.obstacle(&checked)) {
                Some(reason) => Err(reason),
                None => Ok(()),
            }
        };
        let begun = run.report.lock().clone();
        self.store(self.history.begin(&begun));
        let (report, blocks) = execute(RunContext { plan, begun, log }, check);
        let stored = self.store(self.history.finish(report.clone(), blocks));
        let report = stored.unwrap_or(report);
        self.publish(&report);
        *run.report.lock() = report.clone();
        let mut state = self.state.lock();
        state.running = None;
        state.ended.push_front(report);
        state.ended.truncate(KEPT);
    }

    /// Waits until a run is stored; `None` if it is not.
    fn store<T>(&self, work: impl Future<Output = Result<T, HistoryError>>) -> Option<T> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .inspect_err(|error| tracing::warn!(%error, "cannot store the run of a benchmark"));
        let stored = runtime.ok()?.block_on(work);
        stored
            .inspect_err(|error| tracing::warn!(%error, "cannot store the run of a benchmark"))
            .ok()
    }

    /// Sets metrics, and reports broken thresholds.
    fn publish(&self, report: &RunReport) {
        let (metrics, benchmark) = (&self.live.metrics, report.benchmark.clone());
        let state = report.state.as_str();
        metrics.benchmark_runs.with(&BenchmarkRunLabels { benchmark, state }).inc();
        let (run, reason) = (&report.id, report.reason.as_deref());
        tracing::info!(benchmark = report.benchmark, run, state, reason, "benchmark ended");
        let broken = report.thresholds.iter().filter(|one| !one.holds);
        let broken: Vec<_> = broken
            .map(|one| format!("{} ({})", one.threshold, one.value.as_deref().unwrap_or("none")))
            .collect();
        let has_result = report.state == RunState::Done || is_broken(report);
        if has_result && !broken.is_empty() {
            let broken = broken.join(", ");
            tracing::warn!(
                benchmark = report.benchmark,
                run,
                broken,
                "benchmark missed a threshold"
            );
            let text = format!("run {run} missed {broken}");
            let event = NewEvent::new("benchmark", &report.benchmark, text);
            self.live.events.push(clock::wall(), event.state("missed"));
        }
        if report.state == RunState::Done {
            self.publish_figures(report);
        }
    }

    fn publish_figures(&self, report: &RunReport) {
        let metrics = &self.live.metrics;
        let Some(figures) = report.arms.first().map(|arm| &arm.figures) else { return };
        let labels = BenchmarkLabels { benchmark: report.benchmark.clone() };
        if let Some(latency) = figures.latency {
            for (quantile, value) in [("0.5", latency.p50), ("0.95", latency.p95)] {
                let benchmark = report.benchmark.clone();
                let labels = BenchmarkQuantileLabels { benchmark, quantile };
                metrics.benchmark_latency_seconds.with(&labels).set(value);
            }
        }
        metrics.benchmark_error_rate.with(&labels).set(figures.error_rate.unwrap_or(0.0));
        metrics.benchmark_throughput.with(&labels).set(figures.throughput.unwrap_or(0.0));
    }

    /// Stops a run; `None` if it is not under way.
    pub fn stop(&self, id: &str, reason: &str) -> Option<RunReport> {
        let running = self.state.lock().running.clone()?;
        let report = running.report.lock().clone();
        if report.id != id {
            return None;
        }
        running.stop.lock().get_or_insert_with(|| reason.to_owned());
        Some(report)
    }

    /// Stops the run under way.
    pub fn stop_current(&self, reason: &str) {
        if let Some(report) = self.current() {
            self.stop(&report.id, reason);
        }
    }

    /// The run under way.
    pub fn current(&self) -> Option<RunReport> {
        let running = self.state.lock().running.clone()?;
        let report = running.report.lock().clone();
        Some(report)
    }

    /// A run under way or in memory.
    pub fn report(&self, id: &str) -> Option<RunReport> {
        let current = self.current().filter(|report| report.id == id);
        current.or_else(|| self.state.lock().ended.iter().find(|one| one.id == id).cloned())
    }

    /// The newest run of a benchmark in memory, or the one under way.
    pub fn last(&self, benchmark: &str) -> Option<RunReport> {
        let is_its = |report: &RunReport| report.benchmark == benchmark;
        let current = self.current().filter(is_its);
        current.or_else(|| self.state.lock().ended.iter().find(|one| is_its(one)).cloned())
    }
}

impl RunStarter for Arc<BenchmarkRunner> {
    fn scheduled(&self) -> BTreeMap<String, Duration> {
        let snapshot = self.current.load();
        let all = snapshot.policy.benchmarks.iter();
        all.filter_map(|one| Some((one.name.clone(), one.every?))).collect()
    }

    fn is_busy(&self) -> bool {
        self.state.lock().running.is_some()
    }

    async fn start_scheduled(&self, benchmark: &str) -> Result<(), String> {
        let benchmark = benchmark.to_owned();
        let request = RunRequest { benchmark, trigger: RunTrigger::Schedule, targets: None };
        self.start(&request).map(drop).map_err(|refused| refused.to_string())
    }
}

impl fmt::Display for RunRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunRefused::Unknown(name) => write!(f, "there is no benchmark `{name}`"),
            RunRefused::Busy(id) => {
                write!(f, "run {id} is under way (wait for its end, or stop it)")
            }
            RunRefused::Obstacle(why) => write!(f, "the target takes no calls now: {why}"),
            RunRefused::Target(why) | RunRefused::System(why) => f.write_str(why),
        }
    }
}

/// Whether a run was ended because a threshold was broken.
fn is_broken(report: &RunReport) -> bool {
    let reason = report.reason.as_deref().unwrap_or_default();
    report.state == RunState::Aborted && reason.starts_with("the threshold ")
}
