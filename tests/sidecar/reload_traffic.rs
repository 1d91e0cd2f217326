//! Alternating valid and invalid policy changes under ordinary and streamed traffic.
//!
//! `tests/drill reloads` runs the same test with a thousand changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::fixtures::{
    GENEROUS, api, breaker, chat, last_load, median, policy, policy_hash, reload,
};
use crate::support::{Behaviour, Call, End, Gate, Origin, Sidecar, Stream};

fn yaml(a: &Origin, b: &Origin, version: usize) -> String {
    let first = format!("headers: {{ set: {{ x-version: v{version} }} }}, auth: none");
    policy(
        &[("a", &a.url(), &first), ("b", &b.url(), "auth: none")],
        &format!(
            "routes:\n  - {{ name: streams, match: {{ path: /streams }}, providers: [b], timeout: {}s }}\n\
             \x20 - {{ name: all, providers: [a], timeout: {}s }}\n{GENEROUS}",
            60 + version % 7,
            60 + version % 5,
        ),
    )
}

#[derive(Default)]
struct Counts {
    sent: AtomicUsize,
    /// Responses that are not a complete 200.
    failed: AtomicUsize,
}

fn send_until_stopped(sidecar: &Sidecar, call: &Call, stop: &AtomicBool, counts: &Counts) {
    let mut client = sidecar.client();
    while !stop.load(Ordering::Relaxed) {
        let response = client.send(call);
        counts.sent.fetch_add(1, Ordering::Relaxed);
        if response.status != 200 || response.end != End::Complete {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn reloads_fail_no_request_and_no_stream() {
    let changes = std::env::var("OUTRIGGER_RELOADS").map_or(24, |n| n.parse().expect("a number"));
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat);
    let b = Origin::start(Stream::chat(20).gated(&gate));
    let sidecar = Sidecar::start(&yaml(&a, &b, 0));
    let epoch = |sidecar: &Sidecar| breaker(sidecar, "a")["epoch"].clone();
    let (stop, before) = (AtomicBool::new(false), epoch(&sidecar));
    let (ordinary, streamed) = <(Counts, Counts)>::default();
    let mut times = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| send_until_stopped(&sidecar, &chat(), &stop, &ordinary));
            let stream = Call::post("/streams", "{}");
            let (sidecar, stop, streamed) = (&sidecar, &stop, &streamed);
            scope.spawn(move || send_until_stopped(sidecar, &stream, stop, streamed));
        }
        for version in 1..=changes {
            gate.let_through(12);
            if version % 2 == 1 {
                let write = || sidecar.write_policy("policy", &yaml(&a, &b, version));
                times.push(reload(&sidecar, write));
            } else {
                let active = policy_hash(&sidecar);
                sidecar.write_policy("policy", "version: 1\nproviders: { a: { urll: x } }\n");
                sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
                assert_eq!(policy_hash(&sidecar), active, "an invalid policy became active");
            }
        }
        stop.store(true, Ordering::Relaxed);
        gate.open_wide();
    });
    let count = |n: AtomicUsize| n.into_inner();
    let (requests, failed) = (count(ordinary.sent), count(ordinary.failed));
    let (streams, interrupted) = (count(streamed.sent), count(streamed.failed));
    println!(
        "{changes} changes: {requests} requests, {failed} failed; {streams} streams, {interrupted} \
         interrupted; active after {:?} (median), {:?} (maximum)",
        median(times.clone()),
        times.iter().max(),
    );
    assert_eq!((failed, interrupted), (0, 0), "failed requests, interrupted streams");
    assert!(requests > changes && streams > 0);
    assert!(median(times) <= Duration::from_millis(500));
    assert_eq!(epoch(&sidecar), before, "the breaker lost its state");
    let selected = api(&sidecar, "/api/status")["providers"][0]["endpoints"][0]["selected"].clone();
    assert!(selected.as_u64().is_some_and(|n| n as usize >= requests), "{selected}");
}
