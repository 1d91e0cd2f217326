//! Failover: a failing provider delays the current request a little, and later ones not at all.

use std::time::{Duration, Instant};

use crate::fixtures::{
    GENEROUS, access_record, chat, classes, is_from, median, policy, route, single_worker, state,
};
use crate::support::{Behaviour, Client, Origin, Sidecar};

const TIERS: [&str; 2] = ["providers: [a, b], balance: first", "providers: [a], fallback: [b]"];

/// A failing first provider and a healthy second one. Requests with `x-to: healthy` go directly to
/// the second.
fn start_with_failure(failing: Behaviour, tiers: &str, breaker: &str) -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(failing), Origin::start(Behaviour::Chat));
    let routes = format!(
        "routes: [ {{ name: healthy, match: {{ headers: {{ x-to: healthy }} }}, providers: [b] }}, \
         {{ name: all, {tiers} }} ]\n"
    );
    let added = format!("breaker: {breaker}, auth: none");
    let breakers =
        "breakers: { short: { failure_threshold: 3, recovery_timeout: 60s } }\n".to_owned();
    let providers = [("a", &*a.url(), &*added), ("b", &*b.url(), "breaker: none, auth: none")];
    let sidecar = single_worker(&policy(&providers, &(routes + &breakers + GENEROUS)));
    (a, b, sidecar)
}

/// Median latencies of direct requests and of requests past the failing provider, sent in pairs.
fn latencies(sidecar: &Sidecar, healthy: &Origin, calls: usize) -> (Duration, Duration) {
    let mut client = sidecar.client();
    let mut measure = |header: &str| {
        let call = chat().header("x-to", header);
        let start = Instant::now();
        let response = client.send(&call);
        assert!(response.status == 200 && is_from(&response, healthy), "{}", response.text());
        start.elapsed()
    };
    measure("healthy");
    let (healthy, failing): (Vec<_>, Vec<_>) =
        (0..calls).map(|_| (measure("healthy"), measure("failing"))).unzip();
    (median(healthy), median(failing))
}

#[test]
fn a_refused_connection_costs_less_than_50_ms() {
    for tiers in TIERS {
        let (a, b, sidecar) = start_with_failure(Behaviour::RefuseConnections, tiers, "none");
        let (healthy, failing) = latencies(&sidecar, &b, 15);
        let added = failing.saturating_sub(healthy);
        assert!(added <= Duration::from_millis(50), "{tiers}: {failing:?} instead of {healthy:?}");
        assert_eq!(a.count(), 0);
        assert_eq!(classes(&access_record(&sidecar, 31)), ["unsent", "success"], "{tiers}");
    }
}

#[test]
fn dropped_packets_cost_less_than_500_ms() {
    for tiers in TIERS {
        let (_a, b, sidecar) = start_with_failure(Behaviour::BlackHole, tiers, "none");
        let (healthy, failing) = latencies(&sidecar, &b, 5);
        let added = failing.saturating_sub(healthy);
        assert!(added <= Duration::from_millis(500), "{tiers}: {failing:?} instead of {healthy:?}");
        assert!(
            added >= Duration::from_millis(100),
            "the first provider was not tried: {failing:?}"
        );
    }
}

#[test]
fn a_provider_that_fails_with_open_connections_is_avoided_at_once() {
    for failure in [Behaviour::RefuseConnections, Behaviour::BlackHole] {
        let (a, b, sidecar) = start_with_failure(Behaviour::Chat, TIERS[0], "short");
        let mut client: Client = sidecar.client();
        assert!(is_from(&client.send(&chat()), &a));
        a.set(failure);
        for _ in 0..20 {
            assert!(is_from(&client.send(&chat()), &b));
        }
    }
}

#[test]
fn no_request_waits_for_a_provider_with_an_open_breaker() {
    for (failure, tiers) in [
        (Behaviour::RefuseConnections, TIERS[0]),
        (Behaviour::BlackHole, TIERS[0]),
        (Behaviour::BlackHole, TIERS[1]),
    ] {
        let (_a, b, sidecar) = start_with_failure(failure, tiers, "short");
        let mut sent = 0;
        sidecar.wait_until(|sidecar| {
            assert!(is_from(&sidecar.send(&chat()), &b));
            sent += 1;
            state(sidecar, "a") == "open"
        });
        let (healthy, failing) = latencies(&sidecar, &b, 15);
        let added = failing.saturating_sub(healthy);
        assert!(added <= Duration::from_millis(50), "{tiers}: {failing:?} instead of {healthy:?}");
        for access_record in &sidecar.wait_for_access(sent + 31)[sent..] {
            assert_eq!(classes(access_record), ["success"], "{tiers}: {access_record}");
        }
    }
}

#[test]
fn an_unresolvable_name_leads_to_the_next_provider() {
    let b = Origin::start(Behaviour::Chat);
    for tiers in TIERS {
        let providers = [("a", "http://no-such-host.invalid:81", ""), ("b", &*b.url(), "")];
        let sidecar = single_worker(&policy(&providers, &route(tiers)));
        assert!(is_from(&sidecar.send(&chat()), &b), "{tiers}");
    }
}

#[test]
fn refused_connections_of_all_providers_are_reported_as_unreachable() {
    let (a, b) =
        (Origin::start(Behaviour::RefuseConnections), Origin::start(Behaviour::RefuseConnections));
    let added = "breaker: none";
    let yaml =
        policy(&[("a", &a.url(), added), ("b", &b.url(), added)], &(route(TIERS[0]) + GENEROUS));
    let response = single_worker(&yaml).send(&chat());
    assert_eq!(
        (response.status, crate::fixtures::problem_type(&response).as_str()),
        (502, "unreachable")
    );
}

#[test]
fn a_primary_on_a_short_hold_serves_when_its_fallback_cannot() {
    let failures =
        [Behaviour::status(500, &[]), Behaviour::status(429, &[]), Behaviour::RefuseConnections];
    for failure in failures {
        let a = Origin::script([Behaviour::status(429, &[]), Behaviour::Chat]);
        let b = Origin::start(Behaviour::Chat);
        let rest = route("providers: [a], fallback: [b], idempotent: always");
        let breakers = "breakers: { default: { failure_threshold: 1 } }\n";
        let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
        let sidecar = single_worker(&policy(&providers, &(rest + GENEROUS + breakers)));
        assert!(is_from(&sidecar.send(&chat()), &b), "the 429 named no time");
        b.set(failure.clone());
        let began = Instant::now();
        let response = sidecar.send(&chat());
        assert!(is_from(&response, &a), "{failure:?}: {}", response.text());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(a.count(), 2, "{failure:?}");
    }
}

#[test]
fn a_primary_on_a_long_hold_does_not_delay_the_error_of_its_fallback() {
    let a = Origin::start(Behaviour::status(429, &[("retry-after", "60")]));
    let b = Origin::start(Behaviour::Chat);
    let rest = route("providers: [a], fallback: [b], idempotent: always");
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar = single_worker(&policy(&providers, &(rest + GENEROUS)));
    assert!(is_from(&sidecar.send(&chat()), &b));
    b.set(Behaviour::status(500, &[]));
    let began = Instant::now();
    let response = sidecar.send(&chat());
    assert_eq!((response.status, a.count(), b.count()), (500, 1, 2));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let status = response.headers.get("proxy-status").unwrap_or_default();
    assert!(status.contains("a: on hold"), "{status}");
}
