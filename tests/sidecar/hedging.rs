//! A second attempt beside one that takes long: what it saves, and what it may cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{CHAT, access_record, alone, chat, classes, pace, route};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

const LOAD: usize = 1500;
const GENEROUS: &str = "retries: { default: { budget: { ratio: 1, min_per_second: 100 } } }\n";
const LIMITS: &str = "breaker: none, timeouts: { headers: 300ms }";

/// Two addresses of one provider; each fiftieth request that reaches them is never answered.
fn sometimes_silent() -> [Origin; 2] {
    let count = Arc::new(AtomicUsize::new(0));
    [0, 1].map(|_| {
        let count = Arc::clone(&count);
        Origin::start(Behaviour::custom(move |_| {
            match count.fetch_add(1, Ordering::Relaxed) % 50 {
                49 => Behaviour::Silent,
                _ => Behaviour::Chat,
            }
        }))
    })
}

fn sidecar(origins: &[Origin; 2], more: &str) -> Sidecar {
    alone(&yaml(origins, more))
}

fn yaml(origins: &[Origin; 2], more: &str) -> String {
    let endpoints: Vec<_> = origins.iter().map(|o| format!("{{ url: \"{}\" }}", o.url())).collect();
    let provider =
        format!("  p: {{ endpoints: [{}], auth: none, {LIMITS} }}\n", endpoints.join(", "));
    let route = route(&format!("providers: [p], idempotent: always, balance: round_robin{more}"));
    format!("version: 1\nproviders:\n{provider}{route}{GENEROUS}")
}

/// The 99th percentile of so many calls.
fn p99(sidecar: &Sidecar) -> Duration {
    let mut client = sidecar.client();
    let mut took: Vec<_> = (0..LOAD)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(client.send(&chat()).status, 200);
            began.elapsed()
        })
        .collect();
    took.sort();
    took[LOAD * 99 / 100]
}

#[test]
fn hedging_cuts_the_tail_for_a_fiftieth_of_the_load() {
    let plain = sometimes_silent();
    let without = p99(&sidecar(&plain, ""));
    let hedged = sometimes_silent();
    let hedging = sidecar(&hedged, ", hedge: { extra_load: 2% }");
    let with = p99(&hedging);
    assert!(with * 5 <= without, "{with:?} instead of {without:?}");
    let won = hedging.metric("outrigger_hedges_total{route=\"all\",reason=\"won\"}");
    let lost = hedging.metric("outrigger_hedges_total{route=\"all\",reason=\"lost\"}");
    let hedges = won.unwrap_or(0.0) + lost.unwrap_or(0.0);
    assert!(won.is_some_and(|won| won >= 15.0), "{won:?} of {hedges}");
    assert!(hedges <= LOAD as f64 * 0.02, "{hedges} hedges");
    // A few that were silent before there were enough samples were repeated.
    let attempts: usize = hedged.iter().map(Origin::count).sum();
    assert!(attempts as f64 <= LOAD as f64 * 1.025, "{attempts} attempts");
    println!(
        "p99 {with:?} instead of {without:?}; {hedges} hedges, {attempts} attempts for {LOAD}"
    );
}

/// One call while no address answers: how many of them it went to.
fn while_held(sidecar: &Sidecar, origins: &[Origin; 2], call: &Call, expected: usize) -> usize {
    let gate = Gate::closed();
    origins.iter().for_each(|origin| origin.set(Behaviour::Chat.held(&gate)));
    let asked = || origins.iter().map(Origin::in_flight).sum::<usize>();
    thread::scope(|scope| {
        let answer = scope.spawn(|| sidecar.send(call));
        sidecar.wait_until(|_| asked() >= expected);
        pace(Instant::now() + Duration::from_millis(50));
        let asked = asked();
        gate.open_wide();
        assert_eq!(answer.join().expect("an answer").status, 200);
        asked
    })
}

#[test]
fn nothing_is_hedged_before_a_hundred_samples() {
    let origins = [Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat)];
    let sidecar = sidecar(&origins, ", hedge: { extra_load: 50% }, timeout: 20s");
    let call = Call::get(CHAT);
    (0..99).for_each(|_| assert_eq!(sidecar.send(&call).status, 200));
    assert_eq!(while_held(&sidecar, &origins, &call, 1), 1);
    assert_eq!(while_held(&sidecar, &origins, &call, 2), 2);
}

#[test]
fn what_may_not_be_repeated_is_not_hedged() {
    let origins = [Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat)];
    let yaml = yaml(&origins, ", hedge: { extra_load: 50%, after: 1ms }");
    let sidecar = alone(&yaml.replace("idempotent: always", "idempotent: auto"));
    // Each earns half of a hedge.
    (0..4).for_each(|_| assert_eq!(sidecar.send(&Call::get(CHAT)).status, 200));
    assert_eq!(while_held(&sidecar, &origins, &chat(), 1), 1, "a POST is not");
    assert_eq!(while_held(&sidecar, &origins, &Call::get(CHAT), 2), 2, "a GET is");
}

#[test]
fn the_loser_is_cancelled_and_told() {
    let gate = Gate::closed();
    let origins = [Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat)];
    let more = ", hedge: { extra_load: 50%, after: 20ms }, timeout: 20s";
    let sidecar = sidecar(&origins, &more.replace("round_robin", "first"));
    // Each earns half of a hedge.
    origins[0].set(Behaviour::Chat);
    for _ in 0..4 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    origins[0].set(Behaviour::Silent);
    let told = (5..9)
        .map(|call| {
            assert_eq!(sidecar.send(&chat()).status, 200);
            access_record(&sidecar, call)
        })
        .find(|told| classes(told).len() == 2)
        .expect("one of them was hedged");
    assert_eq!(classes(&told), ["ignored", "success"], "{told}");
    assert_eq!(told["attempts"][1]["turn"], "hedge", "{told}");
    origins[0].wait_for_in_flight(0);
}
