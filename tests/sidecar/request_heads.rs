//! Request heads that are rejected or normalized before a route is selected: targets, hosts,
//! versions, transfer codings, upgrades; and the bodies of the responses to malformed heads.

use serde_json::Value;

use crate::fixtures::{chat, policy, route, single_worker};
use crate::raw_tcp::{RawClient, RawServer, exchange, start_with_provider};
use crate::support::{Behaviour, Call, Origin};

/// Checks that each request gets this status with a problem document, the connection is closed, and
/// no request reaches the provider.
#[track_caller]
fn assert_rejected(status: u16, kind: &str, requests: &[&str]) {
    let (a, sidecar) = start_with_provider();
    for request in requests {
        let output = exchange(&sidecar, request);
        assert!(output.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {output}");
        assert_eq!(output.matches("HTTP/1.1 ").count(), 1, "{request:?}: {output}");
        let (head, body) = output.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-type: application/problem+json"), "{request:?}: {output}");
        assert!(head.contains("\r\nconnection: close"), "{request:?}: {output}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{output}");
        let document: Value = serde_json::from_str(body).expect("a JSON document");
        assert_eq!(document["type"], format!("urn:outrigger:problem:{kind}"), "{request:?}");
    }
    assert_eq!(a.count(), 0);
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn a_transfer_coding_other_than_chunked_is_not_implemented() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\n";
    let requests = [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: xchunked, chunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked;q=1, chunked",
    ]
    .map(|line| format!("{head}{line}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    assert_rejected(501, "coding-not-supported", &requests.each_ref().map(String::as_str));
}

#[test]
fn chunked_twice_is_malformed() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\n";
    let requests = [
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: , chunked",
        "transfer-encoding: chunked, gzip, chunked",
    ]
    .map(|line| format!("{head}{line}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    assert_rejected(400, "bad-request", &requests.each_ref().map(String::as_str));
}

#[test]
fn a_target_that_is_neither_a_path_nor_a_url_is_rejected() {
    assert_rejected(
        400,
        "bad-request",
        &[
            "GET x HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET evil:80 HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET http://user:password@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET http://user@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI * HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI / HTTP/1.1\r\nhost: a\r\n\r\n",
        ],
    );
}

#[test]
fn a_length_with_leading_zeros_is_rejected() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:";
    let requests = ["005\r\n\r\nhello", "00\r\n\r\n", "05\r\n\r\nhello"];
    let requests = requests.map(|rest| format!("{head} {rest}"));
    assert_rejected(400, "bad-request", &requests.each_ref().map(String::as_str));
}

#[test]
fn a_trailer_that_frames_routes_or_describes_the_message_is_rejected() {
    let head =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    let trailers = [
        "content-length: 9",
        "Transfer-Encoding: chunked",
        "host: b",
        "content-type: text/html",
        "x-sum: 1\r\ncontent-encoding: gzip",
    ];
    let requests = trailers.map(|trailer| format!("{head}{trailer}\r\n\r\n"));
    assert_rejected(400, "request-interrupted", &requests.each_ref().map(String::as_str));
}

/// The provider would echo its own credentials.
#[test]
fn trace_is_rejected() {
    let (a, sidecar) = start_with_provider();
    let response = sidecar.send(&Call::new("TRACE", "/x"));
    assert_eq!((response.status, response.header("allow").is_some()), (405, true));
    assert_eq!(a.count(), 0);
}

#[test]
fn an_empty_or_invalid_host_is_rejected() {
    assert_rejected(
        400,
        "bad-request",
        &[
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: :80\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:99999\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        ],
    );
}

/// The provider receives the target that selected the route.
#[test]
fn an_absolute_target_is_sent_as_its_path_and_an_options_asterisk_as_such() {
    let a = Origin::start(Behaviour::Chat);
    let url = format!("{}/base", a.url());
    let sidecar = single_worker(&policy(&[("a", &url, "")], &route("providers: [a]")));
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert_eq!((a.last().method.as_str(), a.last().path.as_str()), ("OPTIONS", "*"));
    let mut wire = RawClient::to(&sidecar.url("/"));
    let here = sidecar.url("/x?y");
    wire.write(format!("GET {here} HTTP/1.1\r\nhost: a\r\n\r\n"));
    assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert_eq!(a.last().path, "/base/x?y");
    assert_eq!(a.last().headers.get("host"), Some(url[7..url.len() - 5].to_owned()).as_deref());
}

/// An application with `HTTP_PROXY` set to the listener must not reach the provider of a route that
/// happens to match.
#[test]
fn a_request_for_another_host_is_refused_unless_a_route_names_it() {
    let a = Origin::start(Behaviour::Chat);
    let named = "{ name: named, match: { host: \"*.named.example\" }, providers: [a] }";
    let routes = format!("routes: [ {named}, {{ name: all, providers: [a] }} ]\n");
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &routes));
    let foreign = ["http://other.example/x", "http://127.0.0.1:1/x", "https://localhost/x"];
    for target in foreign {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let head = wire.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 400 "), "{target}: {head}");
        assert!(wire.read_until("\"type\":\"foreign-host\"}").contains("HTTP_PROXY"));
    }
    assert_eq!(a.count(), 0);
    let record = sidecar.wait_for_access(foreign.len()).pop().expect("a record");
    assert_eq!((&record["reason"], &record["status"]), (&"foreign-host".into(), &400.into()));
    let counted = "outrigger_local_responses_total{route=\"-\",reason=\"foreign-host\"}";
    assert_eq!(sidecar.metric(counted), Some(3.0));
    let port = sidecar.url("").rsplit(':').next().map(str::to_owned).expect("a port");
    for target in ["http://api.named.example/x", &format!("http://LOCALHOST:{port}/x")] {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "), "{target}");
    }
}

#[test]
fn a_head_that_is_rejected_is_logged_and_counted() {
    let (a, sidecar) = start_with_provider();
    let rejected = [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version-not-supported"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad-request"),
        (
            "CONNECT b:443 HTTP/1.1\r\nhost: b:443\r\nconnection: close\r\n\r\n",
            405,
            "method-not-supported",
        ),
    ];
    for (index, (bytes, status, reason)) in rejected.into_iter().enumerate() {
        let response = exchange(&sidecar, bytes);
        assert!(response.contains(&format!("\"type\":\"{reason}\"")), "{response}");
        let record = &sidecar.wait_for_access(index + 1)[index];
        let found = (&record["status"], &record["reason"], &record["route"]);
        assert_eq!(found, (&status.into(), &reason.into(), &"-".into()), "{record}");
        let counted = format!("outrigger_local_responses_total{{route=\"-\",reason=\"{reason}\"}}");
        assert_eq!(sidecar.metric(&counted), Some(1.0), "{reason}");
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn a_bare_line_feed_or_a_fragment_is_rejected_however_the_head_arrives() {
    let head = "GET /x HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
    let bare = head.match_indices("\r\n").map(|(at, _)| [&head[..at], &head[at + 1..]].concat());
    let malformed: Vec<_> = bare.chain([head.replace("/x", "/x#y"), format!("\n{head}")]).collect();
    assert_rejected(400, "bad-request", &malformed.iter().map(String::as_str).collect::<Vec<_>>());
    let (a, sidecar) = start_with_provider();
    for request in &malformed {
        let at = request.find("host").expect("a host");
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(&request[..at]);
        wire.write_best_effort(&request[at..]);
        assert!(wire.read_to_close().starts_with("HTTP/1.1 400 "), "{request:?}");
    }
    assert_eq!(a.count(), 0);
    let body = "{\n  \"model\": \"small\"\n}\n";
    let mut client = sidecar.client();
    for _ in 0..2 {
        assert_eq!(client.send(&Call::post("/x", body)).status, 200);
        assert_eq!(a.last().body, body.as_bytes());
    }
}

#[test]
fn a_newer_minor_version_is_read_as_1_1_and_another_major_version_is_refused() {
    let (a, sidecar) = start_with_provider();
    let mut wire = RawClient::to(&sidecar.url("/"));
    for _ in 0..2 {
        wire.write("GET /newer HTTP/1.2\r\nhost: a\r\n\r\n");
        assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
        wire.read_until("}");
        assert_eq!(a.last().path, "/newer");
        wire = RawClient::to(&sidecar.url("/"));
    }
    assert_rejected(
        505,
        "version-not-supported",
        &[
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
            "GET / HTTP/3.0\r\nhost: a\r\n\r\n",
            "GET / HTTP/0.9\r\nhost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    );
}

#[test]
fn each_rejection_of_the_parser_has_a_problem_document() {
    assert_rejected(
        400,
        "bad-request",
        &[
            "GE(T / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.10\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 5\r\n\r\nabc",
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101));
    assert_rejected(431, "head-too-large", &[&many]);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(66_000));
    let a = Origin::start(Behaviour::Chat);
    let more = format!("server: {{ header_bytes: 256KiB }}\n{}", route("providers: [a]"));
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &more));
    let output = exchange(&sidecar, long);
    assert!(output.starts_with("HTTP/1.1 414 ") && output.contains("uri-too-long"), "{output}");
}

/// A pipelined malformed head behind a valid request.
#[test]
fn a_rejection_follows_the_response_before_it() {
    let (a, sidecar) = start_with_provider();
    let request = "GET /first HTTP/1.1\r\nhost: a\r\n\r\nGE(T / HTTP/1.1\r\nhost: a\r\n\r\n";
    let output = exchange(&sidecar, request);
    let statuses: Vec<_> =
        output.match_indices("HTTP/1.1 ").map(|(at, _)| &output[at + 9..at + 12]).collect();
    assert_eq!((statuses, a.count()), (vec!["200", "400"], 1), "{output}");
}

/// Bytes in a response that look like the parser's own response are not touched.
#[test]
fn a_body_that_looks_like_a_rejection_is_forwarded_as_it_is() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let body = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let mut wire = RawClient::to(&sidecar.url("/"));
    wire.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut provider = peer.accept();
    for index in 0..2 {
        provider.read_until("\r\n\r\n");
        let length = body.len() + 1;
        provider.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{index}"));
        wire.read_until(&format!("\r\n\r\n{index}"));
        provider.write(body);
        assert_eq!(wire.read_exactly(body.len()), body.as_bytes());
        if index == 0 {
            wire.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        }
    }
}

fn upgrade(version: &str, protocols: &str) -> String {
    format!(
        "GET / HTTP/{version}\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {protocols}\r\n\r\n"
    )
}

#[test]
fn only_a_known_protocol_of_a_well_formed_list_is_relayed() {
    let peer = RawServer::start();
    let sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let forwarded = |request: &str| {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(request);
        let mut provider = peer.accept();
        let head = provider.read_until("\r\n\r\n").to_lowercase();
        provider.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        wire.read_until("\r\n\r\n");
        head.split("\r\n").find_map(|line| line.strip_prefix("upgrade: ").map(str::to_owned))
    };
    for protocols in ["websocket", "WebSocket", "websocket,\th2c", "TLS/1.0, websocket"] {
        assert_eq!(
            forwarded(&upgrade("1.1", protocols)).as_deref(),
            Some("websocket"),
            "{protocols}"
        );
        assert_eq!(forwarded(&upgrade("1.0", protocols)), None, "{protocols}");
    }
    for protocols in ["h2c", "foo;h2c", "\"h2c\"", "HTTP/2.0", "TLS/1.0", "echo", "websocket;h2c"] {
        assert_eq!(forwarded(&upgrade("1.1", protocols)), None, "{protocols}");
    }
}

#[test]
fn a_switch_to_another_protocol_than_offered_is_a_malformed_response() {
    let peer = RawServer::start();
    let yaml =
        policy(&[("a", &peer.url(), "breaker: none")], &route("providers: [a], retry: none"));
    let sidecar = single_worker(&yaml);
    for protocol in ["upgrade: h2c\r\n", "upgrade: websocket, h2c\r\n", ""] {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write(upgrade("1.1", "websocket"));
        let mut provider = peer.accept();
        provider.read_until("\r\n\r\n");
        provider.write(format!("HTTP/1.1 101 Yes\r\nconnection: upgrade\r\n{protocol}\r\n"));
        let head = wire.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 502 "), "{protocol}: {head}");
        assert_eq!(provider.read_to_close(), "");
    }
}
