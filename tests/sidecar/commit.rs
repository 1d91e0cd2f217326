//! The moment of the commit: how much of a response is held back, and which clock runs after it.

use std::time::{Duration, Instant};

use crate::fixtures::{GENEROUS, chat, is_from, policy, route, single_worker, sleep_until};
use crate::support::{Behaviour, End, Ending, Gate, Origin, Stream};

#[test]
fn a_response_that_is_held_to_its_end_is_replaced_however_late_it_breaks() {
    for buffer in ["", ", buffer: { frames: 2, for: 50ms }"] {
        let gate = Gate::closed();
        gate.let_through(150);
        let cut = Stream::chat(200).gated(&gate).ending(Ending::Cut);
        let (a, b) = (Origin::start(cut), Origin::start(Behaviour::sse(3)));
        let rest = route(&format!(
            "providers: [a], fallback: [b], idempotent: always, stream: {{ commit: complete{buffer} }}"
        ));
        let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
        let sidecar = single_worker(&policy(&providers, &(rest + GENEROUS)));
        let response = std::thread::scope(|scope| {
            let response = scope.spawn(|| sidecar.send(&chat()));
            a.wait_for_in_flight(1);
            sleep_until(Instant::now() + Duration::from_millis(200));
            gate.open_wide();
            response.join().expect("a response")
        });
        assert!(is_from(&response, &b), "{}", response.text());
        assert!(response.text().contains("[DONE]"));
    }
}

#[test]
fn a_held_response_of_many_frames_arrives_whole() {
    let a = Origin::start(Behaviour::sse(500));
    let rest = route("providers: [a], stream: { commit: complete }");
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &rest));
    let text = sidecar.send(&chat()).text();
    assert!((0..500).all(|n| text.contains(&format!("word{n} "))) && text.contains("[DONE]"));
}

#[test]
fn after_the_commit_only_the_idle_time_ends_a_stream_without_content() {
    let gate = Gate::closed();
    gate.let_through(1);
    let a = Origin::start(Stream::chat(2).gated(&gate));
    let rest = route("providers: [a], stream: { commit: headers }");
    let limits = "timeouts: { first_byte: 200ms, idle: 20s }";
    let sidecar = single_worker(&policy(&[("a", &a.url(), limits)], &rest));
    let mut client = sidecar.client();
    let mut response = client.start(&chat());
    assert!(response.next_event().is_some());
    sleep_until(Instant::now() + Duration::from_millis(600));
    gate.open_wide();
    let events = response.events();
    assert!(events.iter().any(|event| event.contains("word1")), "{events:?}");
    assert_eq!(response.end(), End::Complete);
}
