//! Request smuggling: a request that two parsers could read differently is rejected and its
//! connection closed (RFC 9112, 2.2, 3.2, 5.1, 6.3, 7.1).

use crate::fixtures::{chat, policy, route, single_worker};
use crate::raw_tcp::{RawClient, RawServer, exchange, start_with_provider};
use crate::support::{Call, Sidecar};

/// Checks that each request gets only this status, and that no request reaches the provider.
#[track_caller]
fn assert_rejected(status: u16, requests: &[&str]) {
    let (a, sidecar) = start_with_provider();
    for request in requests {
        let output = exchange(&sidecar, request);
        assert!(output.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {output}");
        assert_eq!(output.matches("HTTP/1.1 ").count(), 1, "{request:?}: {output}");
    }
    assert_eq!(a.count(), 0);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn a_content_length_that_is_not_one_number_is_rejected() {
    assert_rejected(
        400,
        &[
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 5\r\n\r\nabcde",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: three\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nabc",
        ],
    );
}

#[test]
fn a_bare_line_feed_after_the_last_chunk_swallows_no_request() {
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\nGET /third HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunked =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
    assert_rejected(400, &[&format!("{chunked}\n{next}")]);
}

#[test]
fn a_transfer_encoding_that_does_not_end_in_chunked_is_rejected() {
    assert_rejected(
        400,
        &[
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
        ],
    );
}

#[test]
fn a_transfer_encoding_in_http_1_0_is_rejected() {
    let (a, sidecar) = start_with_provider();
    let request = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let output = exchange(&sidecar, request);
    assert!(output.starts_with("HTTP/1.0 400 ") || output.starts_with("HTTP/1.1 400 "), "{output}");
    assert_eq!(a.count(), 0);
}

#[test]
fn an_ambiguous_header_is_rejected() {
    assert_rejected(
        400,
        &[
            "GET / HTTP/1.1\r\nhost: a\r\nx-folded: one\r\n two\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n x-first: folded\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx-spaced : one\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n: no name\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nbad(name): one\r\n\r\n",
        ],
    );
}

#[test]
fn control_characters_are_rejected() {
    assert_rejected(
        400,
        &[
            "GET / HTTP/1.1\r\nhost: a\r\nx-zero: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx-bell: a\x07b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx-return: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx-delete: a\x7fb\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
            "GE\x01T / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\x0bb\r\n\r\n",
        ],
    );
}

#[test]
fn a_request_without_exactly_one_host_is_rejected() {
    assert_rejected(
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        ],
    );
}

#[test]
fn malformed_chunks_are_rejected() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello there\r\n0\r\n\r\n",
        "5\rXhello\r\n0\r\n\r\n",
    ];
    let requests = bodies.map(|body| format!("{head}{body}"));
    assert_rejected(400, &requests.each_ref().map(String::as_str));
}

#[test]
fn a_content_length_with_a_transfer_encoding_smuggles_no_request() {
    let (a, sidecar) = start_with_provider();
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for length in ["content-length: 4", "content-length: 400"] {
        let output = exchange(
            &sidecar,
            format!(
                "POST /seen HTTP/1.1\r\nhost: a\r\n{length}\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n{smuggled}"
            ),
        );
        let responses = output.matches("HTTP/1.1 ").count();
        assert_eq!(responses, 1, "not closed after the response: {output}");
        match output.starts_with("HTTP/1.1 200 ") {
            true => assert_eq!(a.last().body, b"hello", "{length}"),
            false => assert!(output.starts_with("HTTP/1.1 400 "), "{output}"),
        }
    }
    for request in a.requests() {
        let has_both =
            request.headers.has("content-length") && request.headers.has("transfer-encoding");
        assert!(request.path == "/seen" && !has_both, "{request:?}");
    }
}

#[test]
fn the_body_of_a_get_is_forwarded_as_a_body() {
    let (a, sidecar) = start_with_provider();
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut wire = RawClient::to(&sidecar.url("/"));
    let length = smuggled.len();
    wire.write(format!(
        "GET /seen HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{smuggled}"
    ));
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!((a.count(), a.last().body), (1, smuggled.as_bytes().to_vec()));
}

#[test]
fn pipelined_requests_get_responses_in_order() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    let request = |index: u32| format!("GET /{index} HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.write(request(0));
    let mut provider = peer.accept();
    for index in 0..4 {
        assert!(provider.read_until("\r\n\r\n").starts_with(&format!("GET /{index} ")));
        // The next request arrives while this one is served; after the second, two at once.
        let next: String = match index {
            0 => request(1),
            1 => request(2) + &request(3),
            _ => String::new(),
        };
        wire.write(next);
        provider.write(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{index}!"));
        let response = wire.read_until("!");
        assert!(response.ends_with(&format!("\r\n\r\n{index}!")), "{response}");
    }
}

#[test]
fn connect_is_rejected() {
    let (a, sidecar) = start_with_provider();
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n");
    let head = wire.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    assert_eq!((a.count(), a.connections()), (0, 0));
}

#[test]
fn an_upgrade_is_tunnelled_both_ways() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(
        "GET /live HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut provider = peer.accept();
    let request_head = provider.read_until("\r\n\r\n").to_lowercase();
    assert!(request_head.starts_with("get /live http/1.1\r\n"), "{request_head}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(request_head.contains(&format!("\r\n{line}\r\n")), "{request_head}");
    }
    provider.write(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst from the provider",
    );
    let response = wire.read_until("\r\n\r\n").to_lowercase();
    assert!(
        response.starts_with("http/1.1 101 ") && response.contains("\r\nupgrade: websocket\r\n")
    );
    assert!(response.contains("\r\nsec-websocket-accept:"), "{response}");
    wire.read_until("first from the provider");
    let text = "HTTP/1.1 400 Bad Request\r\n\r\n";
    provider.write(text);
    assert_eq!(wire.read_until("\r\n\r\n"), text);
    for index in 0..3 {
        wire.write(format!("ping {index}\0\u{1}|"));
        assert_eq!(provider.read_until("|"), format!("ping {index}\0\u{1}|"));
        provider.write(format!("pong {index}|"));
        assert_eq!(wire.read_until("|"), format!("pong {index}|"));
    }
    let large = vec![b'x'; 1 << 20];
    std::thread::scope(|scope| {
        scope.spawn(|| provider.write(&large));
        assert_eq!(wire.read_exactly(large.len()), large);
    });
    drop(provider);
    assert_eq!(wire.read_to_close(), "");
}

#[test]
fn no_bytes_are_tunnelled_before_the_provider_accepts() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(
        "GET /live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    assert_eq!(provider.read_to_close(), "", "bytes were tunnelled");
    assert!(wire.read_until("no").starts_with("HTTP/1.1 403 "));
}

/// HTTP/2 after an upgrade would bypass the rules of the route.
#[test]
fn an_upgrade_to_http_2_is_never_tunnelled() {
    let (a, sidecar) = start_with_provider();
    for protocols in ["h2c", "H2C", "websocket, h2c", "h2c,websocket"] {
        let call = Call::get("/")
            .header("connection", "upgrade, http2-settings")
            .header("upgrade", protocols)
            .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA");
        assert_eq!(sidecar.send(&call).status, 200);
        let seen = a.last().headers;
        let request_head = seen.get("upgrade").unwrap_or_default().to_lowercase();
        assert!(
            !request_head.contains("h2c") && !seen.has("http2-settings"),
            "{protocols}: {seen:?}"
        );
    }
}

/// Both ends of a tunnel through the sidecar.
fn tunnel() -> (RawClient, RawClient, Sidecar) {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write("HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    wire.read_until("\r\n\r\n");
    (wire, provider, sidecar)
}

#[test]
fn a_client_disconnect_closes_the_tunnel() {
    let (mut wire, mut provider, _sidecar) = tunnel();
    wire.write("bye");
    drop(wire);
    assert_eq!(provider.read_to_close(), "bye");
    drop(provider);
}

#[test]
fn a_client_that_half_closes_a_tunnel_receives_the_rest() {
    let (mut wire, mut provider, _sidecar) = tunnel();
    wire.write("all");
    wire.half_close();
    assert_eq!(provider.read_to_close(), "all");
    provider.write("the rest");
    drop(provider);
    assert_eq!(wire.read_to_close(), "the rest");
}
