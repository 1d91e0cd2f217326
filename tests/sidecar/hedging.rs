//! Hedging: a second attempt next to a slow one, its benefit and its cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{CHAT, access_record, chat, classes, route, single_worker, sleep_until};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

const LOAD: usize = 1500;
const GENEROUS: &str = "retries: { default: { budget: { ratio: 1, min_per_second: 100 } } }\n";
const LIMITS: &str = "breaker: none, timeouts: { headers: 300ms }";

/// Two endpoints of one provider; every fiftieth request to them gets no response.
fn origins_with_rare_silence() -> [Origin; 2] {
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
    single_worker(&yaml(origins, more))
}

fn yaml(origins: &[Origin; 2], more: &str) -> String {
    let endpoints: Vec<_> = origins.iter().map(|o| format!("{{ url: \"{}\" }}", o.url())).collect();
    let provider =
        format!("  p: {{ endpoints: [{}], auth: none, {LIMITS} }}\n", endpoints.join(", "));
    let route = route(&format!("providers: [p], idempotent: always, balance: round_robin{more}"));
    format!("version: 1\nproviders:\n{provider}{route}{GENEROUS}")
}

/// The 99th percentile of the latency of `LOAD` requests.
fn p99(sidecar: &Sidecar) -> Duration {
    let mut client = sidecar.client();
    let mut times: Vec<_> = (0..LOAD)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(client.send(&chat()).status, 200);
            began.elapsed()
        })
        .collect();
    times.sort();
    times[LOAD * 99 / 100]
}

#[test]
fn hedging_shortens_the_tail_for_two_percent_of_the_load() {
    let plain = origins_with_rare_silence();
    let p99_without = p99(&sidecar(&plain, ""));
    let hedged = origins_with_rare_silence();
    let hedging = sidecar(&hedged, ", hedge: { extra_load: 2% }");
    let p99_with = p99(&hedging);
    assert!(p99_with * 5 <= p99_without, "{p99_with:?} instead of {p99_without:?}");
    let won = hedging.metric("outrigger_hedges_total{route=\"all\",reason=\"won\"}");
    let lost = hedging.metric("outrigger_hedges_total{route=\"all\",reason=\"lost\"}");
    let hedges = won.unwrap_or(0.0) + lost.unwrap_or(0.0);
    assert!(won.is_some_and(|won| won >= 15.0), "{won:?} of {hedges}");
    assert!(hedges <= LOAD as f64 * 0.02, "{hedges} hedges");
    // The few requests without a response before there were enough samples were retried.
    let attempts: usize = hedged.iter().map(Origin::count).sum();
    assert!(attempts as f64 <= LOAD as f64 * 1.025, "{attempts} attempts");
    println!(
        "p99 {p99_with:?} instead of {p99_without:?}; {hedges} hedges, {attempts} attempts for {LOAD}"
    );
}

/// Sends a request while both endpoints are held and returns the number of attempts.
fn attempts_while_held(
    sidecar: &Sidecar,
    origins: &[Origin; 2],
    call: &Call,
    expected: usize,
) -> usize {
    let gate = Gate::closed();
    origins.iter().for_each(|origin| origin.set(Behaviour::Chat.held(&gate)));
    let in_flight = || origins.iter().map(Origin::in_flight).sum::<usize>();
    thread::scope(|scope| {
        let response = scope.spawn(|| sidecar.send(call));
        sidecar.wait_until(|_| in_flight() >= expected);
        sleep_until(Instant::now() + Duration::from_millis(50));
        let in_flight = in_flight();
        gate.open_wide();
        assert_eq!(response.join().expect("a response").status, 200);
        in_flight
    })
}

#[test]
fn nothing_is_hedged_before_a_hundred_samples() {
    let origins = [Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat)];
    let sidecar = sidecar(&origins, ", hedge: { extra_load: 50% }, timeout: 20s");
    let call = Call::get(CHAT);
    (0..99).for_each(|_| assert_eq!(sidecar.send(&call).status, 200));
    assert_eq!(attempts_while_held(&sidecar, &origins, &call, 1), 1);
    assert_eq!(attempts_while_held(&sidecar, &origins, &call, 2), 2);
}

#[test]
fn a_request_that_may_not_be_retried_is_not_hedged() {
    let origins = [Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat)];
    let yaml = yaml(&origins, ", hedge: { extra_load: 50%, after: 1ms }");
    let sidecar = single_worker(&yaml.replace("idempotent: always", "idempotent: auto"));
    // Each request earns half a hedge.
    (0..4).for_each(|_| assert_eq!(sidecar.send(&Call::get(CHAT)).status, 200));
    assert_eq!(attempts_while_held(&sidecar, &origins, &chat(), 1), 1, "a POST must not be hedged");
    assert_eq!(
        attempts_while_held(&sidecar, &origins, &Call::get(CHAT), 2),
        2,
        "a GET must be hedged"
    );
}

#[test]
fn the_losing_attempt_is_cancelled_and_recorded() {
    let gate = Gate::closed();
    let origins = [Origin::start(Behaviour::Chat.held(&gate)), Origin::start(Behaviour::Chat)];
    let more = ", hedge: { extra_load: 50%, after: 20ms }, timeout: 20s";
    let sidecar = sidecar(&origins, &more.replace("round_robin", "first"));
    // Each request earns half a hedge.
    origins[0].set(Behaviour::Chat);
    for _ in 0..4 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    origins[0].set(Behaviour::Silent);
    let record = (5..9)
        .map(|call| {
            assert_eq!(sidecar.send(&chat()).status, 200);
            access_record(&sidecar, call)
        })
        .find(|record| classes(record).len() == 2)
        .expect("one of them was hedged");
    assert_eq!(classes(&record), ["ignored", "success"], "{record}");
    assert_eq!(record["attempts"][1]["kind"], "hedge", "{record}");
    origins[0].wait_for_in_flight(0);
}
