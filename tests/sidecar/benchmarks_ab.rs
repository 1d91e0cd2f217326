//! Two targets that are measured alternately.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use outrigger::benchmark::local::{LocalTarget, run_local};
use outrigger::benchmark::report::RunState;
use outrigger::snapshot::loader;
use serde_json::{Value, json};

use crate::benchmarks::ended;
use crate::fixtures::policy;
use crate::support::{Behaviour, Origin, Sidecar};

/// Responds after `base`, which grows by 30 % over `over`.
fn drifting(base: Duration, over: Duration) -> Behaviour {
    let first: Mutex<Option<Instant>> = Mutex::default();
    Behaviour::custom(move |request| {
        let began = *first.lock().expect("the lock").get_or_insert(request.at);
        let passed = request.at.duration_since(began).as_secs_f64() / over.as_secs_f64();
        Behaviour::Chat.after(base.mul_f64(1.0 + 0.3 * passed.min(1.0)))
    })
}

fn two_providers(a: &Origin, b: &Origin, benchmark: &str) -> String {
    let rest = format!(
        "routes: [ {{ name: chat, providers: [a] }} ]\nbenchmarks: {{ speed: {{ requests: [{{ path: /v1/models }}], target: {{ provider: a }}, {benchmark} }} }}\n"
    );
    policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest)
}

/// Compares `a` with `b`, both of which become slower; b takes `factor` times as long.
fn compare(factor: f64) -> Value {
    let over = Duration::from_secs(8);
    let base = Duration::from_millis(40);
    let (a, b) =
        (Origin::start(drifting(base, over)), Origin::start(drifting(base.mul_f64(factor), over)));
    let load = "load: { concurrency: 8, for: 4s, warm_up: 200ms }";
    let sidecar = Sidecar::start(&two_providers(&a, &b, load));
    let body = json!({ "a": "provider:a", "b": "provider:b", "by": "ann" });
    let (status, text) = sidecar.admin_post("/api/benchmarks/speed/runs", &body);
    assert_eq!(status, 201, "{text}");
    let begun: Value = serde_json::from_str(&text).expect("JSON");
    let report = ended(&sidecar, begun["id"].as_str().expect("an id"));
    sidecar.wait_for_log(|line| line.contains("benchmark_start") && line.contains("ann"));
    report["comparison"].clone()
}

#[test]
fn a_provider_that_is_slower_is_worse_although_both_become_slower() {
    let comparison = compare(1.3);
    assert_eq!(comparison["verdict"], "worse", "{comparison}");
    assert_eq!((&comparison["a"], &comparison["b"]), (&"provider a".into(), &"provider b".into()));
    let change = comparison["measures"][0]["change"]["estimate"].as_f64().expect("a change");
    assert!((0.2..0.4).contains(&change), "{comparison}");
}

/// `tests/drill bench` sets the number of rounds.
#[test]
fn verdicts_of_many_drifting_runs_are_right() {
    let rounds = std::env::var("OUTRIGGER_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(0);
    let mut wrong = 0;
    for round in 0..rounds {
        let (equal, slower) = (compare(1.0), compare(1.1));
        let is_wrong = ["worse", "better"].contains(&equal["verdict"].as_str().unwrap_or_default())
            || slower["verdict"] == "better"
            || slower["verdict"] == "same";
        wrong += usize::from(is_wrong);
        println!("round {round}: equal: {}, 10 % slower: {}", equal["verdict"], slower["verdict"]);
    }
    println!("{wrong} of {rounds} rounds are wrong");
    assert!(wrong * 20 <= rounds, "{wrong} of {rounds} rounds are wrong");
}

#[test]
fn two_policies_are_compared_without_a_sidecar() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.yaml");
    let yaml = two_providers(&a, &b, "load: { rate: 50/s, for: 1s }");
    std::fs::write(&path, yaml).expect("written");
    let pending = loader::read(&path).expect("a valid policy");
    let target = |name, target| LocalTarget { policy: &pending.loaded, name, target };
    let targets = [target("old", None), target("new", Some("provider:b"))];
    let mut updates = 0;
    let ran = run_local(&targets, "speed", |_| {
        updates += 1;
        Ok(())
    });
    let (report, blocks) = ran.expect("a report");
    assert_eq!((report.state, blocks.len()), (RunState::Done, 2), "{report:?}");
    let labels: Vec<_> = report.arms.iter().map(|arm| arm.target.as_str()).collect();
    assert_eq!(labels, ["old: provider a", "new: provider b"]);
    assert!(report.comparison.is_some() && updates > 0);
    assert_eq!((a.count(), b.count()), (50, 50));
    assert!(run_local(&targets, "none", |_| Ok(())).is_err());
}
