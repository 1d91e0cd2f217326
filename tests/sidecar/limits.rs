//! Limits of downstream connections: size and time of a head, idle time, number of connections.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{chat, policy, problem_type, route, single_worker};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Call, Client, Gate, Origin, Sidecar};

fn start_with_limits(server: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let server = format!("server: {{ {server} }}\n");
    let sidecar =
        single_worker(&policy(&[("a", &a.url(), "")], &(route("providers: [a]") + &server)));
    (a, sidecar)
}

#[test]
fn a_head_beyond_the_size_limit_gets_431() {
    for (server, size) in [("header_time: 10s", 70 << 10), ("header_bytes: 16KiB", 20 << 10)] {
        let (a, sidecar) = start_with_limits(server);
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write_best_effort(format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n",
            "x".repeat(size)
        ));
        let response = wire.read_to_close();
        assert!(response.starts_with("HTTP/1.1 431 "), "{server}: {response}");
        assert_eq!(a.count(), 0);
        let fits = Call::get("/").header("x-large", &"x".repeat(size * 3 / 4));
        assert_eq!(sidecar.send(&fits).status, 200, "{server}");
    }
}

#[test]
fn a_head_that_arrives_too_slowly_closes_the_connection() {
    let (a, sidecar) = start_with_limits("header_time: 300ms");
    for (sent, expected) in
        [("", ""), ("G", "HTTP/1.1 408 "), ("GET / HTTP/1.1\r\nhost: a\r\n", "HTTP/1.1 408 ")]
    {
        let (mut wire, start) = (RawClient::to(&sidecar.url("/")), Instant::now());
        wire.write(sent);
        let response = wire.read_to_close();
        let took = start.elapsed();
        assert!(
            response.starts_with(expected) && response.is_empty() == expected.is_empty(),
            "{sent:?}: {response}"
        );
        assert_eq!(
            response.contains("urn:outrigger:problem:request-timeout"),
            !expected.is_empty()
        );
        assert!(took >= Duration::from_millis(200), "{sent:?}: {took:?}");
        assert!(took < Duration::from_secs(5), "{sent:?}: {took:?}");
    }
    assert_eq!(a.count(), 0);
    let mut client = sidecar.client();
    assert_eq!(client.send(&chat()).status, 200);
    client.write(b"POST / HT").expect("a part of the next head can be sent");
    assert!(client.wait_for_close(), "the second head has no time limit");
}

#[test]
fn a_response_may_take_longer_than_the_head_timeout() {
    let (a, sidecar) = start_with_limits("header_time: 200ms, keep_alive: 200ms");
    let gate = Gate::closed();
    a.set(Behaviour::Chat.held(&gate));
    thread::scope(|scope| {
        let call = scope.spawn(|| sidecar.send(&chat()).status);
        a.wait_for_in_flight(1);
        let start = Instant::now();
        sidecar.wait_until(|_| start.elapsed() > Duration::from_millis(900));
        gate.open_wide();
        assert_eq!(call.join().expect("the call ends"), 200);
    });
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive() {
    let (_a, sidecar) = start_with_limits("keep_alive: 300ms");
    let mut client = sidecar.client();
    for _ in 0..3 {
        assert_eq!(client.send(&chat()).status, 200);
    }
    let start = Instant::now();
    assert!(client.wait_for_close());
    let took = start.elapsed();
    assert!((200..5000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_connection_beyond_the_limit_gets_a_503() {
    let (a, sidecar) = start_with_limits("connections: 2");
    let mut open = [sidecar.client(), sidecar.client()];
    for client in &mut open {
        assert_eq!(client.send(&chat()).status, 200);
    }
    for _ in 0..3 {
        let refused = sidecar.send(&chat());
        assert_eq!(
            (refused.status, problem_type(&refused).as_str()),
            (503, "too-many-connections")
        );
    }
    assert_eq!(a.count(), 2);
    for client in &mut open {
        assert_eq!(client.send(&chat()).status, 200, "an earlier connection is not served");
    }
    drop(open);
    sidecar.wait_until(|sidecar| {
        Client::to(&sidecar.url("/")).try_send(&chat()).is_ok_and(|r| r.status == 200)
    });
}

#[test]
fn pipelined_requests_are_served_in_order() {
    let (a, sidecar) = start_with_limits("keep_alive: 75s");
    let mut wire = RawClient::to(&sidecar.url("/"));
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.write(request("/1") + &request("/2") + &request("/3"));
    for _ in 0..3 {
        assert!(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
        wire.read_until("\"total_tokens\":11}}");
    }
    let paths: Vec<_> = a.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/1", "/2", "/3"]);
    wire.write("GET /4 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(wire.read_to_close().starts_with("HTTP/1.1 200"));
}

#[test]
fn reserved_paths_and_paths_without_a_route_reach_no_provider() {
    let a = Origin::start(Behaviour::Chat);
    let route =
        "routes: [ { name: chat, match: { path: /v1/**, methods: [POST] }, providers: [a] } ]\n";
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], route));
    for (method, path, kind) in [
        ("POST", "/v2/other", "no-route"),
        ("GET", "/v1/models", "no-route"),
        ("GET", "/.outrigger/jobs/1", "job-not-found"),
        ("GET", "/.outrigger/other", "not-found"),
    ] {
        let response = sidecar.send(&Call::new(method, path));
        assert_eq!(
            (response.status, problem_type(&response).as_str()),
            (404, kind),
            "{method} {path}"
        );
    }
    assert_eq!(a.count(), 0);
    assert_eq!(sidecar.send(&chat()).status, 200);
}
