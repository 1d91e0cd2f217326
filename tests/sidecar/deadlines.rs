//! An attempt that got less time than the policy grants says nothing about its endpoint.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{
    GENEROUS, breaker, chat, is_from, policy, route, single_worker, sleep_until, state,
};
use crate::support::{Behaviour, Gate, Origin, Sidecar};

/// One failure trips, and the breaker stays open for longer than any test runs.
const ONE_TRIPS: &str =
    "breakers: { default: { failure_threshold: 1, recovery_timeout: 60s, ramp: 0s } }\n";

fn start(a: &Origin, provider: &str, keys: &str) -> Sidecar {
    let rest = route(&format!("providers: [a], {keys}")) + ONE_TRIPS + GENEROUS;
    single_worker(&policy(&[("a", &a.url(), provider)], &rest))
}

/// `a` is the provider and `b` its fallback.
fn start_pair(a: &Origin, b: &Origin, keys: &str) -> Sidecar {
    let rest = route(&format!("providers: [a], fallback: [b], idempotent: always, {keys}"))
        + ONE_TRIPS
        + GENEROUS;
    single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest))
}

#[test]
fn a_timeout_that_the_client_shortened_teaches_nothing() {
    for behaviour in [Behaviour::Silent, Behaviour::HeadersThenSilence] {
        let a = Origin::start(behaviour);
        let sidecar = start(&a, "", "allow_override: [timeout]");
        for _ in 0..3 {
            let response = sidecar.send(&chat().header("x-outrigger-timeout", "60ms"));
            assert_eq!(response.status, 504);
        }
        assert_eq!((a.count(), state(&sidecar, "a").as_str()), (3, "closed"));
        a.set(Behaviour::Chat);
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
}

#[test]
fn a_timeout_that_the_route_grants_is_a_failure() {
    let a = Origin::start(Behaviour::Silent);
    let sidecar = start(&a, "", "timeout: 300ms");
    assert_eq!(sidecar.send(&chat()).status, 504);
    assert_eq!(state(&sidecar, "a"), "open");
}

#[test]
fn an_attempt_after_a_long_wait_for_capacity_teaches_nothing() {
    let gate = Gate::closed();
    let a = Origin::script([Behaviour::Chat.held(&gate), Behaviour::Silent]);
    let sidecar = start(&a, "capacity: { concurrency: 1 }", "timeout: 1500ms");
    thread::scope(|scope| {
        let first = scope.spawn(|| sidecar.send(&chat()).status);
        a.wait_for_in_flight(1);
        let began = Instant::now();
        let second = scope.spawn(|| sidecar.send(&chat()).status);
        sleep_until(began + Duration::from_millis(600));
        gate.open_wide();
        assert_eq!(first.join().expect("a response"), 200);
        assert_eq!(second.join().expect("a response"), 504);
    });
    assert_eq!((a.count(), state(&sidecar, "a").as_str()), (2, "closed"));
}

#[test]
fn a_probe_that_was_cut_short_leaves_the_breaker_half_open() {
    let a = Origin::start(Behaviour::status(500, &[]));
    let breakers =
        "breakers: { default: { failure_threshold: 1, recovery_timeout: 50ms, ramp: 0s } }\n";
    let rest = route("providers: [a], retry: none, allow_override: [timeout]") + breakers;
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    assert_eq!(sidecar.send(&chat()).status, 500);
    a.set(Behaviour::Silent);
    let call = chat().header("x-outrigger-timeout", "60ms");
    sidecar.wait_until(|sidecar| sidecar.send(&call).status == 504);
    let found = breaker(&sidecar, "a");
    assert_eq!((found["state"].as_str(), found["trips"].as_u64()), (Some("half_open"), Some(1)));
    a.set(Behaviour::Chat);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn an_attempt_that_leaves_time_for_the_fallback_is_judged_by_its_late_response() {
    for late in [Behaviour::Chat, Behaviour::status(500, &[])] {
        let gate = Gate::closed();
        let is_good = matches!(late, Behaviour::Chat);
        let a = Origin::start(late.held(&gate));
        let b = Origin::start(Behaviour::Chat);
        let sidecar = start_pair(&a, &b, "timeout: 4s");
        assert!(is_from(&sidecar.send(&chat()), &b));
        assert_eq!(state(&sidecar, "a"), "closed");
        gate.open_wide();
        a.wait_for_in_flight(0);
        sidecar.wait_until(|sidecar| in_flight(sidecar) == 0.0);
        assert_eq!(state(&sidecar, "a"), if is_good { "closed" } else { "open" });
    }
}

#[test]
fn a_silent_provider_is_found_out_although_each_attempt_leaves_time_for_the_fallback() {
    for behaviour in [Behaviour::Silent, Behaviour::HeadersThenSilence] {
        let (a, b) = (Origin::start(behaviour), Origin::start(Behaviour::Chat));
        let sidecar = start_pair(&a, &b, "timeout: 1s");
        assert!(is_from(&sidecar.send(&chat()), &b));
        assert_eq!(state(&sidecar, "a"), "closed");
        sidecar.wait_until(|sidecar| state(sidecar, "a") == "open");
        assert!(is_from(&sidecar.send(&chat()), &b));
        assert_eq!((a.count(), in_flight(&sidecar)), (1, 0.0));
    }
}

fn in_flight(sidecar: &Sidecar) -> f64 {
    sidecar.metric("outrigger_attempts_in_flight{provider=\"a\"}").unwrap_or_default()
}
