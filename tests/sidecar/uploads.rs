//! Requests with large or slow bodies: forwarded as they arrive, with bounded buffers.

use std::time::Duration;

use crate::fixtures::{CHAT, GENEROUS, access_record, policy, problem_type, route, single_worker};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Call, End, Origin};

const LENGTH: usize = 20 << 20;

/// A body in which each word of 8 bytes is its index.
fn numbered_body() -> Vec<u8> {
    (0..LENGTH / 8).flat_map(|i| format!("{i:08x}").into_bytes()).collect()
}

#[test]
fn an_upload_is_forwarded_while_it_arrives() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let body = numbered_body();
    let mut client = sidecar.client();
    let head = format!("PUT /file HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write(head.as_bytes()).expect("the head can be sent");
    // Larger than all buffers on the way, so the provider must be receiving it.
    client.write(&body[..LENGTH / 2]).expect("the first half can be sent");
    a.wait_for_open_connections(1);
    assert_eq!(a.count(), 0);
    client.write(&body[LENGTH / 2..]).expect("the second half can be sent");
    let response = client.read_response("PUT").expect("a response").rest();
    assert_eq!((response.status, response.end), (200, End::Complete));
    assert!(a.last().body == body, "the body arrives as it was sent");
    let record = access_record(&sidecar, 1);
    assert_eq!(
        (&record["not_replayable"], &record["bytes_in"]),
        (&"larger_than_replay".into(), &LENGTH.into())
    );
}

#[test]
fn a_chunked_upload_arrives_complete() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let body = numbered_body();
    let call = Call { body: Some(body.clone()), ..Call::new("PUT", "/file") }.chunked();
    assert_eq!(sidecar.send(&call).status, 200);
    assert!(a.last().body == body, "the body arrives as it was sent");
}

#[test]
fn a_body_that_is_still_arriving_is_sent_once() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("PUT /file HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    a.wait_for_open_connections(1);
    wire.write("6\r\n there\r\n0\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(a.last().body, b"hello there");
    assert_eq!(access_record(&sidecar, 1)["not_replayable"], "still_arriving");
}

#[test]
fn a_body_that_stops_arriving_times_out() {
    let a = Origin::start(Behaviour::Chat);
    let more = "timeouts: { idle: 200ms }";
    let sidecar = single_worker(&policy(&[("a", &a.url(), more)], &route("providers: [a]")));
    let mut client = sidecar.client();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{");
    client.write(head.as_bytes()).expect("a part of the request can be sent");
    let response = client.read_response("POST").expect("a response").rest();
    assert_eq!((response.status, problem_type(&response).as_str()), (408, "request-timeout"));
    assert!(client.wait_for_close());
    assert_eq!(a.count(), 0);
}

#[test]
fn expect_continue_gets_one_100_response() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
    wire.write("hello");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!((a.count(), a.last().body), (1, b"hello".to_vec()));
}

#[test]
fn an_early_response_to_an_upload_is_forwarded() {
    let early = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    let peer = crate::raw_tcp::RawServer::start();
    let sidecar =
        single_worker(&policy(&[("a", &peer.url(), "")], &(route("providers: [a]") + GENEROUS)));
    let mut client = sidecar.client();
    let head = format!("PUT /file HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write(head.as_bytes()).expect("the head can be sent");
    client.write(&[b'x'; 1024]).expect("the first bytes can be sent");
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write(early);
    let response = client.read_response("PUT").expect("a response").rest();
    assert_eq!((response.status, response.text().as_str()), (413, "no"));
}

/// A gap limit alone lets a byte now and then hold a request for ever.
#[test]
fn a_body_below_the_minimum_rate_gets_408() {
    let a = Origin::start(Behaviour::Chat);
    let more = "timeouts: { idle: 400ms }, capacity: { concurrency: 8 }";
    for (rate, head) in [
        ("1KiB", "content-length: 1000"),
        ("1KiB", "content-length: 9000000"),
        ("1KiB", "transfer-encoding: chunked"),
    ] {
        let server = format!("server: {{ body_rate: {rate} }}\n{}", route("providers: [a]"));
        let sidecar = single_worker(&policy(&[("a", &a.url(), more)], &server));
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(format!("POST /slow HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n"));
        let byte = if head.starts_with('t') { "1\r\nx\r\n" } else { "x" };
        let mut sent = 0;
        while !wire.is_readable_within(Duration::from_millis(100)) {
            assert!(sent < 100, "{head}: still waiting after {sent} bytes");
            wire.write_best_effort(byte);
            sent += 1;
        }
        let response = wire.read_to_close();
        assert!(response.starts_with("HTTP/1.1 408 "), "{head}: {response}");
        assert_eq!(access_record(&sidecar, 1)["status"], 408);
    }
}

#[test]
fn a_slow_body_above_the_minimum_rate_is_forwarded() {
    let a = Origin::start(Behaviour::Chat);
    let more = "timeouts: { idle: 400ms }";
    let server = format!("server: {{ body_rate: 1 }}\n{}", route("providers: [a]"));
    let sidecar = single_worker(&policy(&[("a", &a.url(), more)], &server));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n");
    for _ in 0..8 {
        assert!(!wire.is_readable_within(Duration::from_millis(100)));
        wire.write("x");
    }
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(a.last().body, b"xxxxxxxx");
}
