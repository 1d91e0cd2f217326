//! Session affinity: requests of one session go to the same endpoint while it is available.

use crate::fixtures::{chat, is_from, policy, route, single_worker};
use crate::support::{Behaviour, Origin, Sidecar};

fn start_with_affinity(origins: &[Origin; 3], ttl: &str) -> Sidecar {
    let providers: Vec<_> =
        ["a", "b", "c"].iter().zip(origins).map(|(n, o)| (*n, o.url())).collect();
    let providers: Vec<_> =
        providers.iter().map(|(n, url)| (*n, &**url, "auth: none, breaker: none")).collect();
    let affinity = format!("affinity: {{ header: x-session, ttl: {ttl} }}");
    let more =
        format!("providers: [a, b, c], balance: round_robin, idempotent: always, {affinity}");
    let retries = "retries: { default: { budget: { ratio: 1, min_per_second: 100 } } }\n";
    single_worker(&policy(&providers, &(route(&more) + retries)))
}

#[test]
fn a_session_stays_with_its_endpoint_until_the_endpoint_fails() {
    let origins = [0, 1, 2].map(|_| Origin::start(Behaviour::Chat));
    let sidecar = start_with_affinity(&origins, "10m");
    let mut client = sidecar.client();
    let mut serving_origin = |session: &str| {
        let response = client.send(&chat().header("x-session", session));
        assert_eq!(response.status, 200, "{}", response.text());
        origins.iter().position(|origin| is_from(&response, origin)).expect("one of them")
    };
    let sessions: Vec<_> = (0..9).map(|n| format!("session-{n}")).collect();
    let initial: Vec<_> = sessions.iter().map(|session| serving_origin(session)).collect();
    assert!((0..3).all(|origin| initial.contains(&origin)), "not balanced: {initial:?}");
    for _ in 0..10 {
        let repeated: Vec<_> = sessions.iter().map(|session| serving_origin(session)).collect();
        assert_eq!(repeated, initial);
    }
    origins[initial[0]].set(Behaviour::status(500, &[]));
    let moved = serving_origin(&sessions[0]);
    assert_ne!(moved, initial[0]);
    origins[initial[0]].set(Behaviour::Chat);
    assert!((0..10).all(|_| serving_origin(&sessions[0]) == moved), "the session moved back");
}

#[test]
fn an_idle_session_loses_its_affinity() {
    let origins = [0, 1, 2].map(|_| Origin::start(Behaviour::Chat));
    let sidecar = start_with_affinity(&origins, "50ms");
    let mut client = sidecar.client();
    let mut seen = [false; 3];
    sidecar.wait_until(|_| {
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_millis(120) {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        let response = client.send(&chat().header("x-session", "one"));
        let serving_origin =
            origins.iter().position(|origin| is_from(&response, origin)).expect("one of them");
        seen[serving_origin] = true;
        seen == [true; 3]
    });
}
