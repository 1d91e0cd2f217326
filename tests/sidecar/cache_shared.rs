//! Caching by policy of responses that HTTP does not allow to store, and request coalescing.

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::json;

use crate::fixtures::{
    CHAT, GENEROUS, access_record, api, cache_status, chat_for, policy, route, single_worker,
};
use crate::support::{
    Behaviour, Call, Client, End, Ending, Gate, Origin, Response, ResponseReader, Sidecar, Stream,
};

/// A route for everything that stores responses for a minute.
fn yaml(origin: &Origin, store: &str, more: &str) -> String {
    let store = format!("{{ ttl: 60s, key: [method, path, body]{store} }}");
    let caches =
        format!("caches: {{ c: {{ max_bytes: 1MiB, store: {store}, stale_if_error: 1h }} }}\n");
    let provider =
        [("a", &*origin.url(), "auth: passthrough, timeouts: { headers: 20s, idle: 20s }")];
    policy(&provider, &(route(&format!("providers: [a], cache: c{more}")) + &caches + GENEROUS))
}

fn raw(body: &str) -> Call {
    Call::post(CHAT, body).header("content-type", "application/json")
}

#[test]
fn json_bodies_that_differ_only_in_form_share_a_stored_response() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&yaml(&a, "", ""));
    let first = sidecar.send(&raw(r#"{"model":"m","messages":[],"n":1}"#));
    assert_eq!(cache_status(&first), "outrigger; fwd=uri-miss; stored");
    let again = sidecar.send(&raw("{ \"n\": 1, \"messages\": [ ], \"model\": \"\\u006d\" }"));
    assert!(cache_status(&again).starts_with("outrigger; hit; ttl="));
    assert_eq!((again.text(), again.header("age")), (first.text(), Some("0")));
    sidecar.send(&raw(r#"{"model":"m","messages":[],"n":1.0}"#));
    sidecar.send(&raw(r#"{"model":"m","messages":[],"n":2}"#));
    assert_eq!(a.count(), 3);
}

#[test]
fn a_stored_response_belongs_to_one_principal_unless_the_policy_says_public() {
    for (store, count) in [("", 5), (", public: true", 1)] {
        let a = Origin::start(Behaviour::Chat);
        let sidecar = single_worker(&yaml(&a, store, ""));
        for caller in ["one", "two", "one"] {
            sidecar.send(&chat_for("m").header("authorization", &format!("Bearer {caller}")));
        }
        sidecar.send(&chat_for("m").header("api-key", "one"));
        for caller in ["one", "two", "one"] {
            let call =
                Call::post(&format!("{CHAT}?key={caller}"), r#"{"messages":[],"model":"m"}"#);
            sidecar.send(&call.header("content-type", "application/json"));
        }
        assert_eq!(a.count(), count, "{store}");
    }
}

#[test]
fn a_stored_stream_is_served_as_a_stream() {
    let a = Origin::start(Stream::chat(5));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let mut client = sidecar.client();
    let events: Vec<_> = (0..2).map(|_| client.start(&chat_for("m")).events()).collect();
    assert_eq!((events[0].len(), a.count()), (8, 1));
    assert_eq!(events[0], events[1]);
    let again = sidecar.send(&chat_for("m"));
    assert_eq!(again.header("content-type"), Some("text/event-stream"));
    assert_eq!((again.header("content-length"), again.end), (None, End::Complete));
}

#[test]
fn incomplete_and_failed_responses_are_not_stored() {
    let failed = Stream::of([r#"{"error":{"message":"overloaded","code":500}}"#]);
    let cases: [Behaviour; 4] = [
        Stream::chat(5).first(3).ending(Ending::Cut).into(),
        Behaviour::status(400, &[]),
        failed.into(),
        Behaviour::HalfBody,
    ];
    for broken in cases {
        let a = Origin::start(broken.clone());
        let more = ", idempotent: never, stream: { commit: headers }";
        let sidecar = single_worker(&yaml(&a, "", more));
        sidecar.send(&chat_for("m"));
        a.set(Behaviour::Chat);
        let second = sidecar.send(&chat_for("m"));
        assert!(cache_status(&second).contains("fwd="), "{broken:?}: {}", cache_status(&second));
        assert_eq!(second.status, 200);
    }
}

#[test]
fn cache_directives_of_the_application_are_followed() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&yaml(&a, "", ""));
    sidecar.send(&chat_for("m").header("cache-control", "no-store"));
    sidecar.send(&chat_for("m"));
    assert_eq!(a.count(), 2, "the first response must not be stored");
    sidecar.send(&chat_for("m").header("cache-control", "no-cache"));
    assert_eq!(a.count(), 3, "the stored response must not be used");
    sidecar.send(&chat_for("m"));
    assert_eq!(a.count(), 3);
}

#[test]
fn a_cookie_is_sent_only_with_the_first_response() {
    let body = json!({ "choices": [] }).to_string();
    let headers = [("content-type", "application/json"), ("set-cookie", "a=b")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let a = Origin::start(Behaviour::Status(200, headers.into(), body));
    let sidecar = single_worker(&yaml(&a, ", public: true", ""));
    assert_eq!(sidecar.send(&chat_for("m")).header("set-cookie"), Some("a=b"));
    let second = sidecar.send(&chat_for("m"));
    assert_eq!((second.header("set-cookie"), a.count()), (None, 1));
}

/// Sends equal requests concurrently, each on its own connection.
fn send_concurrently(sidecar: &Sidecar, count: usize) -> Vec<thread::JoinHandle<Response>> {
    (0..count)
        .map(|_| {
            let mut client = sidecar.client();
            thread::spawn(move || client.send(&chat_for("m")))
        })
        .collect()
}

#[test]
fn equal_requests_on_all_workers_are_coalesced_into_one() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = Sidecar::builder().policy("policy", &yaml(&a, "", "")).workers(4).start();
    let calls = send_concurrently(&sidecar, 100);
    sidecar.wait_until(|s| s.metric("outrigger_connections").is_some_and(|open| open >= 100.0));
    a.wait_for_requests(1);
    gate.open_wide();
    let responses: Vec<_> =
        calls.into_iter().map(|call| call.join().expect("a response")).collect();
    assert_eq!(a.count(), 1);
    assert!(
        responses.iter().all(|response| response.status == 200 && response.end == End::Complete)
    );
    assert!(responses.windows(2).all(|pair| pair[0].text() == pair[1].text()));
    let collapsed =
        responses.iter().filter(|response| cache_status(response).ends_with("; collapsed")).count();
    assert!(collapsed > 0, "no request was coalesced");
}

#[test]
fn a_request_that_arrives_as_the_response_ends_is_not_sent_again() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::builder().policy("policy", &yaml(&a, "", "")).workers(4).start();
    let (rounds, clients) = (500, 8);
    let start = Arc::new(Barrier::new(clients));
    let calls: Vec<_> = (0..clients)
        .map(|_| {
            let (mut client, start) = (sidecar.client(), Arc::clone(&start));
            thread::spawn(move || {
                for round in 0..rounds {
                    start.wait();
                    assert_eq!(client.send(&chat_for(&format!("m{round}"))).status, 200);
                }
            })
        })
        .collect();
    calls.into_iter().for_each(|call| call.join().expect("every response arrives"));
    assert_eq!(a.count(), rounds);
}

/// Sends a request and an equal second one, lets `events` through, and returns both responses.
fn leader_and_follower<'c>(
    origin: &Origin,
    gate: &Gate,
    events: usize,
    leader: &'c mut Client,
    follower: &'c mut Client,
) -> (ResponseReader<'c>, ResponseReader<'c>) {
    leader.send_only(&chat_for("m"));
    origin.wait_for_requests(1);
    follower.send_only(&chat_for("m"));
    gate.let_through(events);
    (leader.read_response("POST").expect("a head"), follower.read_response("POST").expect("a head"))
}

#[test]
fn a_follower_receives_each_event_as_it_arrives() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate));
    let sidecar = Sidecar::builder().policy("policy", &yaml(&a, "", "")).workers(2).start();
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = leader_and_follower(&a, &gate, 2, &mut leader, &mut follower);
    assert_eq!(second.header("cache-status"), Some("outrigger; fwd=uri-miss; collapsed"));
    for response in [&mut first, &mut second] {
        assert!(response.next_event().is_some_and(|event| event.contains("assistant")));
        assert!(response.next_event().is_some_and(|event| event.contains("word0")));
    }
    // A follower that joins midway gets the response from its start.
    let mut late_follower = sidecar.client();
    let mut third = late_follower.start(&chat_for("m"));
    assert!(third.next_event().is_some_and(|event| event.contains("assistant")));
    gate.open_wide();
    assert_eq!((first.events().len(), second.events().len(), third.events().len()), (5, 5, 6));
    assert_eq!((second.end(), third.end(), a.count()), (End::Complete, End::Complete, 1));
}

#[test]
fn a_follower_sends_the_request_when_the_leader_leaves_before_a_response() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let mut first = sidecar.client();
    first.send_only(&chat_for("m"));
    a.wait_for_requests(1);
    let calls = send_concurrently(&sidecar, 3);
    sidecar.wait_until(|s| s.metric("outrigger_connections").is_some_and(|open| open >= 4.0));
    drop(first);
    a.wait_for_requests(2);
    gate.open_wide();
    for call in calls {
        assert_eq!(call.join().expect("a response").status, 200);
    }
    assert_eq!(a.count(), 2);
}

#[test]
fn followers_get_the_whole_response_when_the_leader_leaves_midway() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    leader.send_only(&chat_for("m"));
    a.wait_for_requests(1);
    follower.send_only(&chat_for("m"));
    gate.let_through(2);
    let mut second = follower.read_response("POST").expect("a head");
    assert!(second.next_event().is_some());
    drop(leader);
    let record = access_record(&sidecar, 1);
    assert_eq!(record["result"], "client_disconnected");
    gate.open_wide();
    assert_eq!((second.events().len(), second.end()), (6, End::Complete));
    drop(second);
    assert_eq!(follower.send(&chat_for("m")).status, 200);
    assert_eq!(a.count(), 1, "the response was not stored");
}

/// A stream of frames of 64 KiB, followed by its token usage.
fn large(frames: usize) -> Stream {
    let delta = json!({ "content": "x".repeat(64 << 10) });
    let frame = json!({ "choices": [ { "index": 0, "delta": delta } ] }).to_string();
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 5 });
    let last = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
    let last = [last.to_string(), "[DONE]".to_owned()];
    Stream::of(std::iter::repeat_n(frame, frames).chain(last))
}

#[test]
fn a_leader_that_stops_reading_does_not_delay_followers() {
    let gate = Gate::closed();
    let frames = 256;
    let a = Origin::start(large(frames).gated(&gate));
    let price = "price: { input: 1.00, output: 2.00, per: 1, currency: USD }, auth";
    let policy = yaml(&a, "", "").replace("1MiB", "256MiB").replacen("auth", price, 1);
    let sidecar = single_worker(&policy);
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = leader_and_follower(&a, &gate, 1, &mut leader, &mut follower);
    assert_eq!(second.header("cache-status"), Some("outrigger; fwd=uri-miss; collapsed"));
    gate.open_wide();
    // The socket buffers hold only a part of the response.
    assert_eq!((second.events().len(), second.end()), (frames + 2, End::Complete));
    let follower_record = access_record(&sidecar, 1);
    assert_eq!(
        (&follower_record["cache"], &follower_record["tokens_out"]),
        (&json!("coalesced"), &json!(null))
    );
    assert_eq!((first.events().len(), first.end()), (frames + 2, End::Complete));
    let leader_record = access_record(&sidecar, 2);
    assert_eq!(
        (&leader_record["cache"], &leader_record["result"]),
        (&json!("miss"), &json!("complete"))
    );
    assert_eq!((&leader_record["tokens_out"], &leader_record["cost"]), (&json!(5), &json!(13.0)));
    assert_eq!(leader_record["bytes_out"], follower_record["bytes_out"]);
    assert_eq!(a.count(), 1);
}

#[test]
fn a_leader_without_followers_cancels_the_exchange_when_it_leaves() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate).ending(Ending::Hang));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let mut client = sidecar.client();
    client.send_only(&chat_for("m"));
    gate.let_through(2);
    let mut response = client.read_response("POST").expect("a head");
    assert!(response.next_event().is_some());
    drop(client);
    a.wait_for_open_connections(0);
    let record = access_record(&sidecar, 1);
    assert_eq!(record["result"], "client_disconnected");
    assert!(record["bytes_out"].as_u64().is_some_and(|bytes| bytes > 0), "{record}");
    let overview = api(&sidecar, "/api/caches");
    assert_eq!(overview["caches"][0]["recording_bytes"], 0);
    gate.open_wide();
}

#[test]
fn beyond_the_limit_the_leader_gets_everything_and_a_stalled_follower_is_cut() {
    let gate = Gate::closed();
    let frames = 256;
    let a = Origin::start(large(frames).gated(&gate));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = leader_and_follower(&a, &gate, 1, &mut leader, &mut follower);
    gate.open_wide();
    assert_eq!((first.events().len(), first.end()), (frames + 2, End::Complete));
    assert_eq!(second.end(), End::Cut, "the stalled follower was not cut");
    assert_eq!(a.count(), 1);
}

#[test]
fn each_follower_of_an_unshareable_response_sends_its_own_request() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::status(400, &[]).held(&gate));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let calls = send_concurrently(&sidecar, 5);
    a.wait_for_requests(1);
    gate.open_wide();
    for call in calls {
        assert_eq!(call.join().expect("a response").status, 400);
    }
    assert_eq!(a.count(), 5);
}

#[test]
fn an_endless_body_is_passed_on_and_not_stored() {
    let delta = json!({ "content": "x".repeat(64 << 10) });
    let frame = json!({ "choices": [ { "index": 0, "delta": delta } ] }).to_string();
    let gate = Gate::closed();
    let a = Origin::start(Stream::of(vec![frame; 64]).gated(&gate).ending(Ending::Hang));
    let sidecar = single_worker(&yaml(&a, "", ", stream: { commit: headers }"));
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = leader_and_follower(&a, &gate, 1, &mut leader, &mut follower);
    gate.let_through(63);
    for n in 0..64 {
        assert!(first.next_event().is_some(), "{n}");
        assert!(second.next_event().is_some(), "{n}: a follower that keeps up gets every event");
    }
    assert_eq!(a.count(), 1);
    let overview = api(&sidecar, "/api/caches");
    assert_eq!(overview["caches"][0]["entries"], 0, "{overview}");
    drop((first, second));
    drop((leader, follower));
    sidecar.wait_until(|sidecar| api(sidecar, "/api/caches")["caches"][0]["recording_bytes"] == 0);
}

#[test]
fn a_stale_response_is_served_when_the_provider_is_down() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&yaml(&a, "", "").replace("ttl: 60s", "ttl: 1ms"));
    let first = sidecar.send(&chat_for("m"));
    a.set(Behaviour::RefuseConnections);
    sidecar.wait_until(|sidecar| {
        let again = sidecar.send(&chat_for("m"));
        assert_eq!((again.status, again.text()), (200, first.text()));
        cache_status(&again).ends_with("detail=stale-if-error")
    });
}

#[test]
fn a_shared_stream_that_breaks_counts_as_interrupted_for_each_of_its_clients() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate).ending(Ending::Cut));
    let sidecar = single_worker(&yaml(&a, "", ""));
    let (mut leader, mut follower) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = leader_and_follower(&a, &gate, 2, &mut leader, &mut follower);
    gate.open_wide();
    for response in [&mut first, &mut second] {
        response.events();
        assert_ne!(response.end(), End::Complete);
    }
    for record in sidecar.wait_for_access(2) {
        assert_eq!(record["result"], "interrupted", "{record}");
    }
    let interrupted = "outrigger_interrupted_streams_total{route=\"all\",reason=\"broken\"}";
    assert_eq!(sidecar.metric(interrupted), Some(2.0));
}
