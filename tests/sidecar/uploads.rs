//! Requests with large or slow bodies: passed on as they come, and bounded in what is kept.

use crate::fixtures::{CHAT, GENEROUS, access_record, alone, policy, problem, route};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Call, End, Origin};

const LENGTH: usize = 20 << 20;

/// Bytes that tell their own place.
fn body() -> Vec<u8> {
    (0..LENGTH / 8).flat_map(|i| format!("{i:08x}").into_bytes()).collect()
}

#[test]
fn an_upload_is_passed_on_while_it_comes() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let body = body();
    let mut client = sidecar.client();
    let head = format!("PUT /file HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write(head.as_bytes()).expect("the head can be sent");
    // Far more than any buffer on the way: the provider's side must be taking it.
    client.write(&body[..LENGTH / 2]).expect("the first half can be sent");
    a.wait_for_open_connections(1);
    assert_eq!(a.count(), 0);
    client.write(&body[LENGTH / 2..]).expect("the second half can be sent");
    let response = client.read_response("PUT").expect("an answer").rest();
    assert_eq!((response.status, response.end), (200, End::Complete));
    assert!(a.last().body == body, "the body arrives as it was sent");
    let told = access_record(&sidecar, 1);
    assert_eq!((&told["once"], &told["bytes_in"]), (&"larger_than_replay".into(), &LENGTH.into()));
}

#[test]
fn a_chunked_upload_arrives_whole() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let body = body();
    let call = Call { body: Some(body.clone()), ..Call::new("PUT", "/file") }.chunked();
    assert_eq!(sidecar.send(&call).status, 200);
    assert!(a.last().body == body, "the body arrives as it was sent");
}

#[test]
fn a_body_that_is_still_arriving_goes_once() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("PUT /file HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    a.wait_for_open_connections(1);
    wire.write("6\r\n there\r\n0\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(a.last().body, b"hello there");
    assert_eq!(access_record(&sidecar, 1)["once"], "still_arriving");
}

#[test]
fn a_body_that_stops_arriving_is_given_up() {
    let a = Origin::start(Behaviour::Chat);
    let more = "timeouts: { idle: 200ms }";
    let sidecar = alone(&policy(&[("a", &a.url(), more)], &route("providers: [a]")));
    let mut client = sidecar.client();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{");
    client.write(head.as_bytes()).expect("a part of the request can be sent");
    let response = client.read_response("POST").expect("an answer").rest();
    assert_eq!((response.status, problem(&response).as_str()), (408, "request-timeout"));
    assert!(client.wait_for_close());
    assert_eq!(a.count(), 0);
}

#[test]
fn an_expected_continue_is_given_once() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
    wire.write("hello");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!((a.count(), a.last().body), (1, b"hello".to_vec()));
}

#[test]
fn an_upload_whose_provider_answers_early_gets_that_answer() {
    let early = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    let peer = crate::raw_tcp::Peer::start();
    let sidecar = alone(&policy(&[("a", &peer.url(), "")], &(route("providers: [a]") + GENEROUS)));
    let mut client = sidecar.client();
    let head = format!("PUT /file HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write(head.as_bytes()).expect("the head can be sent");
    client.write(&[b'x'; 1024]).expect("the first bytes can be sent");
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write(early);
    let response = client.read_response("PUT").expect("an answer").rest();
    assert_eq!((response.status, response.text().as_str()), (413, "no"));
}
