//! Answers that HTTP calls uncacheable, kept by policy; and one request asked for many.

use std::thread;

use serde_json::json;

use crate::fixtures::{CHAT, GENEROUS, access_record, alone, chat_for, policy, route};
use crate::support::{
    Behaviour, Call, Client, End, Ending, Gate, Origin, Response, ResponseReader, Sidecar, Stream,
};

/// A route for everything that keeps its answers for a minute.
fn yaml(origin: &Origin, store: &str, more: &str) -> String {
    let store = format!("{{ ttl: 60s, key: [method, path, body]{store} }}");
    let caches = format!(
        "caches: {{ c: {{ max_bytes: 1MiB, store: {store}, stale_if_error: 1h, stale_while_revalidate: 0s }} }}\n"
    );
    let provider =
        [("a", &*origin.url(), "auth: passthrough, timeouts: { headers: 20s, idle: 20s }")];
    policy(&provider, &(route(&format!("providers: [a], cache: c{more}")) + &caches + GENEROUS))
}

fn told(response: &Response) -> &str {
    response.header("cache-status").expect("it tells what the cache did")
}

fn raw(body: &str) -> Call {
    Call::post(CHAT, body).header("content-type", "application/json")
}

#[test]
fn the_same_question_has_the_same_answer_however_it_is_written() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&yaml(&a, "", ""));
    let first = sidecar.send(&raw(r#"{"model":"m","messages":[],"n":1}"#));
    assert_eq!(told(&first), "outrigger; fwd=uri-miss; stored");
    let again = sidecar.send(&raw("{ \"n\": 1, \"messages\": [ ], \"model\": \"\\u006d\" }"));
    assert!(told(&again).starts_with("outrigger; hit; ttl="));
    assert_eq!((again.text(), again.header("age")), (first.text(), Some("0")));
    sidecar.send(&raw(r#"{"model":"m","messages":[],"n":1.0}"#));
    sidecar.send(&raw(r#"{"model":"m","messages":[],"n":2}"#));
    assert_eq!(a.count(), 3);
}

#[test]
fn answers_are_for_who_asked_unless_the_policy_says_public() {
    for (store, count) in [("", 5), (", public: true", 1)] {
        let a = Origin::start(Behaviour::Chat);
        let sidecar = alone(&yaml(&a, store, ""));
        for who in ["one", "two", "one"] {
            sidecar.send(&chat_for("m").header("authorization", &format!("Bearer {who}")));
        }
        sidecar.send(&chat_for("m").header("api-key", "one"));
        for who in ["one", "two", "one"] {
            let call = Call::post(&format!("{CHAT}?key={who}"), r#"{"messages":[],"model":"m"}"#);
            sidecar.send(&call.header("content-type", "application/json"));
        }
        assert_eq!(a.count(), count, "{store}");
    }
}

#[test]
fn a_stream_is_kept_whole_and_is_a_stream_again() {
    let a = Origin::start(Stream::chat(5));
    let sidecar = alone(&yaml(&a, "", ""));
    let mut client = sidecar.client();
    let events: Vec<_> = (0..2).map(|_| client.start(&chat_for("m")).events()).collect();
    assert_eq!((events[0].len(), a.count()), (8, 1));
    assert_eq!(events[0], events[1]);
    let again = sidecar.send(&chat_for("m"));
    assert_eq!(again.header("content-type"), Some("text/event-stream"));
    assert_eq!((again.header("content-length"), again.end), (None, End::Complete));
}

#[test]
fn what_broke_or_failed_is_not_kept() {
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
        let sidecar = alone(&yaml(&a, "", more));
        sidecar.send(&chat_for("m"));
        a.set(Behaviour::Chat);
        let second = sidecar.send(&chat_for("m"));
        assert!(told(&second).contains("fwd="), "{broken:?}: {}", told(&second));
        assert_eq!(second.status, 200);
    }
}

#[test]
fn what_the_application_says_of_caches_is_followed() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&yaml(&a, "", ""));
    sidecar.send(&chat_for("m").header("cache-control", "no-store"));
    sidecar.send(&chat_for("m"));
    assert_eq!(a.count(), 2, "the first was not kept");
    sidecar.send(&chat_for("m").header("cache-control", "no-cache"));
    assert_eq!(a.count(), 3, "it goes past what is kept");
    sidecar.send(&chat_for("m"));
    assert_eq!(a.count(), 3);
}

#[test]
fn a_cookie_is_for_who_asked_first_alone() {
    let body = json!({ "choices": [] }).to_string();
    let headers = [("content-type", "application/json"), ("set-cookie", "a=b")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let a = Origin::start(Behaviour::Status(200, headers.into(), body));
    let sidecar = alone(&yaml(&a, ", public: true", ""));
    assert_eq!(sidecar.send(&chat_for("m")).header("set-cookie"), Some("a=b"));
    let second = sidecar.send(&chat_for("m"));
    assert_eq!((second.header("set-cookie"), a.count()), (None, 1));
}

/// So many equal requests at once, each on a connection of its own.
fn crowd(sidecar: &Sidecar, count: usize) -> Vec<thread::JoinHandle<Response>> {
    (0..count)
        .map(|_| {
            let mut client = sidecar.client();
            thread::spawn(move || client.send(&chat_for("m")))
        })
        .collect()
}

#[test]
fn one_of_many_equal_requests_asks_for_all_on_every_worker() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = Sidecar::builder().policy("policy", &yaml(&a, "", "")).workers(4).start();
    let crowd = crowd(&sidecar, 100);
    sidecar.wait_until(|s| s.metric("outrigger_connections").is_some_and(|open| open >= 100.0));
    a.wait_for_requests(1);
    gate.open_wide();
    let answers: Vec<_> = crowd.into_iter().map(|one| one.join().expect("an answer")).collect();
    assert_eq!(a.count(), 1);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.end == End::Complete));
    assert!(answers.windows(2).all(|two| two[0].text() == two[1].text()));
    let collapsed = answers.iter().filter(|answer| told(answer).ends_with("; collapsed")).count();
    assert!(collapsed > 0, "those who came in time wait for the first one's answer");
}

/// One asks, the other reads along; so many events have come.
fn both<'c>(
    origin: &Origin,
    gate: &Gate,
    events: usize,
    one: &'c mut Client,
    two: &'c mut Client,
) -> (ResponseReader<'c>, ResponseReader<'c>) {
    one.send_only(&chat_for("m"));
    origin.wait_for_requests(1);
    two.send_only(&chat_for("m"));
    gate.let_through(events);
    (one.read_response("POST").expect("a head"), two.read_response("POST").expect("a head"))
}

#[test]
fn who_waits_for_a_stream_sees_each_event_as_it_comes() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate));
    let sidecar = Sidecar::builder().policy("policy", &yaml(&a, "", "")).workers(2).start();
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = both(&a, &gate, 2, &mut one, &mut two);
    assert_eq!(second.header("cache-status"), Some("outrigger; fwd=uri-miss; collapsed"));
    for answer in [&mut first, &mut second] {
        assert!(answer.next_event().is_some_and(|event| event.contains("assistant")));
        assert!(answer.next_event().is_some_and(|event| event.contains("word0")));
    }
    // Who comes in the middle has all of it from the beginning.
    let mut three = sidecar.client();
    let mut third = three.start(&chat_for("m"));
    assert!(third.next_event().is_some_and(|event| event.contains("assistant")));
    gate.open_wide();
    assert_eq!((first.events().len(), second.events().len(), third.events().len()), (5, 5, 6));
    assert_eq!((second.end(), third.end(), a.count()), (End::Complete, End::Complete, 1));
}

#[test]
fn when_who_asks_leaves_before_an_answer_another_asks() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = alone(&yaml(&a, "", ""));
    let mut first = sidecar.client();
    first.send_only(&chat_for("m"));
    a.wait_for_requests(1);
    let crowd = crowd(&sidecar, 3);
    sidecar.wait_until(|s| s.metric("outrigger_connections").is_some_and(|open| open >= 4.0));
    drop(first);
    a.wait_for_requests(2);
    gate.open_wide();
    for one in crowd {
        assert_eq!(one.join().expect("an answer").status, 200);
    }
    assert_eq!(a.count(), 2);
}

#[test]
fn when_who_asks_leaves_in_the_middle_those_who_read_along_get_all_of_it() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate));
    let sidecar = alone(&yaml(&a, "", ""));
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    one.send_only(&chat_for("m"));
    a.wait_for_requests(1);
    two.send_only(&chat_for("m"));
    gate.let_through(2);
    let mut second = two.read_response("POST").expect("a head");
    assert!(second.next_event().is_some());
    drop(one);
    let left = access_record(&sidecar, 1);
    assert_eq!(left["end"], "client_left");
    gate.open_wide();
    assert_eq!((second.events().len(), second.end()), (6, End::Complete));
    drop(second);
    assert_eq!(two.send(&chat_for("m")).status, 200);
    assert_eq!(a.count(), 1, "it was stored, too");
}

/// A stream of so many frames of 64 KiB, and of what they cost.
fn large(frames: usize) -> Stream {
    let delta = json!({ "content": "x".repeat(64 << 10) });
    let frame = json!({ "choices": [ { "index": 0, "delta": delta } ] }).to_string();
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 5 });
    let last = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
    let last = [last.to_string(), "[DONE]".to_owned()];
    Stream::of(std::iter::repeat_n(frame, frames).chain(last))
}

#[test]
fn who_asks_and_stops_reading_holds_up_nobody_who_reads_along() {
    let gate = Gate::closed();
    let frames = 256;
    let a = Origin::start(large(frames).gated(&gate));
    let price = "price: { input: 1.00, output: 2.00, per: 1, currency: USD }, auth";
    let policy = yaml(&a, "", "").replace("1MiB", "256MiB").replacen("auth", price, 1);
    let sidecar = alone(&policy);
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = both(&a, &gate, 1, &mut one, &mut two);
    assert_eq!(second.header("cache-status"), Some("outrigger; fwd=uri-miss; collapsed"));
    gate.open_wide();
    // The sockets hold a part of it only.
    assert_eq!((second.events().len(), second.end()), (frames + 2, End::Complete));
    let follower = access_record(&sidecar, 1);
    assert_eq!((&follower["cache"], &follower["tokens_out"]), (&json!("coalesced"), &json!(null)));
    assert_eq!((first.events().len(), first.end()), (frames + 2, End::Complete));
    let leader = access_record(&sidecar, 2);
    assert_eq!((&leader["cache"], &leader["end"]), (&json!("miss"), &json!("answered")));
    assert_eq!((&leader["tokens_out"], &leader["cost"]), (&json!(5), &json!(13.0)));
    assert_eq!(leader["bytes_out"], follower["bytes_out"]);
    assert_eq!(a.count(), 1);
}

#[test]
fn who_asks_and_leaves_alone_takes_the_exchange_along() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(4).gated(&gate).ending(Ending::Hang));
    let sidecar = alone(&yaml(&a, "", ""));
    let mut client = sidecar.client();
    client.send_only(&chat_for("m"));
    gate.let_through(2);
    let mut answer = client.read_response("POST").expect("a head");
    assert!(answer.next_event().is_some());
    drop(client);
    a.wait_for_open_connections(0);
    let left = access_record(&sidecar, 1);
    assert_eq!(left["end"], "client_left");
    assert!(left["bytes_out"].as_u64().is_some_and(|bytes| bytes > 0), "{left}");
    let held = crate::fixtures::api(&sidecar, "/api/caches");
    assert_eq!(held["caches"][0]["recording_bytes"], 0);
    gate.open_wide();
}

#[test]
fn past_the_bound_who_asks_gets_all_of_it_though_another_stops_reading() {
    let gate = Gate::closed();
    let frames = 256;
    let a = Origin::start(large(frames).gated(&gate));
    let sidecar = alone(&yaml(&a, "", ""));
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = both(&a, &gate, 1, &mut one, &mut two);
    gate.open_wide();
    assert_eq!((first.events().len(), first.end()), (frames + 2, End::Complete));
    assert_eq!(second.end(), End::Cut, "it was left behind");
    assert_eq!(a.count(), 1);
}

#[test]
fn an_answer_that_nobody_may_share_makes_each_ask_for_itself() {
    let gate = Gate::closed();
    let a = Origin::start(Behaviour::status(400, &[]).held(&gate));
    let sidecar = alone(&yaml(&a, "", ""));
    let crowd = crowd(&sidecar, 5);
    a.wait_for_requests(1);
    gate.open_wide();
    for one in crowd {
        assert_eq!(one.join().expect("an answer").status, 400);
    }
    assert_eq!(a.count(), 5);
}

#[test]
fn a_body_that_never_ends_passes_and_is_given_up_at_the_bound() {
    let delta = json!({ "content": "x".repeat(64 << 10) });
    let frame = json!({ "choices": [ { "index": 0, "delta": delta } ] }).to_string();
    let gate = Gate::closed();
    let a = Origin::start(Stream::of(vec![frame; 64]).gated(&gate).ending(Ending::Hang));
    let sidecar = alone(&yaml(&a, "", ", stream: { commit: headers }"));
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    let (mut first, mut second) = both(&a, &gate, 1, &mut one, &mut two);
    gate.let_through(63);
    for n in 0..64 {
        assert!(first.next_event().is_some(), "{n}");
        assert!(second.next_event().is_some(), "{n}: who keeps up reads along to the end");
    }
    assert_eq!(a.count(), 1);
    let held = crate::fixtures::api(&sidecar, "/api/caches");
    assert_eq!(held["caches"][0]["entries"], 0, "{held}");
    drop((first, second));
    drop((one, two));
    sidecar.wait_until(|sidecar| {
        crate::fixtures::api(sidecar, "/api/caches")["caches"][0]["recording_bytes"] == 0
    });
}

#[test]
fn a_dead_provider_is_answered_for_by_what_was_kept() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&yaml(&a, "", "").replace("ttl: 60s", "ttl: 1ms"));
    let first = sidecar.send(&chat_for("m"));
    a.set(Behaviour::RefuseConnections);
    sidecar.wait_until(|sidecar| {
        let again = sidecar.send(&chat_for("m"));
        assert_eq!((again.status, again.text()), (200, first.text()));
        told(&again).ends_with("detail=stale-if-error")
    });
}
