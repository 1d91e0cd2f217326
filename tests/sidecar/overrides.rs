//! `x-outrigger-*` headers: a route lists the allowed ones; any other is rejected by name.

use crate::fixtures::{GENEROUS, access_record, chat, policy, problem_type, route, single_worker};
use crate::support::{Behaviour, Origin, Sidecar};

fn start_allowing(allowed: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::status(500, &[]));
    let route = route(&format!("providers: [a]{allowed}"));
    let sidecar = single_worker(&policy(&[("a", &a.url(), "breaker: none")], &(route + GENEROUS)));
    (a, sidecar)
}

#[test]
fn an_allowed_override_applies_to_its_request_only() {
    let (a, sidecar) = start_allowing(", allow_override: [retry, idempotent]");
    let always = chat().header("x-outrigger-idempotent", "always");
    for (call, attempts) in [
        (chat(), 1),
        (always.clone(), 3),
        (always.clone().header("x-outrigger-retry", "max_attempts=2"), 2),
        (always.clone().header("X-Outrigger-Retry", "max_attempts=1"), 1),
        (always.clone().header("x-outrigger-idempotent-key", ""), 0),
        (chat().header("idempotency-key", "1").header("x-outrigger-idempotent", "never"), 1),
        (always, 3),
    ] {
        let before = a.count();
        let status = sidecar.send(&call).status;
        assert_eq!(a.count() - before, attempts, "{:?}", call.headers);
        assert_eq!(status, if attempts == 0 { 400 } else { 500 }, "{:?}", call.headers);
    }
    for request in a.requests() {
        let override_header =
            request.headers.0.iter().find(|(name, _)| name.to_lowercase().contains("outrigger"));
        assert_eq!(override_header, None, "an override header was forwarded");
    }
}

#[test]
fn a_timeout_may_be_shortened_where_the_route_allows_it() {
    let (a, sidecar) = start_allowing(", allow_override: [timeout]");
    a.set(Behaviour::Silent);
    let response = sidecar.send(&chat().header("x-outrigger-timeout", "200ms"));
    assert_eq!(response.status, 504);
    assert_eq!(problem_type(&response), "deadline");
    let took = access_record(&sidecar, 1)["duration_ms"].as_f64().expect("a duration");
    assert!((190.0..5000.0).contains(&took), "{took} ms");
}

#[test]
fn an_override_not_allowed_by_the_route_is_rejected_by_name() {
    let (a, sidecar) = start_allowing(", allow_override: [timeout]");
    for (name, value) in [
        ("x-outrigger-retry", "max_attempts=1"),
        ("x-outrigger-idempotent", "always"),
        ("x-outrigger-priority", "high"),
        ("x-outrigger-timeuot", "1s"),
        ("x-outrigger-timeout", "soon"),
        ("x-outrigger-timeout", "0s"),
    ] {
        let response = sidecar.send(&chat().header(name, value));
        assert_eq!(
            (response.status, problem_type(&response).as_str()),
            (400, "bad-override"),
            "{name}"
        );
        let detail = response.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(name), "{name} is not named: {detail}");
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn the_timeout_covers_all_attempts_and_waits() {
    let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(Behaviour::Silent));
    let route = route("providers: [a, b], fallback: [c], idempotent: always, timeout: 1s");
    let none = "breaker: none";
    let providers = [("a", &*a.url(), none), ("b", &*b.url(), none), ("c", &*a.url(), none)];
    let sidecar = single_worker(&policy(&providers, &(route + GENEROUS)));
    let response = sidecar.send(&chat());
    assert_eq!(response.status, 504, "{}", response.text());
    problem_type(&response);
    let took = access_record(&sidecar, 1)["duration_ms"].as_f64().expect("a duration");
    assert!((800.0..3000.0).contains(&took), "the deadline is 1 s, it took {took} ms");
    assert!(a.count() >= 1 && b.count() >= 1, "a silent provider leaves time for the next");
}
