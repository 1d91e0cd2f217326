//! `/metrics`: accepted by promtool, with a bounded number of series, without removed entities.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::fixtures::{GENEROUS, chat, policy, reload, route};
use crate::support::{Behaviour, Call, Origin, Sidecar};

/// Maximum number of models with a breaker of their own per endpoint.
const MODELS: usize = 64;

fn scrape(sidecar: &Sidecar) -> String {
    let (status, text) = sidecar.admin_get("/metrics");
    assert_eq!(status, 200);
    text
}

/// Every series without its value.
fn series(sidecar: &Sidecar) -> BTreeSet<String> {
    let text = scrape(sidecar);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

/// A sidecar that has seen every kind of event that is counted.
fn sidecar_with_events() -> (Vec<Origin>, Sidecar) {
    let failing = Origin::start(Behaviour::status(500, &[]));
    let throttling = Origin::start(Behaviour::status(429, &[("retry-after", "60")]));
    let healthy = Origin::start(Behaviour::Chat);
    let providers = [
        ("failing", &*failing.url(), "breaker: tight"),
        ("throttling", &*throttling.url(), ""),
        ("well", &*healthy.url(), ""),
    ];
    let rest = "routes: [ { name: all, providers: [failing, throttling], fallback: [well], idempotent: always } ]\n\
                breakers: { tight: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let sidecar = Sidecar::start(&policy(&providers, &(rest.to_owned() + GENEROUS)));
    for _ in 0..20 {
        sidecar.send(&chat());
    }
    sidecar.admin_post("/api/providers/drain/throttling", &json!({}));
    (vec![failing, throttling, healthy], sidecar)
}

#[test]
fn promtool_reports_no_problems() {
    let (_origins, sidecar) = sidecar_with_events();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there (tests/run installs it)");
    let text = scrape(&sidecar);
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("it ends");
    let report = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && report.trim().is_empty(), "{report}\n{text}");
}

#[test]
fn openmetrics_is_served_on_request() {
    let (_origins, sidecar) = sidecar_with_events();
    let openmetrics = Call::get("/metrics")
        .header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let response = sidecar.admin_send(&openmetrics);
    let kind = response.header("content-type").expect("a content type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(response.text().ends_with("# EOF\n"));
    assert!(!scrape(&sidecar).contains("# EOF"));
}

#[test]
fn states_and_causes_are_exported() {
    let (origins, sidecar) = sidecar_with_events();
    let (failing, throttling) = (origins[0].address(), origins[1].address());
    let value = |name: &str| {
        sidecar.metric(name).unwrap_or_else(|| panic!("{name}:\n{}", scrape(&sidecar)))
    };
    assert_eq!(
        value(&format!(
            r#"outrigger_held_credentials{{provider="throttling",endpoint="{throttling}"}}"#
        )),
        1.0
    );
    assert_eq!(value(r#"outrigger_provider_drained{provider="throttling"}"#), 1.0);
    assert!(value(r#"outrigger_retry_budget{route="all"}"#) > 0.0);
    assert!(value(r#"outrigger_concurrency_limit{provider="well"}"#) >= 1.0);
    let healthy = format!(
        r#"outrigger_endpoint_latency_seconds{{provider="well",endpoint="{}"}}"#,
        origins[2].address()
    );
    assert!((0.0..5.0).contains(&value(&healthy)));
    let opened = format!(
        r#"outrigger_breaker_transitions_total{{provider="failing",endpoint="{failing}",to="open",cause="consecutive"}}"#
    );
    assert_eq!(value(&opened), 1.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
}

#[test]
fn requests_cannot_grow_the_number_of_series() {
    let a = Origin::start(Behaviour::Chat);
    let rest =
        route("providers: [a], idempotent: always") + "breakers: { default: { scope: model } }\n";
    let sidecar = Sidecar::start(&policy(&[("a", &a.url(), "")], &rest));
    sidecar.send(&chat());
    let before = series(&sidecar).len();
    thread::scope(|scope| {
        for half in 0..2 {
            let mut client = sidecar.client();
            scope.spawn(move || {
                for i in 0..5_000 {
                    let name = format!("{half}-{i}");
                    let body = json!({ "model": name, "messages": [] });
                    let call = Call::json(&format!("/v1/{name}?q={name}"), &body)
                        .header("x-tenant", &name)
                        .header("user-agent", &name);
                    assert_eq!(client.send(&call).status, 200);
                }
            });
        }
    });
    let after = series(&sidecar);
    // Two series for each breaker: state and rejections.
    assert!(after.len() <= before + 2 * MODELS, "{before} series, then {}", after.len());
    assert_eq!(a.count(), 10_001);
}

#[test]
fn series_of_removed_routes_and_providers_disappear() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(500, &[])));
    let providers = [("kept", &*a.url(), "auth: none"), ("gone", &*b.url(), "auth: none")];
    let routes = "routes:\n  - { name: left, match: { path: /left }, providers: [gone], fallback: [kept] }\n";
    let all = "  - { name: all, providers: [kept] }\n";
    let sidecar = Sidecar::start(&policy(&providers, &format!("{routes}{all}")));
    for path in ["/left", "/right"] {
        sidecar.send(&Call::get(path));
    }
    let names = |word: &str| {
        series(&sidecar).into_iter().filter(|line| line.contains(word)).collect::<Vec<_>>()
    };
    assert!(!names("\"left\"").is_empty() && !names("\"gone\"").is_empty());
    reload(&sidecar, || {
        sidecar.write_policy("policy", &policy(&providers[..1], &format!("routes:\n{all}")));
    });
    sidecar.wait_until(|_| names("\"left\"").is_empty() && names("\"gone\"").is_empty());
    assert!(!names("\"kept\"").is_empty());
}
