//! Requests of one session go to the same address, while it can be asked.

use crate::fixtures::{alone, chat, is_from, policy, route};
use crate::support::{Behaviour, Origin, Sidecar};

fn scene(origins: &[Origin; 3], ttl: &str) -> Sidecar {
    let providers: Vec<_> =
        ["a", "b", "c"].iter().zip(origins).map(|(n, o)| (*n, o.url())).collect();
    let providers: Vec<_> =
        providers.iter().map(|(n, url)| (*n, &**url, "auth: none, breaker: none")).collect();
    let affinity = format!("affinity: {{ header: x-session, ttl: {ttl} }}");
    let more =
        format!("providers: [a, b, c], balance: round_robin, idempotent: always, {affinity}");
    let retries = "retries: { default: { budget: { ratio: 1, min_per_second: 100 } } }\n";
    alone(&policy(&providers, &(route(&more) + retries)))
}

#[test]
fn a_session_stays_where_it_was_and_moves_only_when_it_must() {
    let origins = [0, 1, 2].map(|_| Origin::start(Behaviour::Chat));
    let sidecar = scene(&origins, "10m");
    let mut client = sidecar.client();
    let mut at = |session: &str| {
        let response = client.send(&chat().header("x-session", session));
        assert_eq!(response.status, 200, "{}", response.text());
        origins.iter().position(|origin| is_from(&response, origin)).expect("one of them")
    };
    let sessions: Vec<_> = (0..9).map(|n| format!("session-{n}")).collect();
    let first: Vec<_> = sessions.iter().map(|session| at(session)).collect();
    assert!((0..3).all(|origin| first.contains(&origin)), "new ones are balanced: {first:?}");
    for _ in 0..10 {
        let again: Vec<_> = sessions.iter().map(|session| at(session)).collect();
        assert_eq!(again, first);
    }
    origins[first[0]].set(Behaviour::status(500, &[]));
    let moved = at(&sessions[0]);
    assert_ne!(moved, first[0]);
    origins[first[0]].set(Behaviour::Chat);
    assert!((0..10).all(|_| at(&sessions[0]) == moved), "it stays where it went");
}

#[test]
fn a_session_that_rests_for_long_is_forgotten() {
    let origins = [0, 1, 2].map(|_| Origin::start(Behaviour::Chat));
    let sidecar = scene(&origins, "50ms");
    let mut client = sidecar.client();
    let mut seen = [false; 3];
    sidecar.wait_until(|_| {
        let rested = std::time::Instant::now();
        while rested.elapsed() < std::time::Duration::from_millis(120) {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        let response = client.send(&chat().header("x-session", "one"));
        let at = origins.iter().position(|origin| is_from(&response, origin)).expect("one of them");
        seen[at] = true;
        seen == [true; 3]
    });
}
