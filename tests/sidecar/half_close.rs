//! A client that closes its sending side after its request either waits for the response or has left.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::fixtures::{policy, route, single_worker};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Gate, Origin, PATIENCE, Sidecar, Stream};

const REQUEST: &str = "GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n";

fn start(behaviour: impl Into<Behaviour>) -> (Origin, Sidecar) {
    let a = Origin::start(behaviour);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    (a, sidecar)
}

#[test]
fn a_client_that_half_closes_after_its_request_receives_the_response() {
    let gate = Gate::closed();
    let (a, sidecar) = start(Behaviour::Chat.held(&gate));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(REQUEST);
    wire.half_close();
    a.wait_for_in_flight(1);
    // The client is asked whether it is still there.
    assert_eq!(wire.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    gate.open_wide();
    let response = wire.read_to_close();
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with('}'), "{response}");
    assert_eq!(sidecar.wait_for_access(1)[0]["result"], "complete");
}

#[test]
fn a_client_that_half_closes_while_the_provider_works_receives_the_whole_stream() {
    let gate = Gate::closed();
    let (a, sidecar) = start(Stream::chat(3).gated(&gate));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(REQUEST.replace("GET", "POST").replace("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n"));
    a.wait_for_in_flight(1);
    wire.half_close();
    wire.read_until("100 Continue\r\n\r\n");
    gate.open_wide();
    let response = wire.read_to_close();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("[DONE]") && response.ends_with("0\r\n\r\n"), "{response}");
}

#[test]
fn a_client_that_closes_cancels_its_request() {
    let (a, sidecar) = start(Behaviour::Silent);
    for sent in 1..=3 {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(REQUEST);
        if sent > 1 {
            a.wait_for_in_flight(1);
        }
        drop(wire);
        a.wait_for_in_flight(0);
        assert_eq!(sidecar.wait_for_access(sent)[sent - 1]["result"], "client_disconnected");
    }
}

/// A client that half-closes first and leaves later.
#[test]
fn a_client_that_resets_after_a_half_close_cancels_its_request() {
    let (a, sidecar) = start(Behaviour::Silent);
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(REQUEST);
    a.wait_for_in_flight(1);
    wire.half_close();
    wire.read_until("100 Continue\r\n\r\n");
    wire.reset();
    a.wait_for_in_flight(0);
    assert_eq!(sidecar.wait_for_access(1)[0]["result"], "client_disconnected");
}

/// It must not be sent an interim response (RFC 9110, 15.2), so it cannot be told from one that left.
#[test]
fn a_client_of_http_1_0_that_half_closes_has_left() {
    let (a, sidecar) = start(Behaviour::Silent);
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("GET /v1/x HTTP/1.0\r\n\r\n");
    a.wait_for_in_flight(1);
    wire.half_close();
    assert_eq!(wire.read_to_close(), "");
    a.wait_for_in_flight(0);
}

#[test]
fn a_unix_socket_is_half_closed_like_a_tcp_connection() {
    let a = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder();
    let path = builder.policies().with_file_name("app.sock");
    let sidecar = builder
        .policy("policy", &policy(&[("a", &a.url(), "")], &route("providers: [a]")))
        .listen(&format!("unix:{}", path.display()))
        .workers(1)
        .start();
    let connect = || {
        let stream = UnixStream::connect(&path).expect("the socket is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    };
    let mut stream = connect();
    stream.write_all(REQUEST.as_bytes()).expect("a write");
    stream.shutdown(std::net::Shutdown::Write).expect("an open socket");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.contains("HTTP/1.1 200 "), "{response}");
    a.set(Behaviour::Silent);
    let mut stream = connect();
    stream.write_all(REQUEST.as_bytes()).expect("a write");
    a.wait_for_in_flight(1);
    drop(stream);
    a.wait_for_in_flight(0);
    assert_eq!(sidecar.wait_for_access(2)[1]["result"], "client_disconnected");
}
