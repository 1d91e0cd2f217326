//! A refusal names each provider of the route with its own reason, and the soonest time to come back.

use serde_json::json;

use crate::fixtures::{
    access_record, chat, policy, post_admin, problem_type, route, single_worker,
};
use crate::support::{Behaviour, Gate, Origin, Response};

fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").and_then(|text| text.parse().ok()).expect("a Retry-After")
}

#[track_caller]
fn assert_names(response: &Response, kind: &str, parts: &[&str]) {
    assert_eq!(problem_type(response), kind, "{}", response.text());
    let detail = response.json()["detail"].as_str().expect("a detail").to_owned();
    for part in parts {
        assert!(detail.contains(part), "{part}: {detail}");
    }
}

#[test]
fn a_used_up_rate_limit_is_not_called_concurrency_or_a_hold() {
    for queue in ["", ", queue: none"] {
        let a = Origin::start(Behaviour::Chat);
        let route = route(&format!("providers: [a], timeout: 1s{queue}"));
        let sidecar =
            single_worker(&policy(&[("a", &a.url(), "capacity: { requests: 60/h }")], &route));
        assert_eq!(sidecar.send(&chat()).status, 200);
        let refused = sidecar.send(&chat());
        assert_names(&refused, "rate-limited", &["a: its rate limit is used up for "]);
        assert!((50..=60).contains(&retry_after(&refused)), "{:?}", refused.headers);
    }
}

#[test]
fn a_manual_override_is_named_with_its_author_and_reason() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let note = json!({ "for": "10m", "reason": "maintenance", "by": "ann" });
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &note);
    let refused = sidecar.send(&chat());
    let reason = "a: its breaker was opened manually by ann: maintenance, for another 10m";
    assert_names(&refused, "breaker-open", &[reason]);
    assert!((590..=600).contains(&retry_after(&refused)), "{:?}", refused.headers);
    post_admin(&sidecar, "/api/circuit-breakers/reset/a", &json!({}));
    post_admin(&sidecar, "/api/providers/drain/a", &note);
    assert_names(&sidecar.send(&chat()), "drained", &["a: drained manually by ann: maintenance"]);
}

#[test]
fn providers_with_different_reasons_are_each_named_with_their_own() {
    let gate = Gate::closed();
    let origins = [
        Origin::start(Behaviour::status(429, &[("retry-after", "60")])),
        Origin::start(Behaviour::status(500, &[])),
        Origin::start(Behaviour::Chat.held(&gate)),
        Origin::start(Behaviour::Chat),
    ];
    let urls = origins.each_ref().map(Origin::url);
    let providers = [
        ("a", &*urls[0], ""),
        ("b", &*urls[1], "auth: none"),
        ("c", &*urls[2], "capacity: { concurrency: 1 }"),
        ("d", &*urls[3], ""),
    ];
    let rest = "routes:\n  - { name: all, match: { path: /v1/** }, providers: [a], fallback: [b, c, d], queue: none }\n  \
                - { name: b, match: { path: /b }, providers: [b], retry: none }\n\
                breakers: { default: { failure_threshold: 1, recovery_timeout: 30s } }\n";
    let sidecar = single_worker(&policy(&providers, rest));
    post_admin(&sidecar, "/api/providers/drain/d", &json!({ "by": "ann", "reason": "rotation" }));
    assert_eq!(sidecar.send(&crate::support::Call::get("/b")).status, 500);
    let mut busy = sidecar.client();
    busy.send_only(&chat());
    sidecar.wait_until(|_| origins[2].count() == 1);
    let refused = sidecar.send(&chat());
    let parts = [
        "a: on hold for ",
        "because it asked to wait; b: its breaker is open, next probe in ",
        "c: 1 of 1 attempts are in flight",
        "d: drained manually by ann: rotation",
    ];
    assert_names(&refused, "unavailable", &parts);
    assert!((1..=36).contains(&retry_after(&refused)), "{:?}", refused.headers);
    gate.open_wide();
    assert_eq!(busy.read_response("POST").expect("a response").rest().status, 200);
}

#[test]
fn the_access_log_distinguishes_a_disabled_retry_from_spent_attempts() {
    for (retries, reason) in [
        ("retry: none", "retries_disabled"),
        ("retry: two", "attempts_spent"),
        ("retry: others", "class_not_retried"),
        ("retry: many", "no_endpoint_left"),
    ] {
        let a = Origin::start(Behaviour::status(500, &[]));
        let rest = route(&format!("providers: [a], idempotent: always, {retries}"))
            + "retries:\n  two: { max_attempts: 2, initial_delay: 1ms }\n  \
               others: { retry_on: [unsent] }\n  many: { max_attempts: 9, initial_delay: 1ms }\n\
               breakers: { default: { failure_threshold: 3 } }\n";
        let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
        let response = sidecar.send(&chat());
        assert_eq!(response.status, 500);
        assert_eq!(access_record(&sidecar, 1)["retry_denied"], reason, "{retries}");
        let status = response.header("proxy-status").expect("a Proxy-Status").to_owned();
        if reason == "no_endpoint_left" {
            assert!(status.contains("a: its breaker is open"), "{status}");
        }
    }
}
