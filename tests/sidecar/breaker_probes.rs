//! Breaker recovery: a limited number of probes, then a gradual return of traffic.

use std::thread;

use serde_json::json;

use crate::fixtures::{
    CHAT, access_record, breaker, chat, is_from, policy, route, single_worker, state,
};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

/// Two providers; the first one fails and its breaker is open.
fn tripped(breakers: &str) -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let breakers = format!("breakers: {{ default: {{ failure_threshold: 3, {breakers} }} }}\n");
    let route = route("providers: [a, b], balance: first, retry: none");
    let sidecar =
        Sidecar::start(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &(route + &breakers)));
    for _ in 0..3 {
        assert_eq!(sidecar.send(&chat()).status, 500);
    }
    assert_eq!(state(&sidecar, "a"), "open");
    (a, b, sidecar)
}

/// Sends requests until a probe has failed; the breaker after it.
fn fail_a_probe(a: &Origin, sidecar: &Sidecar) -> serde_json::Value {
    let before = a.count();
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat());
        a.count() > before
    });
    let open = breaker(sidecar, "a");
    assert_eq!((&open["state"], &open["trips"]), (&"open".into(), &2.into()));
    open
}

#[test]
fn no_more_probes_than_configured_are_in_flight() {
    for probes in [1, 3] {
        let values = format!("recovery_timeout: 200ms, probes: {probes}, success_threshold: 3");
        let (a, b, sidecar) = tripped(&values);
        let gate = Gate::closed();
        a.set(Behaviour::Chat.held(&gate));
        thread::scope(|scope| {
            sidecar.wait_until(|_| {
                scope.spawn(|| assert_eq!(sidecar.send(&chat()).status, 200));
                a.in_flight() == probes
            });
            let before = b.count();
            for _ in 0..30 {
                assert!(is_from(&sidecar.send(&chat()), &b), "{probes} probes are in flight");
            }
            assert!(b.count() >= before + 30);
            assert_eq!((a.in_flight(), state(&sidecar, "a").as_str()), (probes, "half_open"));
            gate.open_wide();
        });
        assert_eq!(a.most_in_flight(), probes);
        sidecar.wait_until(|sidecar| {
            assert_eq!(sidecar.send(&chat()).status, 200);
            state(sidecar, "a") == "closed"
        });
    }
}

#[test]
fn a_failed_probe_reopens_the_breaker_for_longer() {
    let (a, _b, sidecar) = tripped("recovery_timeout: 100ms, backoff_multiplier: 10.0");
    let before = a.count();
    let open = fail_a_probe(&a, &sidecar);
    assert_eq!(a.count(), before + 1);
    assert!(open["retry_in_ms"].as_u64().is_some_and(|ms| (500..=1200).contains(&ms)), "{open}");
}

#[test]
fn the_only_provider_of_a_route_recovers_without_intervention() {
    let a = Origin::start(Behaviour::RefuseConnections);
    let breakers = "breakers: { default: { failure_threshold: 3, recovery_timeout: 200ms } }\n";
    let retry = "providers: [a], retry: none";
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &(route(retry) + breakers)));
    for _ in 0..3 {
        assert_eq!(sidecar.send(&chat()).status, 502);
    }
    assert_eq!(state(&sidecar, "a"), "open");
    a.set(Behaviour::Chat);
    sidecar.wait_until(|sidecar| sidecar.send(&chat()).status == 200);
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat());
        state(sidecar, "a") == "closed"
    });
}

#[test]
fn traffic_returns_gradually_after_the_breaker_closes() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let breakers =
        "breakers: { default: { failure_threshold: 3, recovery_timeout: 200ms, ramp: 2s } }\n";
    let route = route("providers: [a, b], balance: first, retry: none");
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &(route + breakers)));
    let share = |requests: usize| {
        let before = a.count();
        for _ in 0..requests {
            assert_eq!(sidecar.send(&chat()).status, 200);
        }
        a.count() - before
    };
    assert_eq!(share(100), 100, "all traffic before the trip");
    a.set(Behaviour::status(500, &[]));
    for _ in 0..3 {
        assert_eq!(sidecar.send(&chat()).status, 500);
    }
    a.set(Behaviour::Chat);
    sidecar.wait_until(|sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        state(sidecar, "a") == "closed"
    });
    let ramp = breaker(&sidecar, "a")["traffic_share"].as_f64().expect("a share");
    assert!((0.1..1.0).contains(&ramp), "{ramp}");
    let first = share(50);
    assert!(first <= 25, "{first} of 50 requests just after the breaker closed");
    sidecar.wait_until(|_| share(20) == 20);
    assert_eq!(breaker(&sidecar, "a")["traffic_share"], 1.0);
}

#[test]
fn a_provider_that_fails_fast_is_probed_within_ten_seconds() {
    let (a, _b, sidecar) = tripped("recovery_timeout: 500ms, backoff_multiplier: 100.0");
    let open = fail_a_probe(&a, &sidecar);
    assert!(open["retry_in_ms"].as_u64().is_some_and(|ms| (5000..=10_000).contains(&ms)), "{open}");
}

#[test]
fn a_recovery_is_found_by_slow_responses_to_large_requests_alone() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
    let breakers = "breakers: { default: { failure_threshold: 1, recovery_timeout: 200ms, \
                    success_threshold: 1, ramp: 0s } }\n";
    let route = route("providers: [a], fallback: [b], idempotent: always, retry: none");
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &(route + breakers)));
    let text = "word ".repeat(400_000);
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] });
    let call = Call::json(CHAT, &body);
    assert!(is_from(&sidecar.send(&call), &b));
    let gate = Gate::closed();
    a.set(Behaviour::Chat.held(&gate));
    sidecar.wait_until(|sidecar| {
        assert!(is_from(&sidecar.send(&call), &b));
        a.count() == 2
    });
    gate.open_wide();
    sidecar.wait_until(|sidecar| state(sidecar, "a") == "closed");
    assert_eq!(a.count(), 2, "another probe was sent");
}

#[test]
fn a_slow_probe_delays_no_request_and_is_judged_in_the_background() {
    for recovers in [false, true] {
        let gate = Gate::closed();
        let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(Behaviour::Chat));
        let breakers = "breakers: { default: { failure_threshold: 1, recovery_timeout: 200ms, \
                        success_threshold: 1, ramp: 0s } }\n";
        let route = route("providers: [a], fallback: [b], idempotent: always, retry: none");
        let limits = "timeouts: { headers: 4s }";
        let providers = [("a", &*a.url(), limits), ("b", &*b.url(), "")];
        let sidecar = single_worker(&policy(&providers, &(route + breakers)));
        assert!(is_from(&sidecar.send(&chat()), &b));
        a.set(if recovers { Behaviour::Chat.held(&gate) } else { Behaviour::Silent });
        let mut requests = 1;
        sidecar.wait_until(|sidecar| {
            assert!(is_from(&sidecar.send(&chat()), &b));
            requests += 1;
            a.count() == 2
        });
        let record = access_record(&sidecar, requests);
        let took = record["duration_ms"].as_f64().expect("a duration");
        assert!(took < 1000.0, "the request of the probe took {took} ms");
        gate.open_wide();
        let (to, trips) = if recovers { ("closed", 1) } else { ("open", 2) };
        sidecar.wait_until(|sidecar| state(sidecar, "a") == to);
        assert!(recovers || breaker(&sidecar, "a")["trips"] == trips);
    }
}
