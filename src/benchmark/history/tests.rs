use super::*;
use crate::benchmark::report::{Arm, Environment, Quantiles, RunFigures};
use crate::telemetry::metrics::Metrics;

fn history() -> RunHistory {
    let live = Live::new(Arc::new(Metrics::new()), 1 << 20, None);
    RunHistory::new(None, Arc::new(live)).expect("tables")
}

pub(in crate::benchmark) fn report(id: &str, state: RunState) -> RunReport {
    let latency = Quantiles { p50: 0.1, p90: 0.2, p95: 0.3, p99: 0.4, max: 0.5 };
    let figures = RunFigures { calls: 10, latency: Some(latency), ..RunFigures::default() };
    let environment = Environment {
        host: "h".to_owned(),
        version: "1".to_owned(),
        policy_hash: "p".to_owned(),
        system: "linux/x86_64".to_owned(),
        cpus: 2,
        memory_bytes: 8 << 30,
    };
    RunReport {
        id: id.to_owned(),
        benchmark: "chat".to_owned(),
        state,
        reason: None,
        trigger: RunTrigger::Operator,
        began: "2026-03-01T12:00:00.000Z".to_owned(),
        ended: None,
        progress: 1.0,
        load: "5/s for 60s".to_owned(),
        requests: "abc".to_owned(),
        environment,
        arms: vec![Arm {
            target: "route chat".to_owned(),
            figures,
            timeline: vec![TimelinePoint { at: 0.0, calls: 1, failed: 0, p50: None, p95: None }],
            histogram: vec![HistogramBin { below: 0.1, calls: 10 }],
        }],
        thresholds: Vec::new(),
        comparison: None,
        baseline_comparison: None,
    }
}

/// Latencies between 0.5 and 1.5 times `scale`.
fn calls(scale: f64) -> Vec<Vec<RunBlock>> {
    let draw = |at: usize| (at * 7919 % 1000) as f64 / 1000.0;
    let block = |number: usize| RunBlock {
        latencies: (0..200).map(|at| (scale * (0.5 + draw(at + number))) as f32).collect(),
        failed: 0,
        seconds: 10.0,
    };
    vec![(0..40).map(block).collect()]
}

#[tokio::test]
async fn a_worse_run_than_the_baseline_is_counted_and_an_event() {
    let history = history();
    history.finish(report("1", RunState::Done), calls(0.1)).await.expect("kept");
    history.set_baseline("chat", "1").await.expect("a baseline");
    let same = history.finish(report("2", RunState::Done), calls(0.1)).await.expect("kept");
    assert_eq!(same.baseline_comparison.expect("compared").verdict, "same");
    assert!(history.live.events.all().is_empty());
    history.finish(report("3", RunState::Done), calls(0.13)).await.expect("kept");
    let worse = history.run("3").await.expect("kept").baseline_comparison.expect("compared");
    assert_eq!((worse.verdict.as_str(), worse.a.as_str(), worse.b.as_str()), ("worse", "1", "3"));
    assert!(worse.warnings.is_empty(), "{:?}", worse.warnings);
    let change = worse.measures[0].change.expect("a change of p50");
    assert!(change.low < 0.3 && 0.3 < change.high && change.high < 0.4, "{change:?}");
    let events = history.live.events.all();
    assert_eq!((events.len(), &*events[0].kind), (1, "benchmark_regression"));
    assert!(events[0].detail.contains("run 3 is worse than the baseline 1: p50"), "{events:?}");
    let metrics = history.live.metrics.encode();
    let line = "outrigger_benchmark_regressions_total{benchmark=\"chat\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_run_is_read_as_it_was_kept_and_a_list_leaves_details_out() {
    let history = history();
    let done = report("1", RunState::Done);
    history.begin(&RunReport { state: RunState::Running, ..done.clone() }).await.expect("kept");
    assert_eq!(history.run("1").await.expect("kept").state, RunState::Running);
    history.finish(done.clone(), calls(0.1)).await.expect("kept");
    assert_eq!(history.run("1").await.expect("kept"), done);
    history.finish(report("2", RunState::Failed), Vec::new()).await.expect("kept");
    let filter = RunFilter { limit: 1, ..RunFilter::default() };
    let list = history.list(filter.clone()).await.expect("read");
    assert_eq!((list.runs[0].id.as_str(), list.next.as_deref()), ("2", Some("2")));
    let list = history.list(RunFilter { before: list.next, ..filter }).await.expect("read");
    assert!(list.runs[0].id == "1" && list.runs[0].arms[0].timeline.is_empty(), "{list:?}");
}

#[tokio::test]
async fn a_run_without_figures_is_not_compared() {
    let history = history();
    history.finish(report("1", RunState::Done), calls(0.1)).await.expect("kept");
    history.finish(report("2", RunState::Aborted), calls(0.1)).await.expect("kept");
    let error = history.compare("1", "2").await.expect_err("not done").to_string();
    assert!(error.contains("run 2 is aborted: it has no figures"), "{error}");
    let error = history.compare("1", "9").await.expect_err("unknown").to_string();
    assert!(error.contains("there is no run 9"), "{error}");
}

#[tokio::test]
async fn differences_of_machine_version_load_and_requests_are_warnings() {
    let history = history();
    history.finish(report("1", RunState::Done), calls(0.1)).await.expect("kept");
    let mut other = report("2", RunState::Done);
    other.environment.cpus = 8;
    other.environment.version = "2".to_owned();
    other.load = "9/s for 60s".to_owned();
    other.requests = "def".to_owned();
    history.finish(other, calls(0.1)).await.expect("kept");
    let warnings = history.compare("1", "2").await.expect("compared").warnings;
    assert_eq!(
        warnings,
        [
            "the machines differ: linux/x86_64 with 2 CPUs and 8.0 GiB and linux/x86_64 with 8 CPUs and 8.0 GiB",
            "the versions differ: 1 and 2",
            "the loads differ: 5/s for 60s and 9/s for 60s",
            "the requests differ",
        ]
    );
}

#[tokio::test]
async fn damaged_calls_are_reported() {
    let history = history();
    history.finish(report("1", RunState::Done), calls(0.1)).await.expect("kept");
    let run = stored(report("2", RunState::Done), Some(vec![1, 2, 3])).expect("stored");
    history.runs.save(run).await.expect("kept");
    let error = history.compare("1", "2").await.expect_err("damaged").to_string();
    assert!(error.contains("run 2 is damaged in the store: it is too short"), "{error}");
    history.set_baseline("chat", "2").await.expect("a baseline");
    let kept = history.finish(report("3", RunState::Done), calls(0.1)).await.expect("kept");
    assert_eq!(kept.baseline_comparison, None);
}

#[tokio::test]
async fn a_start_that_is_written_late_does_not_undo_the_end() {
    let history = history();
    history.finish(report("1", RunState::Done), calls(0.1)).await.expect("kept");
    history.begin(&report("1", RunState::Running)).await.expect("written");
    assert_eq!(history.run("1").await.expect("kept").state, RunState::Done);
}
