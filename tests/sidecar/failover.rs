//! A provider that dies costs the request at hand a moment, and the next ones nothing.

use std::time::{Duration, Instant};

use crate::fixtures::{
    GENEROUS, access_record, alone, chat, classes, is_from, median, policy, route, state,
};
use crate::support::{Behaviour, Client, Origin, Sidecar};

const TIERS: [&str; 2] = ["providers: [a, b], balance: first", "providers: [a], fallback: [b]"];

/// A dead first provider and a sound second one, `/healthz` straight to the sound one.
fn scene(dead: Behaviour, tiers: &str, breaker: &str) -> (Origin, Origin, Sidecar) {
    let (a, b) = (Origin::start(dead), Origin::start(Behaviour::Chat));
    let routes = format!(
        "routes: [ {{ name: sound, match: {{ headers: {{ x-to: sound }} }}, providers: [b] }}, \
         {{ name: all, {tiers} }} ]\n"
    );
    let more = format!("breaker: {breaker}, auth: none");
    let breakers =
        "breakers: { short: { failure_threshold: 3, recovery_timeout: 60s } }\n".to_owned();
    let providers = [("a", &*a.url(), &*more), ("b", &*b.url(), "breaker: none, auth: none")];
    let sidecar = alone(&policy(&providers, &(routes + &breakers + GENEROUS)));
    (a, b, sidecar)
}

/// What a dead provider costs: each pair of calls is measured together.
fn costs(sidecar: &Sidecar, sound: &Origin, calls: usize) -> (Duration, Duration) {
    let mut client = sidecar.client();
    let mut take = |header: &str| {
        let call = chat().header("x-to", header);
        let start = Instant::now();
        let response = client.send(&call);
        assert!(response.status == 200 && is_from(&response, sound), "{}", response.text());
        start.elapsed()
    };
    take("sound");
    let (sound, dead): (Vec<_>, Vec<_>) = (0..calls).map(|_| (take("sound"), take("dead"))).unzip();
    (median(sound), median(dead))
}

#[test]
fn a_refused_connection_costs_less_than_50_ms() {
    for tiers in TIERS {
        let (a, b, sidecar) = scene(Behaviour::RefuseConnections, tiers, "none");
        let (sound, dead) = costs(&sidecar, &b, 15);
        let more = dead.saturating_sub(sound);
        assert!(more <= Duration::from_millis(50), "{tiers}: {dead:?} instead of {sound:?}");
        assert_eq!(a.count(), 0);
        assert_eq!(classes(&access_record(&sidecar, 31)), ["unsent", "success"], "{tiers}");
    }
}

#[test]
fn packets_that_vanish_cost_less_than_500_ms() {
    for tiers in TIERS {
        let (_a, b, sidecar) = scene(Behaviour::BlackHole, tiers, "none");
        let (sound, dead) = costs(&sidecar, &b, 5);
        let more = dead.saturating_sub(sound);
        assert!(more <= Duration::from_millis(500), "{tiers}: {dead:?} instead of {sound:?}");
        assert!(more >= Duration::from_millis(100), "the first provider was asked: {dead:?}");
    }
}

#[test]
fn a_provider_that_dies_with_its_connections_open_is_left_at_once() {
    for death in [Behaviour::RefuseConnections, Behaviour::BlackHole] {
        let (a, b, sidecar) = scene(Behaviour::Chat, TIERS[0], "short");
        let mut client: Client = sidecar.client();
        assert!(is_from(&client.send(&chat()), &a));
        a.set(death);
        for _ in 0..20 {
            assert!(is_from(&client.send(&chat()), &b));
        }
    }
}

#[test]
fn once_the_breaker_is_open_no_request_waits_for_the_dead() {
    for (death, tiers) in [
        (Behaviour::RefuseConnections, TIERS[0]),
        (Behaviour::BlackHole, TIERS[0]),
        (Behaviour::BlackHole, TIERS[1]),
    ] {
        let (_a, b, sidecar) = scene(death, tiers, "short");
        let mut asked = 0;
        sidecar.wait_until(|sidecar| {
            assert!(is_from(&sidecar.send(&chat()), &b));
            asked += 1;
            state(sidecar, "a") == "open"
        });
        let (sound, dead) = costs(&sidecar, &b, 15);
        let more = dead.saturating_sub(sound);
        assert!(more <= Duration::from_millis(50), "{tiers}: {dead:?} instead of {sound:?}");
        for access_record in &sidecar.wait_for_access(asked + 31)[asked..] {
            assert_eq!(classes(access_record), ["success"], "{tiers}: {access_record}");
        }
    }
}

#[test]
fn a_name_that_does_not_resolve_moves_on() {
    let b = Origin::start(Behaviour::Chat);
    for tiers in TIERS {
        let providers = [("a", "http://no-such-host.invalid:81", ""), ("b", &*b.url(), "")];
        let sidecar = alone(&policy(&providers, &route(tiers)));
        assert!(is_from(&sidecar.send(&chat()), &b), "{tiers}");
    }
}

#[test]
fn every_provider_refusing_is_told_as_unreachable() {
    let (a, b) =
        (Origin::start(Behaviour::RefuseConnections), Origin::start(Behaviour::RefuseConnections));
    let more = "breaker: none";
    let yaml =
        policy(&[("a", &a.url(), more), ("b", &b.url(), more)], &(route(TIERS[0]) + GENEROUS));
    let response = alone(&yaml).send(&chat());
    assert_eq!(
        (response.status, crate::fixtures::problem(&response).as_str()),
        (502, "unreachable")
    );
}
