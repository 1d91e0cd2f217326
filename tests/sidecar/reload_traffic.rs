//! Policies that change, good and bad by turns, under ordinary and streamed traffic: nothing fails.
//!
//! `tests/drill reloads` runs the same with a thousand changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::fixtures::{GENEROUS, api, breaker, chat, in_force, median, policy, reload};
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

/// Asks until told to stop; counts what is not a whole 200.
fn ask(sidecar: &Sidecar, call: &Call, stop: &AtomicBool, counts: &(AtomicUsize, AtomicUsize)) {
    let mut client = sidecar.client();
    while !stop.load(Ordering::Relaxed) {
        let response = client.send(call);
        counts.0.fetch_add(1, Ordering::Relaxed);
        if response.status != 200 || response.end != End::Complete {
            counts.1.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_request_and_no_stream_feels_a_reload() {
    let changes = std::env::var("OUTRIGGER_RELOADS").map_or(24, |n| n.parse().expect("a number"));
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat);
    let b = Origin::start(Stream::chat(20).gated(&gate));
    let sidecar = Sidecar::start(&yaml(&a, &b, 0));
    let epoch = |sidecar: &Sidecar| breaker(sidecar, "a")["epoch"].clone();
    let (stop, before) = (AtomicBool::new(false), epoch(&sidecar));
    let (asked, streamed) = <((_, _), (_, _))>::default();
    let mut took = Vec::new();
    thread::scope(|scope| {
        let streams = Call::post("/streams", "{}");
        for _ in 0..2 {
            scope.spawn(|| ask(&sidecar, &chat(), &stop, &asked));
            let (sidecar, stop, streamed, streams) = (&sidecar, &stop, &streamed, streams.clone());
            scope.spawn(move || ask(sidecar, &streams, stop, streamed));
        }
        for version in 1..=changes {
            gate.let_through(12);
            if version % 2 == 1 {
                let write = || sidecar.write_policy("policy", &yaml(&a, &b, version));
                took.push(reload(&sidecar, write));
            } else {
                let good = in_force(&sidecar);
                sidecar.write_policy("policy", "version: 1\nproviders: { a: { urll: x } }\n");
                let last = |s: &Sidecar| api(s, "/api/policies")["last_load"]["result"].clone();
                sidecar.wait_until(|sidecar| last(sidecar) == "rejected");
                assert_eq!(in_force(&sidecar), good, "a bad policy is never in force");
            }
        }
        stop.store(true, Ordering::Relaxed);
        gate.open_wide();
    });
    let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    println!(
        "{changes} changes: {} requests, {} failed; {} streams, {} broken; in force after {:?}, at most {:?}",
        count(&asked.0),
        count(&asked.1),
        count(&streamed.0),
        count(&streamed.1),
        median(took.clone()),
        took.iter().max(),
    );
    assert_eq!((count(&asked.1), count(&streamed.1)), (0, 0), "failed requests, broken streams");
    assert!(count(&asked.0) > changes && count(&streamed.0) > 0);
    assert!(median(took) <= Duration::from_millis(500));
    assert_eq!(epoch(&sidecar), before, "the breaker was carried over");
    let picked = api(&sidecar, "/api/status")["providers"][0]["addresses"][0]["selected"].clone();
    assert!(picked.as_u64().is_some_and(|n| n as usize >= count(&asked.0)), "{picked}");
}
