use super::*;
use crate::benchmark::history::tests::report;
use crate::benchmark::report::{RunReport, RunState, RunTrigger};
use crate::live::Live;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

const HOUR: Duration = Duration::from_secs(3600);

/// Keeps a run of each benchmark that is started.
struct ScriptedStarter {
    history: Arc<RunHistory>,
    names: Vec<&'static str>,
    busy: bool,
    refuses: bool,
    started: Mutex<Vec<String>>,
}

impl RunStarter for ScriptedStarter {
    fn scheduled(&self) -> BTreeMap<String, Duration> {
        self.names.iter().map(|name| ((*name).to_owned(), 6 * HOUR)).collect()
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    async fn start_scheduled(&self, benchmark: &str) -> Result<(), String> {
        if self.refuses {
            return Err("the breaker of a is open".to_owned());
        }
        self.started.lock().push(benchmark.to_owned());
        let run = RunReport {
            benchmark: benchmark.to_owned(),
            trigger: RunTrigger::Schedule,
            ..report(benchmark, RunState::Running)
        };
        self.history.begin(&run).await.map_err(|error| error.to_string())
    }
}

impl ScriptedStarter {
    fn new(store: Option<Store>, names: &[&'static str]) -> ScriptedStarter {
        let live = Arc::new(Live::new(Arc::new(Metrics::new()), 1 << 20, None));
        let history = Arc::new(RunHistory::new(store, live).expect("a history"));
        let (names, started) = (names.to_vec(), Mutex::default());
        ScriptedStarter { history, names, busy: false, refuses: false, started }
    }

    fn schedule(&self) -> Schedule {
        Schedule::new(Arc::clone(&self.history), None)
    }

    fn take_started(&self) -> Vec<String> {
        std::mem::take(&mut self.started.lock())
    }
}

fn store(folder: &tempfile::TempDir) -> Option<Store> {
    Some(Store::open(folder.path(), Box::new(|_| ())).expect("a store"))
}

#[tokio::test]
async fn a_benchmark_that_never_ran_starts_once_and_not_again_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let starter = ScriptedStarter::new(store(&folder), &["a", "b"]);
    let schedule = starter.schedule();
    schedule.step(&starter).await;
    assert_eq!(starter.take_started(), ["a", "b"]);
    schedule.step(&starter).await;
    let restarted = starter.schedule();
    restarted.step(&starter).await;
    assert!(starter.take_started().is_empty());
    let due = restarted.due_at("a").expect("a time").duration_since(clock::wall());
    let due = due.expect("in the future");
    assert!(due > 6 * HOUR - Duration::from_secs(60) && due <= 6 * HOUR, "{due:?}");
}

#[tokio::test]
async fn a_benchmark_waits_while_another_runs_or_its_start_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut starter = ScriptedStarter::new(store(&folder), &["a"]);
    let schedule = starter.schedule();
    starter.busy = true;
    schedule.step(&starter).await;
    assert!(starter.take_started().is_empty());
    (starter.busy, starter.refuses) = (false, true);
    schedule.step(&starter).await;
    assert!(starter.take_started().is_empty());
    starter.refuses = false;
    // It was refused a moment ago.
    schedule.step(&starter).await;
    assert!(starter.take_started().is_empty());
    starter.schedule().step(&starter).await;
    assert_eq!(starter.take_started(), ["a"]);
}

#[tokio::test]
async fn without_a_store_a_benchmark_waits_for_its_interval_first() {
    let starter = ScriptedStarter::new(None, &["a"]);
    let schedule = starter.schedule();
    schedule.step(&starter).await;
    assert!(starter.take_started().is_empty());
    let due = schedule.due_at("a").expect("a time").duration_since(clock::wall());
    assert!(due.expect("in the future") > 5 * HOUR);
}
