//! Streams in formats that the sidecar does not know are forwarded byte for byte.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{
    CHAT, GENEROUS, access_record, chat, classes, policy, route, single_worker, sleep_until, state,
};
use crate::support::{Behaviour, Call, End, Ending, Gate, Origin, Sidecar, Stream};

const BREAKER: &str = "breakers: { default: { failure_threshold: 1 } }\n";

fn start(a: &Origin, more: &str) -> Sidecar {
    let limits = "auth: none, timeouts: { headers: 400ms, first_byte: 400ms, idle: 5s }";
    let route = route(&format!("providers: [a], idempotent: always{more}"));
    single_worker(&policy(&[("a", &a.url(), limits)], &(route + GENEROUS + BREAKER)))
}

fn raw(head: &str, body: &str) -> Behaviour {
    let length = body.len();
    let text = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
    Behaviour::Raw(text.into_bytes())
}

const SSE: &str = "200 OK\r\ncontent-type: text/event-stream";
const LINES: &str = "200 OK\r\ncontent-type: application/x-ndjson";

#[test]
fn streams_in_unknown_formats_are_forwarded_byte_for_byte() {
    for (head, body) in [
        (SSE, "data: {\"type\":\"ping\"}\n\ndata: hello world\n\n"),
        (SSE, ": only a comment\n\n"),
        (SSE, "data: {oops\n\n: c\n\nid: 7\n\ndata: plain\n\n"),
        (
            SSE,
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"message\":\"no\"}}\n\n",
        ),
        (SSE, "data: {\"error\":0}\n\ndata: {\"error\":\"x\",\"id\":3}\n\ndata: tick"),
        (LINES, ""),
        (LINES, "{\"t\": NaN}\n{\"t\": NaN}\n"),
        (LINES, "{\"done\":false,\"progress\":1}\n{\"result\":\"x\"}\n"),
        (LINES, "{\"id\":1,\"error\":\"no\"}\n{\"id\":2}\n{\"id\":3,\"error\":\"x\"}\n{\"id\":4}"),
    ] {
        for call in [chat(), Call::get("/events")] {
            let a = Origin::start(raw(head, body));
            let sidecar = start(&a, "");
            let response = sidecar.send(&call);
            let received = (response.status, response.text(), response.end);
            assert_eq!(received, (200, body.to_owned(), End::Complete), "{body:?}");
            assert_eq!((a.count(), state(&sidecar, "a").as_str()), (1, "closed"), "{body:?}");
            assert_eq!(classes(&access_record(&sidecar, 1)), ["success"], "{body:?}");
        }
    }
}

#[test]
fn only_a_complete_200_is_parsed_as_a_stream() {
    let error = "event: error\ndata: {\"message\":\"bad input\"}\n\n";
    for (status, head, body) in [
        (400, "400 Bad Request\r\ncontent-type: text/event-stream", error),
        (404, "404 Not Found\r\ncontent-type: text/event-stream", ""),
        (206, "206 Partial Content\r\ncontent-type: application/jsonl", "{\"a\":1}\n{\"b"),
    ] {
        let a = Origin::start(raw(head, body));
        let sidecar = start(&a, "");
        let response = sidecar.send(&chat());
        assert_eq!((response.status, response.text().as_str()), (status, body));
        assert_eq!((a.count(), state(&sidecar, "a").as_str()), (1, "closed"), "{status}");
    }
}

#[test]
fn the_head_of_a_quiet_stream_is_sent_with_its_first_byte() {
    let comment = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                   8\r\n: quiet\n\r\n";
    let a = Origin::start(Behaviour::Raw(comment.as_bytes().to_vec()));
    let sidecar = start(&a, "");
    let mut client = sidecar.client();
    let began = Instant::now();
    client.send_only(&Call::get("/events"));
    let response = client.read_response("GET").expect("the head");
    assert_eq!(response.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn trailers_do_not_complete_an_interrupted_stream() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let content =
        json!({ "object": "chat.completion.chunk", "choices": [{ "delta": { "content": "Hi" } }] });
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
    let event = format!("data: {content}\n\n");
    let broken = format!("{head}{}{}0\r\nx-sum: 1\r\n\r\n", chunk(&event), chunk("data: {\"half"));
    let complete =
        format!("{head}{}{}0\r\nx-sum: 1\r\n\r\n", chunk(&event), chunk("data: [DONE]\n\n"));
    let a = Origin::start(Behaviour::Raw(broken.into_bytes()));
    let sidecar = start(&a, "");
    let response = sidecar.send(&chat());
    assert_ne!(response.end, End::Complete, "{}", response.text());
    assert!(response.text().contains("\"error\":{"), "{}", response.text());
    assert_eq!(access_record(&sidecar, 1)["result"], "interrupted");
    let a = Origin::start(Behaviour::Raw(complete.into_bytes()));
    let sidecar = start(&a, "");
    let response = sidecar.send(&chat());
    assert_eq!(response.end, End::Complete, "{}", response.text());
    assert!(response.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(access_record(&sidecar, 1)["result"], "complete");
}

#[test]
fn content_after_an_error_event_is_forwarded_at_once() {
    let error = json!({ "error": { "message": "overloaded" } }).to_string();
    let content =
        json!({ "object": "chat.completion.chunk", "choices": [{ "delta": { "content": "Hi" } }] });
    let gate = Gate::closed();
    let mut stream = Stream::of([format!("{error}\n\ndata: {content}\n\ndata: {content}")]);
    stream.frames.push("[DONE]".to_owned());
    let a = Origin::start(stream.gated(&gate).ending(Ending::Complete));
    let sidecar = start(&a, ", retry: none");
    let mut client = sidecar.client();
    client.send_only(&Call::json(CHAT, &json!({ "messages": [], "stream": true })));
    gate.let_through(1);
    let mut response = client.read_response("POST").expect("the response of the provider");
    assert!(response.next_event().is_some_and(|event| event.contains("overloaded")));
    assert!((0..2).all(|_| response.next_event().is_some_and(|event| event.contains("Hi"))));
    gate.open_wide();
}

#[test]
fn the_last_provider_gets_all_the_time_that_a_silent_one_left() {
    let gate = Gate::closed();
    let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(Behaviour::Chat.held(&gate)));
    let more = "auth: none, breaker: none";
    let route = route("providers: [a, b], balance: first, idempotent: always, timeout: 2s");
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), more), ("b", &b.url(), more)],
        &(route + GENEROUS),
    ));
    let began = Instant::now();
    let mut client = sidecar.client();
    client.send_only(&chat());
    b.wait_for_in_flight(1);
    // The first provider got half of the time. The second is the last and gets all of the rest.
    sleep_until(began + Duration::from_millis(1700));
    gate.open_wide();
    let response = client.read_response("POST").expect("a response");
    assert_eq!(response.status, 200);
}
