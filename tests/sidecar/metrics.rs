//! What a scrape gets: text that Prometheus' own tool accepts, series that nobody can make grow, and
//! none of what is no more.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::fixtures::{GENEROUS, chat, policy, reload, route};
use crate::support::{Behaviour, Call, Origin, Sidecar};

/// More models than this have no breaker of their own at an address.
const MODELS: usize = 64;

fn text(sidecar: &Sidecar) -> String {
    let (status, text) = sidecar.admin_get("/metrics");
    assert_eq!(status, 200);
    text
}

/// Every series, without its value.
fn series(sidecar: &Sidecar) -> BTreeSet<String> {
    let text = text(sidecar);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

/// A sidecar in which everything that is counted has happened.
fn eventful() -> (Vec<Origin>, Sidecar) {
    let failing = Origin::start(Behaviour::status(500, &[]));
    let throttling = Origin::start(Behaviour::status(429, &[("retry-after", "60")]));
    let well = Origin::start(Behaviour::Chat);
    let providers = [
        ("failing", &*failing.url(), "breaker: tight"),
        ("throttling", &*throttling.url(), ""),
        ("well", &*well.url(), ""),
    ];
    let rest = "routes: [ { name: all, providers: [failing, throttling], fallback: [well], idempotent: always } ]\n\
                breakers: { tight: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let sidecar = Sidecar::start(&policy(&providers, &(rest.to_owned() + GENEROUS)));
    for _ in 0..20 {
        sidecar.send(&chat());
    }
    sidecar.admin_post("/api/providers/drain/throttling", &json!({}));
    (vec![failing, throttling, well], sidecar)
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (_origins, sidecar) = eventful();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there (tests/run installs it)");
    let text = text(&sidecar);
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn openmetrics_is_for_whoever_asks_for_it() {
    let (_origins, sidecar) = eventful();
    let asked = Call::get("/metrics")
        .header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let response = sidecar.admin_send(&asked);
    let kind = response.header("content-type").expect("a content type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(response.text().ends_with("# EOF\n"));
    assert!(!text(&sidecar).contains("# EOF"));
}

#[test]
fn states_and_causes_are_told() {
    let (origins, sidecar) = eventful();
    let (failing, throttling) = (origins[0].address(), origins[1].address());
    let told =
        |name: &str| sidecar.metric(name).unwrap_or_else(|| panic!("{name}:\n{}", text(&sidecar)));
    assert_eq!(
        told(&format!(
            r#"outrigger_held_credentials{{provider="throttling",endpoint="{throttling}"}}"#
        )),
        1.0
    );
    assert_eq!(told(r#"outrigger_provider_drained{provider="throttling"}"#), 1.0);
    assert!(told(r#"outrigger_retry_budget{route="all"}"#) > 0.0);
    assert!(told(r#"outrigger_concurrency_limit{provider="well"}"#) >= 1.0);
    let well = format!(
        r#"outrigger_endpoint_latency_seconds{{provider="well",endpoint="{}"}}"#,
        origins[2].address()
    );
    assert!((0.0..5.0).contains(&told(&well)));
    let opened = format!(
        r#"outrigger_breaker_transitions_total{{provider="failing",endpoint="{failing}",to="open",cause="consecutive"}}"#
    );
    assert_eq!(told(&opened), 1.0);
    assert!(told("process_resident_memory_bytes") > 1e6);
}

#[test]
fn no_application_can_make_the_series_grow() {
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
    // State and rejections of each model's breaker.
    assert!(after.len() <= before + 2 * MODELS, "{before} series, then {}", after.len());
    assert_eq!(a.count(), 10_001);
}

#[test]
fn what_a_policy_no_longer_names_is_no_longer_told() {
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
