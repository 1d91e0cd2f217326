//! Requests that two parties could read in two ways are refused, and their connection is closed
//! (RFC 9112, 2.2, 3.2, 5.1, 6.3, 7.1): what the provider reads is what was read here.

use crate::fixtures::{alone, chat, policy, route};
use crate::raw_tcp::{Peer, RawClient};
use crate::support::{Behaviour, Call, Origin, Sidecar};

fn scene() -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = alone(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    (a, sidecar)
}

/// Everything that the sidecar says to these bytes until it closes.
fn say(sidecar: &Sidecar, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.offer(bytes);
    wire.read_to_close()
}

/// The request is refused with this status, alone, and the provider never hears of it.
#[track_caller]
fn refused(status: u16, requests: &[&str]) {
    let (a, sidecar) = scene();
    for request in requests {
        let said = say(&sidecar, request);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{request:?}: {said}");
    }
    assert_eq!(a.count(), 0);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn a_length_that_is_not_one_number_is_refused() {
    refused(
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
fn a_transfer_encoding_that_does_not_end_in_chunked_is_refused() {
    refused(
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
fn a_transfer_encoding_in_http_1_0_is_refused() {
    let (a, sidecar) = scene();
    let request = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let said = say(&sidecar, request);
    assert!(said.starts_with("HTTP/1.0 400 ") || said.starts_with("HTTP/1.1 400 "), "{said}");
    assert_eq!(a.count(), 0);
}

#[test]
fn a_header_that_parsers_disagree_on_is_refused() {
    refused(
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
fn control_characters_are_refused() {
    refused(
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
fn a_request_without_a_host_or_with_two_is_refused() {
    refused(
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
fn chunks_that_are_none_are_refused() {
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
    refused(400, &requests.each_ref().map(String::as_str));
}

#[test]
fn a_length_beside_a_transfer_encoding_smuggles_nothing() {
    let (a, sidecar) = scene();
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for length in ["content-length: 4", "content-length: 400"] {
        let said = say(
            &sidecar,
            format!(
                "POST /seen HTTP/1.1\r\nhost: a\r\n{length}\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n{smuggled}"
            ),
        );
        let answers = said.matches("HTTP/1.1 ").count();
        assert_eq!(answers, 1, "closed after the answer: {said}");
        match said.starts_with("HTTP/1.1 200 ") {
            true => assert_eq!(a.last().body, b"hello", "{length}"),
            false => assert!(said.starts_with("HTTP/1.1 400 "), "{said}"),
        }
    }
    for request in a.requests() {
        let both =
            request.headers.has("content-length") && request.headers.has("transfer-encoding");
        assert!(request.path == "/seen" && !both, "{request:?}");
    }
}

#[test]
fn a_body_on_a_get_is_the_same_body_for_the_provider() {
    let (a, sidecar) = scene();
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
fn requests_that_come_before_their_turn_are_answered_in_their_turn() {
    let peer = Peer::start();
    let sidecar = alone(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    let request = |turn: u32| format!("GET /{turn} HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.write(request(0));
    let mut provider = peer.accept();
    for turn in 0..4 {
        assert!(provider.read_until("\r\n\r\n").starts_with(&format!("GET /{turn} ")));
        // While this one is served, the next comes; at the second turn two at once.
        let next: String = match turn {
            0 => request(1),
            1 => request(2) + &request(3),
            _ => String::new(),
        };
        wire.write(next);
        provider.write(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{turn}!"));
        let answer = wire.read_until("!");
        assert!(answer.ends_with(&format!("\r\n\r\n{turn}!")), "{answer}");
    }
}

#[test]
fn connect_is_refused() {
    let (a, sidecar) = scene();
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n");
    let head = wire.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    assert_eq!((a.count(), a.connections()), (0, 0));
}

#[test]
fn an_upgrade_is_tunnelled_both_ways() {
    let peer = Peer::start();
    let sidecar = alone(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(
        "GET /live HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut provider = peer.accept();
    let asked = provider.read_until("\r\n\r\n").to_lowercase();
    assert!(asked.starts_with("get /live http/1.1\r\n"), "{asked}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{asked}");
    }
    provider.write(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst from the provider",
    );
    let answer = wire.read_until("\r\n\r\n").to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("\r\nupgrade: websocket\r\n"));
    assert!(answer.contains("\r\nsec-websocket-accept:"), "{answer}");
    wire.read_until("first from the provider");
    for turn in 0..3 {
        wire.write(format!("ping {turn}\0\u{1}|"));
        assert_eq!(provider.read_until("|"), format!("ping {turn}\0\u{1}|"));
        provider.write(format!("pong {turn}|"));
        assert_eq!(wire.read_until("|"), format!("pong {turn}|"));
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
fn nothing_is_tunnelled_before_the_provider_agrees() {
    let peer = Peer::start();
    let sidecar = alone(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write(
        "GET /live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    assert_eq!(provider.read_to_close(), "", "what follows was read as part of the tunnel");
    assert!(wire.read_until("no").starts_with("HTTP/1.1 403 "));
}

/// HTTP/2 by an upgrade would carry requests past every rule of a route.
#[test]
fn an_upgrade_to_http_2_is_never_tunnelled() {
    let (a, sidecar) = scene();
    for protocols in ["h2c", "H2C", "websocket, h2c", "h2c,websocket"] {
        let call = Call::get("/")
            .header("connection", "upgrade, http2-settings")
            .header("upgrade", protocols)
            .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA");
        assert_eq!(sidecar.send(&call).status, 200);
        let seen = a.last().headers;
        let asked = seen.get("upgrade").unwrap_or_default().to_lowercase();
        assert!(!asked.contains("h2c") && !seen.has("http2-settings"), "{protocols}: {seen:?}");
    }
}

/// Both ends of a tunnel, and the sidecar between them.
fn tunnel() -> (RawClient, RawClient, Sidecar) {
    let peer = Peer::start();
    let sidecar = alone(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write("HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    wire.read_until("\r\n\r\n");
    (wire, provider, sidecar)
}

#[test]
fn a_client_that_leaves_a_tunnel_closes_it() {
    let (mut wire, mut provider, _sidecar) = tunnel();
    wire.write("bye");
    drop(wire);
    assert_eq!(provider.read_to_close(), "bye");
    drop(provider);
}

#[test]
fn a_client_that_has_said_all_in_a_tunnel_hears_the_rest() {
    let (mut wire, mut provider, _sidecar) = tunnel();
    wire.write("all");
    wire.half_close();
    assert_eq!(provider.read_to_close(), "all");
    provider.write("the rest");
    drop(provider);
    assert_eq!(wire.read_to_close(), "the rest");
}
