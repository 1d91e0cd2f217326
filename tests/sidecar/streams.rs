//! Response bodies: forwarded as they arrive, and never completed after an interruption.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, chat, classes, is_from, policy, route, single_worker, state,
};
use crate::raw_tcp::{RawClient, RawServer};
use crate::support::{Behaviour, Call, End, Ending, Gate, Origin, Sidecar, Signal, Stream};

/// One or two providers in order; every request may be retried, and timeouts are short.
fn start_with_providers(a: &Origin, b: Option<&Origin>, more: &str) -> Sidecar {
    let short_timeouts = "breaker: none, timeouts: { headers: 300ms, idle: 300ms }";
    let mut providers = vec![("a", a.url(), short_timeouts)];
    providers.extend(b.map(|b| ("b", b.url(), short_timeouts)));
    let providers: Vec<_> = providers.iter().map(|(n, url, more)| (*n, &**url, *more)).collect();
    let names = if b.is_some() { "a, b" } else { "a" };
    let route = route(&format!("providers: [{names}], balance: first, idempotent: always{more}"));
    single_worker(&policy(&providers, &(route + GENEROUS)))
}

fn raw(bytes: &str) -> Behaviour {
    Behaviour::Raw(bytes.as_bytes().to_vec())
}

#[test]
fn events_are_forwarded_one_by_one() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(8).gated(&gate));
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut client = sidecar.client();
    client.send_only(&chat());
    // The role and the first content, which may be buffered before the commit.
    gate.let_through(2);
    let mut response = client.read_response("POST").expect("the head of the response");
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert!(response.next_event().is_some_and(|event| event.contains("assistant")));
    assert!(response.next_event().is_some_and(|event| event.contains("word0")));
    for word in 1..8 {
        gate.let_through(1);
        assert!(response.next_event().is_some_and(|e| e.contains(&format!("word{word} "))));
        assert_eq!(a.in_flight(), 1, "the stream is still open");
    }
    gate.open_wide();
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(response.end(), End::Complete);
    drop(response);
    let record = access_record(&sidecar, 1);
    assert_eq!((&record["result"], &record["status"]), (&"complete".into(), &200.into()));
    assert!(record["bytes_out"].as_u64().is_some_and(|bytes| bytes > 500), "{record}");
    assert_eq!(client.send(&chat()).end, End::Complete, "the connection cannot be reused");
}

#[test]
fn an_interrupted_stream_ends_with_an_error_event_and_is_not_retried() {
    let gated = |ending| Stream::chat(5).first(3).ending(ending);
    for (i, ending) in [Ending::Cut, Ending::Reset, Ending::Hang].into_iter().enumerate() {
        let (a, b) = (Origin::start(gated(ending)), Origin::start(Behaviour::Chat));
        let sidecar = start_with_providers(&a, Some(&b), "");
        let mut client = sidecar.client();
        let mut response = client.start(&chat());
        assert_eq!(response.status, 200);
        let events = response.events();
        assert_eq!(events.len(), 4, "not three events and an error: {events:?}");
        assert!(events[3].contains("\"finish_reason\":\"error\""), "{events:?}");
        assert_ne!(response.end(), End::Complete, "{ending:?}");
        assert_eq!((a.count(), b.count()), (1, 0), "{ending:?}");
        let record = access_record(&sidecar, 1);
        assert_eq!(
            (&record["result"], &record["status"]),
            (&"interrupted".into(), &200.into()),
            "{i}: {record}"
        );
    }
}

#[test]
fn a_response_interrupted_after_the_commit_is_shorter_than_its_length() {
    let part = "x".repeat(3 << 20);
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n";
    let (a, b) = (Origin::start(raw(&format!("{head}{part}"))), Origin::start(Behaviour::Chat));
    let response = start_with_providers(&a, Some(&b), "").send(&chat());
    assert_eq!((response.status, response.header("content-length")), (200, Some("4000000")));
    assert_ne!(response.end, End::Complete);
    assert_eq!((a.count(), b.count()), (1, 0));
}

#[test]
fn interrupted_streams_trip_a_breaker() {
    let a = Origin::start(Stream::chat(5).first(3).ending(Ending::Cut));
    let breakers = "breakers: { default: { failure_threshold: 3, recovery_timeout: 60s } }\n";
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), "")], &(route("providers: [a]") + breakers)));
    for _ in 0..3 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    sidecar.wait_until(|sidecar| state(sidecar, "a") == "open");
    assert_eq!((sidecar.send(&chat()).status, a.count()), (503, 3));
}

#[test]
fn truncated_json_is_retried_at_another_provider() {
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n";
    for broken in [Behaviour::HalfBody, Behaviour::ResetMidBody, raw(chunked)] {
        let (a, b) = (Origin::start(broken.clone()), Origin::start(Behaviour::Chat));
        let sidecar = start_with_providers(&a, Some(&b), "");
        let response = sidecar.send(&chat());
        assert_eq!((response.status, response.end), (200, End::Complete), "{broken:?}");
        assert!(is_from(&response, &b) && response.json()["choices"].is_array());
        assert_eq!(classes(&access_record(&sidecar, 1)), ["failure", "success"], "{broken:?}");
    }
}

#[test]
fn a_malformed_response_is_retried_at_another_provider() {
    for broken in [
        "no http at all\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbro ken: 1\r\n\r\n",
        "",
    ] {
        let (a, b) = (Origin::start(raw(broken)), Origin::start(Behaviour::Chat));
        let response = start_with_providers(&a, Some(&b), "").send(&chat());
        assert!(response.status == 200 && is_from(&response, &b), "{broken:?}");
    }
}

#[test]
fn headers_followed_by_silence_are_retried_at_another_provider() {
    let hanging = Stream::chat(2).first(0).ending(Ending::Hang).into();
    for silent in [Behaviour::HeadersThenSilence, hanging] {
        let (a, b) = (Origin::start(silent), Origin::start(Behaviour::sse(2)));
        let sidecar = start_with_providers(&a, Some(&b), "");
        let response = sidecar.send(&chat());
        assert!(response.status == 200 && is_from(&response, &b), "{}", response.status);
        assert!(response.text().ends_with("data: [DONE]\n\n"));
        a.wait_for_in_flight(0);
        assert_eq!(classes(&access_record(&sidecar, 1)), ["failure", "success"]);
    }
}

#[test]
fn an_active_stream_has_no_total_deadline() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(1000).gated(&gate));
    let sidecar = start_with_providers(&a, None, ", timeout: 300ms");
    let (mut client, start) = (sidecar.client(), Instant::now());
    client.send_only(&chat());
    gate.let_through(2);
    let mut response = client.read_response("POST").expect("the head of the response");
    let mut frames = 0;
    sidecar.wait_until(|_| {
        gate.let_through(1);
        frames += 1;
        response.next_event().is_some() && start.elapsed() > Duration::from_secs(1)
    });
    gate.open_wide();
    assert_eq!(response.events().len(), 1003 - frames);
    assert_eq!(response.end(), End::Complete);
}

#[test]
fn a_client_disconnect_cancels_the_upstream_request() {
    let gate = Gate::closed();
    let stream = Stream::chat(9).gated(&gate).into();
    for (behaviour, frames) in [(stream, 3), (Behaviour::Silent, 0)] {
        let a = Origin::start(behaviour);
        let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
        let mut client = sidecar.client();
        client.send_only(&chat());
        a.wait_for_in_flight(1);
        gate.let_through(frames);
        if frames > 0 {
            let mut response = client.read_response("POST").expect("the head of the response");
            assert!((0..frames).all(|_| response.next_event().is_some()));
        }
        drop(client);
        a.wait_for_in_flight(0);
        a.wait_for_open_connections(0);
        let record = access_record(&sidecar, 1);
        assert_eq!(record["result"], "client_disconnected", "{record}");
        assert_eq!(record["status"], if frames > 0 { 200 } else { 499 }, "{record}");
        assert!(classes(&record).last().is_none_or(|class| class != "failure"), "{record}");
    }
}

#[test]
fn a_request_whose_client_has_already_left_is_not_sent() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    // A connection to the provider is open, so the request could be sent at once.
    assert_eq!(sidecar.send(&chat()).status, 200);
    // While the process is stopped, a request arrives and its client disconnects.
    sidecar.signal(Signal::Stop);
    let mut client = sidecar.client();
    client.send_only(&chat());
    drop(client);
    sidecar.signal(Signal::Cont);
    let record = access_record(&sidecar, 2);
    assert_eq!(
        (&record["result"], &record["status"]),
        (&"client_disconnected".into(), &499.into()),
        "{record}"
    );
    assert_eq!(a.count(), 1);
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert_eq!(a.connections(), 1, "the connection to the provider was closed");
}

#[test]
fn a_truncated_request_body_gets_an_error_response() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    sidecar.signal(Signal::Stop);
    wire.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf");
    wire.half_close();
    sidecar.signal(Signal::Cont);
    assert!(wire.read_to_close().contains("request-interrupted"));
    assert_eq!(
        (&access_record(&sidecar, 1)["reason"], a.count()),
        (&"request-interrupted".into(), 0)
    );
}

#[test]
fn a_request_whose_client_leaves_during_a_wait_is_not_sent_again() {
    let a = Origin::start(Behaviour::status(429, &[("retry-after", "3")]));
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut client = sidecar.client();
    client.send_only(&chat());
    a.wait_for_requests(1);
    a.wait_for_in_flight(0);
    drop(client);
    let record = access_record(&sidecar, 1);
    assert_eq!(
        (&record["result"], &record["status"]),
        (&"client_disconnected".into(), &499.into()),
        "{record}"
    );
    assert!(
        record["duration_ms"].as_f64().is_some_and(|ms| ms < 2900.0),
        "the wait was not cancelled: {record}"
    );
    assert_eq!(a.count(), 1);
}

#[test]
fn a_chunked_response_arrives_complete() {
    let text = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n\
                6\r\nhello \r\n5;x=y\r\nthere\r\n0\r\n\r\n";
    let a = Origin::start(raw(text));
    let sidecar = start_with_providers(&a, None, "");
    let response = sidecar.send(&Call::get("/text"));
    assert_eq!((response.text().as_str(), response.end), ("hello there", End::Complete));
    a.set(raw("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the close"));
    let response = sidecar.send(&Call::get("/text"));
    assert_eq!((response.text().as_str(), response.end), ("to the close", End::Complete));
}

#[test]
fn responses_without_a_body_stay_without_one() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = start_with_providers(&a, None, "");
    let mut client = sidecar.client();
    let head = client.send(&Call::new("HEAD", "/thing"));
    assert!(head.status == 200 && head.body.is_empty());
    assert!(head.header("content-length").is_some_and(|length| length != "0"), "{head:?}");
    for status in [204, 304] {
        a.set(Behaviour::Status(status, vec![("etag".into(), "\"1\"".into())], String::new()));
        let response = client.send(&Call::get("/thing"));
        assert_eq!((response.status, response.header("etag")), (status, Some("\"1\"")));
        assert_eq!(response.header("transfer-encoding"), None);
        assert!(response.body.is_empty());
    }
    a.set(Behaviour::Chat);
    assert_eq!(client.send(&chat()).json()["model"], "small");
}

#[test]
fn trailers_are_forwarded_in_both_directions() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    thread::scope(|scope| {
        let provider = scope.spawn(|| {
            let mut wire = peer.accept();
            let head = wire.read_until("\r\n\r\n").to_lowercase();
            let body = wire.read_until("\r\n0\r\n");
            let trailers = wire.read_until("\r\n\r\n").to_lowercase();
            wire.write(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\
                 trailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n",
            );
            (head, body, trailers)
        });
        let mut wire = RawClient::to(&sidecar.url(CHAT));
        wire.write(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\
             transfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n5\r\nhello\r\n0\r\nx-check: 7\r\n\
             authorization: Bearer app\r\nx-outrigger-timeout: 1s\r\n\r\n"
        ));
        let head = wire.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        wire.read_until("\r\n0\r\n");
        assert_eq!(wire.read_until("\r\n\r\n").to_lowercase(), "x-sum: 42\r\n\r\n");
        let (head, body, trailers) = provider.join().expect("the provider thread does not panic");
        assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
        assert!(body.contains("hello"), "{body}");
        assert_eq!(trailers, "x-check: 7\r\n\r\n");
    });
}
