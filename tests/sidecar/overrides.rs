//! `x-outrigger-*` headers: what a route allows counts, anything else is refused by name.

use crate::fixtures::{GENEROUS, access_record, alone, chat, policy, problem, route};
use crate::support::{Behaviour, Origin, Sidecar};

fn scene(allowed: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::status(500, &[]));
    let route = route(&format!("providers: [a]{allowed}"));
    let sidecar = alone(&policy(&[("a", &a.url(), "breaker: none")], &(route + GENEROUS)));
    (a, sidecar)
}

#[test]
fn an_allowed_override_counts_for_its_request_alone() {
    let (a, sidecar) = scene(", allow_override: [retry, idempotent]");
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
        let ours =
            request.headers.0.iter().find(|(name, _)| name.to_lowercase().contains("outrigger"));
        assert_eq!(ours, None, "what is ours goes nowhere");
    }
}

#[test]
fn a_timeout_may_be_shortened_where_the_route_allows_it() {
    let (a, sidecar) = scene(", allow_override: [timeout]");
    a.set(Behaviour::Silent);
    let response = sidecar.send(&chat().header("x-outrigger-timeout", "200ms"));
    assert_eq!(response.status, 504);
    assert!(["deadline", "response-timeout"].contains(&problem(&response).as_str()));
    let took = access_record(&sidecar, 1)["ms"].as_f64().expect("how long it took");
    assert!((190.0..5000.0).contains(&took), "{took} ms");
}

#[test]
fn an_override_that_the_route_does_not_allow_is_refused_by_name() {
    let (a, sidecar) = scene(", allow_override: [timeout]");
    for (name, value) in [
        ("x-outrigger-retry", "max_attempts=1"),
        ("x-outrigger-idempotent", "always"),
        ("x-outrigger-priority", "high"),
        ("x-outrigger-timeuot", "1s"),
        ("x-outrigger-timeout", "soon"),
        ("x-outrigger-timeout", "0s"),
    ] {
        let response = sidecar.send(&chat().header(name, value));
        assert_eq!((response.status, problem(&response).as_str()), (400, "bad-override"), "{name}");
        let detail = response.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(name), "{name} is not named: {detail}");
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn a_deadline_holds_over_every_attempt_and_wait() {
    let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(Behaviour::Silent));
    let route = route("providers: [a, b], fallback: [c], idempotent: always, timeout: 1s");
    let none = "breaker: none";
    let providers = [("a", &*a.url(), none), ("b", &*b.url(), none), ("c", &*a.url(), none)];
    let sidecar = alone(&policy(&providers, &(route + GENEROUS)));
    let response = sidecar.send(&chat());
    assert_eq!(response.status, 504, "{}", response.text());
    problem(&response);
    let took = access_record(&sidecar, 1)["ms"].as_f64().expect("how long it took");
    assert!((800.0..3000.0).contains(&took), "the deadline is 1 s, it took {took} ms");
    assert!(a.count() >= 1 && b.count() >= 1, "a silent provider leaves time for the next");
}
