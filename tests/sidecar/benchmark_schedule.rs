//! Benchmarks that the schedule starts: when they are due, once in a fleet, and never half.

use serde_json::Value;

use crate::fixtures::{api, policy};
use crate::support::{Behaviour, Origin, RedisServer, Sidecar, Signal, fleet};

/// A policy with a benchmark that is due every six hours.
fn scheduled(origin: &Origin, load: &str) -> String {
    let rest = format!(
        "routes: [ {{ name: chat, providers: [a], retry: none }} ]\n\
         benchmarks: {{ speed: {{ target: {{ route: chat }}, requests: [{{ path: / }}], load: {load}, \
         every: 6h }} }}\n"
    );
    policy(&[("a", &origin.url(), "")], &rest)
}

const SHORT: &str = "{ rate: 20/s, for: 1s }";
const LONG: &str = "{ rate: 20/s, for: 1h }";

/// The runs, newest first, each with its state.
fn runs(sidecar: &Sidecar) -> Vec<(String, String)> {
    let list = api(sidecar, "/api/benchmarks/runs?benchmark=speed");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let runs = list["runs"].as_array().expect("a list");
    runs.iter().map(|run| (text(&run["id"]), text(&run["state"]))).collect()
}

fn wait_for(sidecar: &Sidecar, state: &str) -> String {
    let newest = |sidecar: &Sidecar| runs(sidecar).into_iter().next();
    sidecar.wait_until(|sidecar| newest(sidecar).is_some_and(|(_, found)| found == state));
    newest(sidecar).expect("a run").0
}

#[test]
fn a_run_starts_when_six_hours_have_passed_since_the_last() {
    let (origin, data) =
        (Origin::start(Behaviour::Chat), tempfile::tempdir().expect("a directory"));
    let yaml = scheduled(&origin, SHORT);
    let at = |hours: i64| {
        let offset = (hours * 3600).to_string();
        let sidecar = Sidecar::builder().policy("policy", &yaml).data(data.path());
        sidecar.env("OUTRIGGER_CLOCK_OFFSET", &offset).start()
    };
    let sidecar = at(0);
    let first = wait_for(&sidecar, "done");
    let status = api(&sidecar, "/api/benchmarks")["benchmarks"][0].clone();
    assert_eq!(
        (&status["every"], &status["last"]["trigger"]),
        (&21_600.0.into(), &"schedule".into())
    );
    assert!(status["next"].is_string(), "{status}");
    drop(sidecar);
    let sidecar = at(5);
    // The schedule has looked: it says when the next run is due.
    sidecar
        .wait_until(|sidecar| api(sidecar, "/api/benchmarks")["benchmarks"][0]["next"].is_string());
    assert_eq!(runs(&sidecar).len(), 1);
    drop(sidecar);
    let sidecar = at(7);
    sidecar.wait_until(|sidecar| runs(sidecar).len() == 2);
    assert_ne!(wait_for(&sidecar, "done"), first);
}

#[test]
fn a_run_that_is_killed_is_aborted_and_counts_nowhere() {
    let (origin, data) =
        (Origin::start(Behaviour::Chat), tempfile::tempdir().expect("a directory"));
    let yaml = scheduled(&origin, LONG);
    let start = || Sidecar::builder().policy("policy", &yaml).data(data.path()).start();
    let sidecar = start();
    sidecar.wait_until(|_| origin.count() > 10);
    let id = wait_for(&sidecar, "running");
    sidecar.signal(Signal::Kill);
    drop(sidecar);
    let sidecar = start();
    assert_eq!(runs(&sidecar), [(id.clone(), "aborted".to_owned())]);
    let report = api(&sidecar, &format!("/api/benchmarks/runs/{id}"));
    assert_eq!(report["arms"][0]["figures"]["calls"], 0, "{report}");
    let trend = api(&sidecar, "/api/benchmarks/speed/trend?measure=p95");
    assert_eq!(trend["points"].as_array().map(Vec::len), Some(0), "{trend}");
}

#[test]
fn one_of_two_hosts_of_a_fleet_runs_a_benchmark() {
    let (origin, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let yaml = scheduled(&origin, SHORT);
    let hosts = [(); 2].map(|()| fleet::host(&redis.url(), &yaml).start());
    let all = || hosts.iter().map(runs).collect::<Vec<_>>().concat();
    hosts[0].wait_until(|_| all().iter().any(|(_, state)| state == "done"));
    // The other has been told when the next one is due.
    for host in &hosts {
        host.wait_until(|host| api(host, "/api/benchmarks")["benchmarks"][0]["next"].is_string());
    }
    assert_eq!(all().len(), 1);
    assert_eq!(origin.count(), 20);
}
