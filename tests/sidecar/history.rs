//! The history of metrics and events: `/api/series`, the rates of `/api/status`, and `/api/events`
//! over a restart.

use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::degradation::PLAIN;
use crate::fixtures::{GENEROUS, api, chat, policy, post_admin, route};
use crate::jobs::{data_dir, start_with_store};
use crate::jobs_faults::limit_files;
use crate::support::{Behaviour, Call, Client, Origin, Sidecar};

const LAST_HALF_HOUR: &str = "/api/series?metric=requests&by=route,status";

/// A provider that works, one that fails, and a route to each.
fn yaml(healthy: &Origin, failing: &Origin) -> String {
    let providers = [("well", &*healthy.url(), PLAIN), ("failing", &*failing.url(), PLAIN)];
    let routes = "routes:\n\
        - { name: broken, match: { path: /broken }, providers: [failing] }\n\
        - { name: all, providers: [{ name: well, weight: 3 }, { name: failing, weight: 1 }], balance: weighted }\n";
    policy(&providers, &(routes.to_owned() + GENEROUS))
}

/// A policy with one provider.
fn simple(origin: &Origin) -> String {
    policy(&[("a", &origin.url(), "")], &route("providers: [a]"))
}

/// The number of events in all values of a series, by its labels.
fn counted(series: &Value, labels: &[(&str, &str)]) -> f64 {
    assert_eq!(series["kind"], "rate");
    let step = series["step_seconds"].as_f64().expect("a step");
    let is_meant =
        |one: &&Value| labels.iter().all(|(label, value)| one["labels"][label] == *value);
    let all = series["series"].as_array().expect("series").iter().filter(is_meant);
    let values = all.flat_map(|one| one["values"].as_array().expect("values"));
    values.filter_map(Value::as_f64).map(|rate| rate * step).sum()
}

/// Waits until the series have this many requests of the route `all`.
fn wait_for_requests(sidecar: &Sidecar, path: &str, count: u32) -> Value {
    let count = f64::from(count);
    let mut last = Value::Null;
    sidecar.wait_until(|sidecar| {
        last = api(sidecar, path);
        (counted(&last, &[("route", "all")]) - count).abs() < 1e-6
    });
    last
}

fn events(sidecar: &Sidecar, query: &str) -> Vec<Value> {
    let page = api(sidecar, &format!("/api/events?{query}"));
    page["events"].as_array().expect("events").clone()
}

fn drain(sidecar: &Sidecar, reason: &str) -> Value {
    let change = json!({ "by": "ann", "reason": reason });
    post_admin(sidecar, "/api/providers/drain/a", &change);
    events(sidecar, "kind=override&limit=1").remove(0)
}

#[test]
fn rates_and_series_report_what_the_metrics_count() {
    let healthy = Origin::start(Behaviour::Chat);
    let failing = Origin::start(Behaviour::status(500, &[]));
    let sidecar = Sidecar::start(&yaml(&healthy, &failing));
    for _ in 0..20 {
        sidecar.send(&chat());
    }
    for _ in 0..5 {
        sidecar.send(&Call::json("/broken", &json!({})));
    }
    let total = |name: &str, labels: &str| {
        sidecar.metric(&format!("outrigger_{name}_total{{{labels}}}")).unwrap_or(0.0)
    };
    let failed = total("requests", "route=\"broken\",status=\"5xx\"");
    assert!(failed >= 1.0, "the route to a failing provider fails");
    let mut status = Value::Null;
    sidecar.wait_until(|sidecar| {
        status = api(sidecar, "/api/status");
        let rates = &status["rates"];
        let seconds = rates["window_seconds"].as_f64().unwrap_or(0.0);
        (rates["requests_per_second"].as_f64().unwrap_or(0.0) * seconds - 25.0).abs() < 1e-6
    });
    let rates = &status["rates"];
    assert!(rates["failed_share"].as_f64().expect("a share") >= failed / 25.0 - 1e-9, "{rates}");
    assert!(rates["p50_ms"].as_f64().expect("a median") > 0.0, "{rates}");
    let route = |name: &str| {
        let routes = status["routes"].as_array().expect("routes");
        let found = routes.iter().find(|route| route["name"] == name).expect("a route");
        found["rates"].clone()
    };
    assert_eq!(route("broken")["failed_share"], failed / 5.0);
    let provider = |name: &str| {
        let providers = status["providers"].as_array().expect("providers");
        providers.iter().find(|one| one["name"] == name).expect("a provider")["rates"].clone()
    };
    let (well, bad) = (provider("well"), provider("failing"));
    assert_eq!((&well["success_share"], &bad["success_share"]), (&json!(1.0), &json!(0.0)));
    assert_eq!(well["share_wanted"], 0.75);
    let seen = |rates: &Value| rates["share_seen"].as_f64().expect("a share");
    // All routes of `well` lead to both; so does the second route of `failing`.
    assert!((seen(&well) + seen(&bad) - 1.0).abs() < 1e-9, "{well} {bad}");
    assert!(well["p50_ms"].as_f64().expect("a median") > 0.0, "{well}");

    let series = wait_for_requests(&sidecar, LAST_HALF_HOUR, 20);
    assert_eq!(series["step_seconds"], 10);
    let broken = [("route", "broken"), ("status", "5xx")];
    assert_eq!(counted(&series, &broken).round(), failed);
    let attempts = api(&sidecar, "/api/series?metric=attempts&by=class&where=provider:well");
    let succeeded = counted(&attempts, &[("class", "success")]);
    let expected = healthy.count() as f64;
    assert!((succeeded - expected).abs() < 1e-6, "{succeeded} of {expected}");
    let seconds = api(&sidecar, "/api/series?metric=request_duration_seconds&where=route:all");
    assert_eq!(
        (&seconds["kind"], seconds["series"].as_array().map(Vec::len)),
        (&json!("quantile"), Some(4))
    );
    let limits = api(&sidecar, "/api/series?metric=concurrency_limit&by=&from=1m");
    assert_eq!(limits["kind"], "level");
    assert!(limits["series"][0]["values"].as_array().expect("values").iter().any(Value::is_number));
}

#[test]
fn a_series_that_cannot_be_read_is_refused_with_what_was_expected() {
    let origin = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::start(&simple(&origin));
    for (query, expected) in [
        ("metric=nothing", "expected one of requests,"),
        ("metric=requests&by=provider", "no label `provider` (expected one of route, status)"),
        ("metric=requests&where=route", "expected label:value"),
        ("metric=requests&from=1h&step=1s", "expected at least 10s"),
        ("metric=requests&from=7d&step=1m", "expected at most 1500"),
        ("metric=requests&from=5m&to=10m", "`from` is not before `to`"),
        ("metric=requests&since=5m", "unknown parameter `since`"),
    ] {
        let (status, text) = sidecar.admin_get(&format!("/api/series?{query}"));
        assert_eq!(status, 400, "{query}: {text}");
        assert!(text.contains(expected), "{query}: {text}");
    }
}

#[test]
fn history_and_events_are_there_after_a_restart() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = simple(&origin);
    let mut first = start_with_store(data.path(), &yaml);
    let drained = drain(&first, "maintenance");
    assert_eq!(
        (&drained["state"], &drained["cause"]),
        (&json!("drain"), &json!("by ann: maintenance"))
    );
    post_admin(&first, "/api/providers/undrain/a", &json!({}));
    for _ in 0..7 {
        first.send(&chat());
    }
    wait_for_requests(&first, LAST_HALF_HOUR, 7);
    assert!(first.stop().success());

    let second = start_with_store(data.path(), &yaml);
    let stored = events(&second, "kind=override");
    assert_eq!((stored.len(), &stored[1]), (2, &drained));
    let newer = drain(&second, "again");
    assert!(newer["id"].as_u64() > stored[0]["id"].as_u64(), "{newer}");
    // A client that connects again receives the events that it missed.
    let call = Call::get("/api/events/stream?kind=override")
        .header("last-event-id", &drained["id"].to_string());
    let mut client = Client::to(&second.admin_url("/"));
    let mut stream = client.start(&call);
    let mut missed = std::iter::from_fn(|| stream.next_event()).filter(|data| !data.is_empty());
    let first_event = missed.next().expect("an event");
    assert!(first_event.contains("\"undrain\""), "{first_event}");
    wait_for_requests(&second, LAST_HALF_HOUR, 7);
    for _ in 0..3 {
        second.send(&chat());
    }
    wait_for_requests(&second, LAST_HALF_HOUR, 10);
}

#[test]
fn ids_ascend_and_history_resumes_when_the_clock_was_set_back() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = simple(&origin);
    let start = |offset| {
        let builder = Sidecar::builder().policy("policy", &yaml).workers(1).data(data.path());
        builder.clock(offset, 1).start()
    };
    let mut first = start(7_200);
    let before = drain(&first, "two hours early");
    first.send(&chat());
    wait_for_requests(&first, LAST_HALF_HOUR, 1);
    assert!(first.stop().success());
    let second = start(0);
    let after = drain(&second, "in time");
    assert!(after["id"].as_u64() > before["id"].as_u64(), "{before} {after}");
    assert!(after["at"].as_str() < before["at"].as_str(), "{before} {after}");
    (0..4).for_each(|_| drop(second.send(&chat())));
    wait_for_requests(&second, LAST_HALF_HOUR, 4);
}

/// Changes the database of a sidecar that has ended.
fn change_database(data: &Path, sql: &str) {
    let database = Connection::open(data.join("outrigger.db")).expect("a database");
    database.execute_batch(sql).expect("changed");
}

#[test]
fn damaged_rows_are_an_honest_error_and_harm_nothing_else() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = simple(&origin);
    let mut first = start_with_store(data.path(), &yaml);
    drain(&first, "maintenance");
    post_admin(&first, "/api/providers/undrain/a", &json!({}));
    first.send(&chat());
    wait_for_requests(&first, LAST_HALF_HOUR, 1);
    assert!(first.stop().success());
    change_database(
        data.path(),
        "UPDATE samples_10s SET data = 7; UPDATE samples_1m SET data = 7;
         UPDATE samples_1h SET data = 7; UPDATE events SET record = '{' WHERE record LIKE '%maintenance%'",
    );
    // Later, so that a time without damaged rows can be read.
    let builder = Sidecar::builder().policy("policy", &yaml).workers(1).data(data.path());
    let second = builder.clock(600, 5).start();
    let (status, text) = second.admin_get("/api/series?metric=requests&from=2h");
    assert!(status == 503 && text.contains("store-unavailable"), "{status} {text}");
    let kept = events(&second, "kind=override");
    assert_eq!((kept.len(), &kept[0]["state"]), (1, &json!("undrain")));
    assert_eq!(second.send(&chat()).status, 200);
    wait_for_requests(&second, "/api/series?metric=requests&by=route&from=5m", 1);
}

#[test]
fn a_full_disk_delays_events_and_loses_none() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let yaml = simple(&origin);
    let mut first = start_with_store(data.path(), &yaml);
    limit_files(&first, "4096");
    let drained = drain(&first, "on a full disk");
    first.wait_for_log(|line| line.contains("cannot store the events"));
    assert_eq!(api(&first, "/api/status")["ready"], true);
    assert_eq!(events(&first, "kind=override"), std::slice::from_ref(&drained));
    limit_files(&first, "unlimited");
    assert!(first.stop().success());
    let second = start_with_store(data.path(), &yaml);
    assert_eq!(events(&second, "kind=override"), [drained]);
}
