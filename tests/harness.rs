//! Tests of the test support: an origin and a client without a sidecar between them.

#![allow(clippy::disallowed_methods)]

mod support;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use serde_json::json;
use support::{Behaviour, Call, Client, End, Ending, Gate, Origin, Stream, get, post, post_json};

const CHAT: &str = "/v1/chat/completions";

fn chat() -> Call {
    Call::json(CHAT, &json!({ "model": "small", "messages": [] }))
}

fn url(origin: &Origin) -> String {
    format!("{}{CHAT}", origin.url())
}

#[test]
fn a_completion_echoes_the_model_and_the_request_is_recorded() {
    let origin = Origin::start(Behaviour::Chat);
    let response = post_json(&url(&origin), &json!({ "model": "large" }));
    assert_eq!((response.status, response.end), (200, End::Complete));
    assert_eq!(response.json()["model"], "large");
    assert_eq!(response.header("X-Origin"), Some(origin.address().to_string().as_str()));
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", CHAT));
    assert_eq!(request.headers.get("Content-Type"), Some("application/json"));
    assert_eq!(request.body, br#"{"model":"large"}"#);
}

#[test]
fn a_connection_is_kept_alive_and_numbered() {
    let origin = Origin::start(Behaviour::Chat);
    let mut client = Client::to(&origin.url());
    for _ in 0..3 {
        assert_eq!(client.send(&chat()).status, 200);
    }
    get(&origin.url());
    let connections: Vec<_> = origin.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1]);
    assert_eq!((origin.count(), origin.connections()), (4, 2));
    origin.wait_for_open_connections(1);
}

#[test]
fn a_chunked_request_arrives_complete() {
    let origin = Origin::start(Behaviour::Chat);
    let body = "x".repeat(5000);
    let response = Client::to(&origin.url()).send(&Call::post("/", body.clone()).chunked());
    assert_eq!(response.status, 200);
    assert_eq!(origin.last().body, body.as_bytes());
}

#[test]
fn expect_continue_gets_a_100_response() {
    let origin = Origin::start(Behaviour::Chat);
    let mut client = Client::to(&origin.url());
    let response = client.send(&chat().header("expect", "100-continue"));
    assert_eq!((response.interim, response.status), (vec![100], 200));
}

#[test]
fn a_head_request_has_a_length_and_no_body() {
    let origin = Origin::start(Behaviour::Chat);
    let mut client = Client::to(&origin.url());
    let response = client.send(&Call::new("HEAD", "/"));
    assert!(response.header("content-length").is_some_and(|length| length != "0"));
    assert!(response.body.is_empty());
    assert_eq!(client.send(&chat()).status, 200);
}

#[test]
fn an_event_stream_ends_with_done() {
    let origin = Origin::start(Behaviour::sse(2));
    let mut client = Client::to(&origin.url());
    let mut response = client.start(&chat());
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    let events = response.events();
    assert_eq!(events.len(), 5);
    assert!(events[1].contains("word0"), "{}", events[1]);
    assert_eq!(events[4], "[DONE]");
    assert_eq!(response.end(), End::Complete);
    drop(response);
    assert_eq!(client.send(&chat()).end, End::Complete);
}

#[test]
fn frames_wait_for_the_gate() {
    let gate = Gate::closed();
    let origin = Origin::start(Stream::chat(2).gated(&gate));
    let mut client = Client::to(&origin.url());
    let mut response = client.start(&chat());
    gate.let_through(2);
    assert!(response.next_event().is_some_and(|event| event.contains("assistant")));
    assert!(response.next_event().is_some_and(|event| event.contains("word0")));
    assert_eq!(origin.in_flight(), 1);
    gate.open_wide();
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
}

#[test]
fn a_stream_can_be_cut_or_reset() {
    for (ending, end) in [(Ending::Cut, End::Cut), (Ending::Reset, End::Reset)] {
        let origin = Origin::start(Stream::chat(3).first(2).ending(ending));
        let mut client = Client::to(&origin.url());
        let mut response = client.start(&chat());
        assert_eq!(response.events().len(), 2);
        assert_eq!(response.end(), end);
    }
}

#[test]
fn the_request_of_a_disconnected_client_is_no_longer_in_flight() {
    let hanging = Stream::chat(1).first(2).ending(Ending::Hang).into();
    for behaviour in [Behaviour::Silent, Behaviour::HeadersThenSilence, hanging] {
        let origin = Origin::start(behaviour);
        let mut client = Client::to(&origin.url());
        client.send_only(&chat());
        origin.wait_for_in_flight(1);
        drop(client);
        origin.wait_for_in_flight(0);
        origin.wait_for_open_connections(0);
    }
}

#[test]
fn a_status_comes_with_its_headers_and_an_error_body() {
    let origin = Origin::start(Behaviour::status(429, &[("retry-after", "7")]));
    let response = post(&url(&origin), "{}");
    assert_eq!((response.status, response.header("retry-after")), (429, Some("7")));
    assert_eq!(response.json()["error"]["code"], 429);
}

#[test]
fn broken_responses_are_distinguished() {
    let origin = Origin::start(Behaviour::HalfBody);
    assert_eq!(post(&url(&origin), "{}").end, End::Cut);
    origin.set(Behaviour::ResetMidBody);
    let half = post(&url(&origin), "{}");
    assert_eq!((half.end, half.body.is_empty()), (End::Reset, false));
    origin.set(Behaviour::MalformedJson);
    assert!(serde_json::from_slice::<serde_json::Value>(&post(&url(&origin), "{}").body).is_err());
    origin.set(Behaviour::EmptyBody);
    let empty = post(&url(&origin), "{}");
    assert_eq!((empty.status, empty.body.len(), empty.end), (200, 0, End::Complete));
    origin.set(Behaviour::Raw(b"HTTP/1.0 200 OK\r\n\r\nto the close".to_vec()));
    let raw = post(&url(&origin), "{}");
    assert_eq!((raw.text().as_str(), raw.end), ("to the close", End::Complete));
    origin.set(Behaviour::Reset);
    let error = Client::to(&origin.url()).try_send(&chat()).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_idle_connection_is_closed_without_notice() {
    let origin = Origin::start(Behaviour::CloseIdle);
    let mut client = Client::to(&origin.url());
    let response = client.send(&chat());
    assert_eq!((response.status, response.header("connection")), (200, None));
    assert!(client.wait_for_close());
}

#[test]
fn a_refusing_origin_keeps_its_port_and_can_listen_again() {
    let origin = Origin::start(Behaviour::Chat);
    let mut open = Client::to(&origin.url());
    assert_eq!(open.send(&chat()).status, 200);
    origin.set(Behaviour::RefuseConnections);
    assert!(open.wait_for_close());
    for _ in 0..3 {
        let error = Client::try_to(&origin.url()).expect_err("a refused connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    origin.set(Behaviour::Chat);
    assert_eq!(post(&url(&origin), "{}").status, 200);
}

#[test]
fn a_black_hole_accepts_no_connection_until_it_is_changed() {
    let origin = Origin::start(Behaviour::BlackHole);
    let moment = std::time::Duration::from_millis(100);
    let tried = std::net::TcpStream::connect_timeout(&origin.address(), moment);
    assert_eq!(tried.expect_err("SYNs are dropped").kind(), ErrorKind::TimedOut);
    origin.set(Behaviour::Chat);
    assert_eq!(post(&url(&origin), "{}").status, 200);
}

#[test]
fn a_script_repeats_its_last_behaviour_and_a_cycle_starts_again() {
    let three = || [500, 502, 200].map(|code| Behaviour::status(code, &[]));
    let origin = Origin::script(three());
    let mut client = Client::to(&origin.url());
    let codes = |client: &mut Client| [0; 5].map(|_| client.send(&chat()).status);
    assert_eq!(codes(&mut client), [500, 502, 200, 200, 200]);
    origin.set(Behaviour::Cycle(three().into()));
    assert_eq!(codes(&mut client), [500, 502, 200, 500, 502]);
}

#[test]
fn a_custom_behaviour_sees_the_request() {
    let origin = Origin::start(Behaviour::custom(|request| match request.path.as_str() {
        "/good" => Behaviour::Chat,
        _ => Behaviour::status(404, &[]),
    }));
    let url = |path| format!("{}{path}", origin.url());
    assert_eq!((get(&url("/good")).status, get(&url("/bad")).status), (200, 404));
}

#[test]
fn requests_held_at_a_gate_are_counted_at_once() {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    thread::scope(|scope| {
        let calls = [0; 4].map(|_| scope.spawn(|| post(&url(&origin), "{}").status));
        origin.wait_for_in_flight(4);
        gate.open_wide();
        assert_eq!(calls.map(|call| call.join().expect("the call ends")), [200; 4]);
    });
    origin.wait_for_in_flight(0);
    assert_eq!(origin.most_in_flight(), 4);
}

#[test]
fn cutting_closes_open_connections_and_keeps_the_listener() {
    let origin = Origin::start(Behaviour::Silent);
    let mut client = Client::to(&origin.url());
    client.send_only(&chat());
    origin.wait_for_in_flight(1);
    origin.cut();
    assert!(client.wait_for_close());
    origin.set(Behaviour::Chat);
    assert_eq!(post(&url(&origin), "{}").status, 200);
}

#[test]
fn a_panic_in_the_origin_fails_the_test() {
    let origin = Origin::start(Behaviour::custom(|_| panic!("this request was not expected")));
    assert!(Client::to(&origin.url()).try_send(&chat()).is_err());
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(origin)));
    let message = dropped.expect_err("dropping panics").downcast::<String>().expect("a text");
    assert!(message.contains("this request was not expected"), "{message}");
}
