//! Stored runs of benchmarks: lists, baselines, comparisons, trends, and damage.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use outrigger::benchmark::history::RunHistory;
use outrigger::benchmark::report::RunReport;
use outrigger::live::Live;
use outrigger::resilience::comparison::RunBlock;
use outrigger::store::Store;
use outrigger::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::{api, policy, route};
use crate::jobs::{data_dir, start_with_store};
use crate::support::{Call, Response, Sidecar, eventually};

/// A run with latencies around `scale` seconds.
struct Run {
    number: usize,
    state: &'static str,
    scale: f64,
}

impl Run {
    fn id(&self) -> String {
        format!("{:026}", self.number)
    }

    fn report(&self) -> RunReport {
        let scale = self.scale;
        let latency = json!({ "p50": scale, "p90": 1.4 * scale, "p95": 1.45 * scale,
            "p99": 1.49 * scale, "max": 1.5 * scale });
        let arm = json!({ "target": "route all", "timeline": [], "histogram": [],
            "figures": { "calls": 8000, "failed": 0, "outcomes": {}, "error_rate": 0.0,
                "throughput": 20.0, "latency": latency } });
        let report = json!({
            "id": self.id(), "benchmark": "chat", "state": self.state, "trigger": "operator",
            "began": format!("2026-03-01T12:{:02}:00.000Z", self.number), "progress": 1.0,
            "load": "20/s for 400s", "requests": "abc", "arms": [arm], "thresholds": [],
            "environment": { "host": "h", "version": "1", "policy_hash": "p",
                "system": "linux/x86_64", "cpus": 2, "memory_bytes": 1_000_000 },
        });
        serde_json::from_value(report).expect("a report")
    }

    fn blocks(&self) -> Vec<RunBlock> {
        let part = |at: usize| ((at * 7919 + self.number * 31) % 1000) as f64 / 1000.0;
        let latency = |at: usize| (self.scale * (0.5 + part(at))) as f32;
        let block = |number: usize| RunBlock {
            latencies: (number * 200..(number + 1) * 200).map(latency).collect(),
            failed: 0,
            seconds: 10.0,
        };
        (0..40).map(block).collect()
    }
}

/// Writes runs as a sidecar does, and ends like one that is killed.
fn write(data: &Path, runs: &[Run]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let store = Store::open(data, Box::new(|_| ())).expect("a store");
    let live = Live::new(Arc::new(Metrics::new()), 1 << 20, None);
    let history = RunHistory::new(Some(store), Arc::new(live)).expect("a history");
    runtime.expect("a runtime").block_on(async {
        for run in runs {
            history.begin(&run.report()).await.expect("written");
            if run.state != "running" {
                history.finish(run.report(), vec![run.blocks()]).await.expect("written");
            }
        }
    });
    drop(history);
    // The threads of the store end after its last handle.
    let lock = File::open(data.join("lock")).expect("a lock");
    eventually("the store is closed", || lock.try_lock().map_err(|error| error.to_string()));
}

fn start(runs: &[Run]) -> (Sidecar, TempDir) {
    let data = data_dir();
    write(data.path(), runs);
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    (start_with_store(data.path(), &yaml), data)
}

fn done(number: usize, scale: f64) -> Run {
    Run { number, state: "done", scale }
}

fn baseline(sidecar: &Sidecar, method: &str, body: &Value) -> Response {
    let mut call = Call::json("/api/benchmarks/chat/baseline", body);
    call.method = method.to_owned();
    sidecar.admin_send(&call)
}

fn problem(response: &Response) -> (u16, String) {
    let kind = response.json()["type"].as_str().unwrap_or_default().to_owned();
    (response.status, kind.trim_start_matches("urn:outrigger:problem:admin:").to_owned())
}

fn ids(list: &Value) -> Vec<&str> {
    let runs = list["runs"].as_array().expect("a list of runs");
    runs.iter().map(|run| run["id"].as_str().expect("an id").trim_start_matches('0')).collect()
}

#[test]
fn runs_are_listed_by_pages_and_one_that_was_killed_is_aborted() {
    let killed = Run { number: 4, state: "running", scale: 0.1 };
    let (sidecar, _data) = start(&[done(1, 0.1), done(2, 0.1), done(3, 0.1), killed]);
    let list = api(&sidecar, "/api/benchmarks/runs?limit=3");
    assert_eq!(ids(&list), ["4", "3", "2"]);
    assert_eq!(
        (&list["runs"][0]["state"], &list["runs"][0]["reason"]),
        (&json!("aborted"), &json!("the sidecar ended during the run"))
    );
    let next = list["next"].as_str().expect("another page");
    let list = api(&sidecar, &format!("/api/benchmarks/runs?limit=3&before={next}"));
    assert_eq!((ids(&list), &list["next"]), (vec!["1"], &Value::Null));
    let list = api(&sidecar, "/api/benchmarks/runs?state=aborted");
    assert_eq!(ids(&list), ["4"]);
    assert!(ids(&api(&sidecar, "/api/benchmarks/runs?benchmark=other")).is_empty());
    let trend = api(&sidecar, "/api/benchmarks/chat/trend");
    assert_eq!(trend["points"].as_array().map(Vec::len), Some(3), "{trend}");
    let response = sidecar.admin_send(&Call::get("/api/benchmarks/runs?state=over"));
    assert_eq!(problem(&response), (400, "invalid-state".to_owned()));
}

#[test]
fn a_run_is_compared_with_another_and_with_the_baseline() {
    let (sidecar, _data) = start(&[done(1, 0.1), done(2, 0.1), done(3, 0.13)]);
    let [one, two, three] = [1, 2, 3].map(|number| done(number, 0.0).id());
    let compare = |of: &str, with: &str| {
        api(&sidecar, &format!("/api/benchmarks/runs/{of}/comparison?with={with}"))
    };
    let same = compare(&two, &one);
    assert_eq!(
        (&same["verdict"], &same["a"], &same["b"]),
        (&json!("same"), &json!(one), &json!(two))
    );
    let response =
        sidecar.admin_send(&Call::get(&format!("/api/benchmarks/runs/{three}/comparison")));
    assert_eq!(problem(&response), (404, "no-baseline".to_owned()));
    let set = baseline(&sidecar, "PUT", &json!({ "run": one, "by": "ann" }));
    assert_eq!((set.status, &set.json()["run"]["id"]), (200, &json!(one)));
    let worse = compare(&three, "baseline");
    assert_eq!((&worse["verdict"], &worse["a"]), (&json!("worse"), &json!(one)), "{worse}");
    let change = &worse["measures"][0]["change"];
    let (low, high) = (change["low"].as_f64(), change["high"].as_f64());
    assert!(low.is_some_and(|low| low > 0.2) && high.is_some_and(|high| high < 0.4), "{change}");
    assert!(sidecar.log().iter().any(|line| line.contains("benchmark_baseline_set")));
    let cleared = baseline(&sidecar, "DELETE", &json!({}));
    assert_eq!((cleared.status, &cleared.json()["run"]), (200, &Value::Null));
    assert_eq!(api(&sidecar, "/api/benchmarks/chat/baseline")["run"], Value::Null);
}

#[test]
fn a_baseline_is_a_run_of_the_benchmark_that_is_done() {
    let aborted = Run { number: 2, state: "aborted", scale: 0.1 };
    let (sidecar, _data) = start(&[done(1, 0.1), aborted]);
    for (body, status, kind) in [
        (json!({ "run": "9" }), 404, "unknown-run"),
        (json!({ "run": done(2, 0.0).id() }), 409, "run-state"),
        (json!({ "runs": 1 }), 400, "invalid-body"),
    ] {
        let found = problem(&baseline(&sidecar, "PUT", &body));
        assert_eq!(found, (status, kind.to_owned()), "{body}");
    }
}

#[test]
fn damaged_calls_in_the_store_are_an_error_that_says_so() {
    let data = data_dir();
    write(data.path(), &[done(1, 0.1), done(2, 0.1)]);
    let db = rusqlite::Connection::open(data.path().join("outrigger.db")).expect("a database");
    let cut = "UPDATE benchmark_details SET blocks = substr(blocks, 1, 500) WHERE id = ?1";
    assert_eq!(db.execute(cut, [done(2, 0.0).id()]).expect("written"), 1);
    drop(db);
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    let sidecar = start_with_store(data.path(), &yaml);
    let path =
        format!("/api/benchmarks/runs/{}/comparison?with={}", done(2, 0.0).id(), done(1, 0.0).id());
    let response = sidecar.admin_send(&Call::get(&path));
    assert_eq!(problem(&response), (500, "damaged-run".to_owned()));
    let detail = response.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("is damaged in the store: its hash differs"), "{detail}");
    assert_eq!(ids(&api(&sidecar, "/api/benchmarks/runs")), ["2", "1"]);
}

#[test]
fn a_trend_shows_since_which_run_a_figure_has_another_level() {
    let level = |number: usize| if number < 12 { 0.1 } else { 0.15 };
    let noise = |number: usize| 1.0 + 0.002 * (number * 7 % 5) as f64;
    let runs: Vec<_> = (0..24).map(|n| done(n, level(n) * noise(n))).collect();
    let (sidecar, _data) = start(&runs);
    let trend = api(&sidecar, "/api/benchmarks/chat/trend?measure=p50");
    assert_eq!(trend["points"].as_array().map(Vec::len), Some(24));
    let changes = trend["changes"].as_array().expect("changes");
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(
        (&changes[0]["run"], &changes[0]["worse"]),
        (&json!(done(12, 0.0).id()), &json!(true))
    );
    let throughput = api(&sidecar, "/api/benchmarks/chat/trend?measure=throughput");
    assert_eq!(throughput["changes"], json!([]));
    let response = sidecar.admin_send(&Call::get("/api/benchmarks/chat/trend?measure=p51"));
    assert_eq!(response.status, 400);
}
