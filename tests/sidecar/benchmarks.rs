//! Benchmarks: the figures of a run, and that it harms nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{api, chat, policy, post_admin, reload, state};
use crate::support::{Behaviour, Call, Origin, Sidecar};

const MS: Duration = Duration::from_millis(1);

/// A policy with one provider, one route, and a benchmark with these keys.
fn with_benchmark(origin: &Origin, provider: &str, benchmark: &str) -> String {
    let route = "routes: [ { name: chat, providers: [a], retry: none } ]\n";
    let request = "{ path: /v1/chat/completions, json: { model: small, messages: [] } }";
    let benchmark = format!(
        "benchmarks: {{ speed: {{ requests: [{request}], target: {{ route: chat }}, {benchmark} }} }}\n"
    );
    policy(&[("a", &origin.url(), provider)], &(route.to_owned() + &benchmark))
}

fn start(sidecar: &Sidecar) -> String {
    let (status, text) = sidecar.admin_post("/api/benchmarks/speed/runs", &json!({}));
    assert_eq!(status, 201, "{text}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["state"], "running");
    report["id"].as_str().expect("an id").to_owned()
}

fn run(sidecar: &Sidecar, id: &str) -> Value {
    api(sidecar, &format!("/api/benchmarks/runs/{id}"))
}

/// Waits for the end of a run.
pub fn ended(sidecar: &Sidecar, id: &str) -> Value {
    sidecar.wait_until(|sidecar| run(sidecar, id)["state"] != "running");
    run(sidecar, id)
}

fn done(sidecar: &Sidecar, id: &str) -> Value {
    let report = ended(sidecar, id);
    assert_eq!(report["state"], "done", "{report}");
    report
}

fn latency(report: &Value, quantile: &str) -> f64 {
    report["arms"][0]["figures"]["latency"][quantile].as_f64().expect("a latency")
}

/// Responds after these delays in turn, and records how long each response took.
pub fn delayed(delays: Vec<Duration>, served: &Arc<Mutex<Vec<Duration>>>) -> Behaviour {
    let (served, next) = (Arc::clone(served), Mutex::new(0));
    Behaviour::custom(move |_| {
        let mut next = next.lock().expect("the lock");
        let delay = delays[*next % delays.len()];
        *next += 1;
        let served = Arc::clone(&served);
        let respond = move |request: &crate::support::Request| {
            served.lock().expect("the lock").push(request.at.elapsed());
            Behaviour::Chat
        };
        Behaviour::custom(respond).after(delay)
    })
}

#[test]
fn percentiles_are_within_one_percent_of_what_the_provider_took() {
    let served = Arc::default();
    // 400 ms to 1390 ms, in no order: one percent is more than a busy machine adds.
    let delays = (0..100).map(|n| (400 + (n * 37 % 100) * 10) * MS).collect();
    let origin = Origin::start(delayed(delays, &served));
    let keys = "load: { rate: 20/s, for: 10s }, thresholds: [\"p95 < 100ms\", \"error_rate < 1%\"]";
    let sidecar = Sidecar::start(&with_benchmark(&origin, "", keys));
    let report = done(&sidecar, &start(&sidecar));
    let mut truth: Vec<f64> =
        served.lock().expect("the lock").iter().map(Duration::as_secs_f64).collect();
    truth.sort_by(f64::total_cmp);
    assert_eq!((truth.len(), &report["arms"][0]["figures"]["calls"]), (200, &json!(200)));
    for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let exact = truth[(share * 200.0_f64).ceil() as usize - 1];
        let found = latency(&report, name);
        assert!((found / exact - 1.0).abs() < 0.01, "{name}: {found}, the provider took {exact}");
    }
    let thresholds = report["thresholds"].as_array().expect("a list");
    let holds: Vec<_> = thresholds.iter().map(|one| one["holds"] == true).collect();
    assert_eq!(holds, [false, true], "{thresholds:?}");
    sidecar.wait_for_log(|line| line.contains("missed a threshold") && line.contains("p95"));
    let events = api(&sidecar, "/api/circuit-breakers")["events"].to_string();
    assert!(events.contains("missed p95 < 100ms"), "{events}");
    let series = "outrigger_benchmark_latency_seconds{benchmark=\"speed\",quantile=\"0.95\"}";
    let metric = sidecar.metric(series).expect("a metric");
    assert!((metric / latency(&report, "p95") - 1.0).abs() < 0.001, "{metric}");
    let list = api(&sidecar, "/api/benchmarks");
    assert_eq!(list["benchmarks"][0]["last"]["id"], report["id"], "{list}");
    assert_eq!(list["benchmarks"][0]["target"], "route chat");
}

#[test]
fn a_stall_of_the_provider_appears_in_the_percentiles_of_an_open_loop() {
    let first: Mutex<Option<Instant>> = Mutex::default();
    let stall = move |request: &crate::support::Request| {
        let began = *first.lock().expect("the lock").get_or_insert(request.at);
        let since = request.at.duration_since(began);
        let stalls = (1000 * MS..3000 * MS).contains(&since);
        let left = if stalls { 3000 * MS - since } else { Duration::ZERO };
        Behaviour::Chat.after(left)
    };
    let origin = Origin::start(Behaviour::custom(stall));
    let keys = "share: 50%, load: { rate: 50/s, for: 6s }";
    // Three calls in flight: the others wait, and that is part of their latency.
    let sidecar = Sidecar::start(&with_benchmark(&origin, "capacity: { concurrency: 6 }", keys));
    let report = done(&sidecar, &start(&sidecar));
    // Of 300 calls, those of the stall took up to 2 s, and three took longer than the 99th percentile.
    let p99 = latency(&report, "p99");
    assert!((1.85..=2.1).contains(&p99), "{report}");
    assert!(latency(&report, "p50") < 0.3, "{report}");
    assert_eq!(origin.most_in_flight(), 3, "half of the capacity");
    assert_eq!(report["arms"][0]["figures"]["failed"], 0);
}

#[test]
fn failures_of_a_run_touch_nothing_of_the_applications_calls() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let sidecar = Sidecar::start(&with_benchmark(
        &origin,
        "",
        "load: { rate: 100/s, for: 1s, warm_up: 500ms }",
    ));
    let report = done(&sidecar, &start(&sidecar));
    let figures = &report["arms"][0]["figures"];
    assert_eq!((&figures["calls"], &figures["error_rate"]), (&json!(100), &json!(1.0)), "{report}");
    assert_eq!(state(&sidecar, "a"), "closed");
    assert_eq!(api(&sidecar, "/api/benchmarks/series")["series"], json!([]));
    let (_, metrics) = sidecar.admin_get("/metrics");
    let counted = metrics.lines().filter(|line| {
        line.starts_with("outrigger_requests_total{")
            || line.starts_with("outrigger_attempts_total{")
    });
    assert!(counted.clone().all(|line| line.ends_with(" 0")), "{:?}", counted.collect::<Vec<_>>());
    assert_eq!(sidecar.access_log(), Vec::<Value>::new());
    origin.set(Behaviour::Chat);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn no_run_starts_beside_another_and_a_run_can_be_stopped() {
    let origin = Origin::start(Behaviour::Chat.after(Duration::from_millis(20)));
    let yaml = with_benchmark(&origin, "", "load: { concurrency: 2, for: 1h }");
    let sidecar = Sidecar::start(&yaml);
    let id = start(&sidecar);
    let (status, text) = sidecar.admin_post("/api/benchmarks/speed/runs", &json!({}));
    assert_eq!(status, 409);
    assert!(text.contains("benchmark-running") && text.contains(&id), "{text}");
    let calls = |sidecar: &Sidecar| run(sidecar, &id)["arms"][0]["figures"]["calls"].as_u64();
    sidecar.wait_until(|sidecar| calls(sidecar) > Some(10));
    assert!(latency(&run(&sidecar, &id), "p95") > 0.0, "figures while it runs");
    // A reload changes nothing for a run under way.
    reload(&sidecar, || sidecar.write_policy("policy", &(yaml.clone() + "# changed\n")));
    assert_eq!(run(&sidecar, &id)["state"], "running");
    let path = format!("/api/benchmarks/runs/{id}");
    let foreign = Call::new("DELETE", &path).header("origin", "http://elsewhere.example");
    assert_eq!(sidecar.admin_send(&foreign).status, 403);
    assert_eq!(sidecar.admin_send(&Call::new("DELETE", &path)).status, 200);
    let report = ended(&sidecar, &id);
    assert_eq!(
        (&report["state"], &report["reason"]),
        (&"aborted".into(), &"stopped by an operator".into())
    );
    assert_eq!(origin.most_in_flight(), 2);
    assert_eq!(
        sidecar.metric("outrigger_benchmark_runs_total{benchmark=\"speed\",state=\"aborted\"}"),
        Some(1.0)
    );
}

#[test]
fn a_run_needs_a_target_that_takes_calls_and_ends_when_it_takes_none() {
    let origin = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::start(&with_benchmark(&origin, "", "load: { rate: 20/s, for: 1h }"));
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    let (status, text) = sidecar.admin_post("/api/benchmarks/speed/runs", &json!({}));
    assert!(status == 409 && text.contains("its breaker was opened"), "{text}");
    post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    let id = start(&sidecar);
    origin.wait_for_requests(5);
    post_admin(&sidecar, "/api/providers/drain/a", &json!({ "reason": "maintenance" }));
    let report = ended(&sidecar, &id);
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(report["state"] == "aborted" && reason.contains("maintenance"), "{report}");
}

#[test]
fn a_run_ends_early_when_a_threshold_cannot_hold() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let keys =
        "load: { rate: 50/s, for: 20s }, thresholds: [\"error_rate < 1%\"], abort_on_fail: true";
    let sidecar = Sidecar::start(&with_benchmark(&origin, "", keys));
    let report = ended(&sidecar, &start(&sidecar));
    assert_eq!(report["state"], "aborted", "{report}");
    assert_eq!(report["reason"], "the threshold `error_rate < 1%` is broken");
    assert!(report["arms"][0]["figures"]["calls"].as_u64() < Some(500), "{report}");
}

#[test]
fn unknown_names_are_problems_with_the_known_ones() {
    let origin = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::start(&with_benchmark(&origin, "", "load: { rate: 20/s, for: 1s }"));
    let (status, text) = sidecar.admin_post("/api/benchmarks/sped/runs", &json!({}));
    assert!(status == 404 && text.contains("speed"), "{text}");
    let (status, text) =
        sidecar.admin_post("/api/benchmarks/speed/runs", &json!({ "a": "provider:a", "b": "b" }));
    assert!(status == 400 && text.contains("expected `route:NAME` or `provider:NAME`"), "{text}");
    let (status, text) =
        sidecar.admin_post("/api/benchmarks/speed/runs", &json!({ "a": "provider:a" }));
    assert!(status == 400 && text.contains("send both"), "{text}");
    assert_eq!(sidecar.admin_get("/api/benchmarks/runs/0").0, 404);
}
