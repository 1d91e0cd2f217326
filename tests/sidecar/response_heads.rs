//! Response heads of hostile or broken providers: what is normalized, and what is a failure.

use crate::fixtures::{policy, route, single_worker};
use crate::raw_tcp::{RawClient, RawServer};
use crate::support::Sidecar;
use crate::support::listener::ReservedPort;

/// The sidecar's response to a GET that the provider responds to with these bytes. Also checks
/// whether the provider's connection is closed afterwards.
fn response_to(peer: &RawServer, sidecar: &Sidecar, bytes: &str) -> String {
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write_best_effort(bytes);
    let response = wire.read_to_close();
    assert_eq!(provider.read_to_close(), "", "{bytes:?}");
    response
}

fn start() -> (RawServer, Sidecar) {
    let peer = RawServer::start();
    let yaml =
        policy(&[("a", &peer.url(), "breaker: none")], &route("providers: [a], retry: none"));
    let sidecar = single_worker(&yaml);
    (peer, sidecar)
}

#[test]
fn a_transfer_coding_other_than_chunked_is_a_malformed_response() {
    let (peer, sidecar) = start();
    for codings in [
        "gzip, chunked",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "identity",
        "gzip\r\ntransfer-encoding: chunked",
    ] {
        let bytes = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: {codings}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let response = response_to(&peer, &sidecar, &bytes);
        assert!(response.starts_with("HTTP/1.1 502 "), "{codings}: {response}");
        assert!(response.contains("urn:outrigger:problem:bad-response"), "{codings}: {response}");
    }
}

#[test]
fn a_response_of_http_1_0_is_forwarded_as_http_1_1() {
    let (peer, sidecar) = start();
    let response = response_to(&peer, &sidecar, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    assert!(
        response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nhi"),
        "{response}"
    );
}

/// The resolver may know only one address of `localhost`.
#[test]
fn localhost_reaches_a_provider_that_listens_on_one_loopback_address_alone() {
    // Nothing else may listen on the other address.
    let reserved = ReservedPort::port();
    let port = reserved.address().port();
    for address in ["127.0.0.1", "[::1]"] {
        let peer = match address {
            "127.0.0.1" => Ok(RawServer::start()),
            address => RawServer::start_on(&format!("{address}:{port}")),
        };
        let Ok(peer) = peer else { continue };
        let port = peer.host().rsplit(':').next().map(str::to_owned).expect("a port");
        for name in ["localhost", "LOCALHOST."] {
            let url = format!("http://{name}:{port}");
            let sidecar = single_worker(&policy(&[("a", &url, "")], &route("providers: [a]")));
            let bytes = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
            let response = response_to(&peer, &sidecar, bytes);
            assert!(response.ends_with("\r\n\r\nhi"), "{url} at {address}: {response}");
        }
    }
}

#[test]
fn blanks_before_the_colon_of_a_header_are_removed() {
    let (peer, sidecar) = start();
    let bytes =
        "HTTP/1.1 200 OK\r\nConnection : close\r\nX-Two \t: 2\r\nContent-Length : 2\r\n\r\nhi";
    let response = response_to(&peer, &sidecar, bytes);
    assert!(
        response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nhi"),
        "{response}"
    );
    assert!(response.contains("\r\nx-two: 2\r\n"), "{response}");
}

#[test]
fn a_repeated_content_length_is_forwarded_once() {
    let (peer, sidecar) = start();
    for lines in ["5, 5", "5\r\ncontent-length: 5", "005"] {
        let bytes =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {lines}\r\n\r\nhello");
        let response = response_to(&peer, &sidecar, &bytes);
        assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nhello"));
        let lengths: Vec<_> =
            response.split("\r\n").filter(|line| line.starts_with("content-length")).collect();
        assert_eq!(lengths, ["content-length: 5"], "{lines}");
    }
}

#[test]
fn interim_responses_are_bounded() {
    let (peer, sidecar) = start();
    let rest = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let response = response_to(&peer, &sidecar, &(hint.repeat(100) + rest));
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let response = response_to(&peer, &sidecar, &(hint.repeat(101) + rest));
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
}
