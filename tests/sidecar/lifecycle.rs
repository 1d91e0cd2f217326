//! Shutdown: no started request is lost, and nothing delays the exit for ever.
//!
//! On SIGTERM readiness ends at once, and the sidecar accepts connections for
//! `server.drain_delay`. Then it closes the listener, sends each connection its last response with
//! `connection: close`, and exits with 0. A second signal ends it at once with 130. SIGHUP reloads
//! the policy.
//!
//! To produce the worst moment for SIGTERM without timing, a test stops the process (SIGSTOP),
//! sends requests and the signal, and resumes it: the process then sees all of them at once.

use std::time::{Duration, Instant};

use crate::fixtures::{api, chat, last_load, policy, policy_hash, route, single_worker};
use crate::raw_tcp::{RawClient, RawServer};
use crate::support::{
    Behaviour, Call, Client, End, Gate, Origin, Request, Sidecar, Signal, Stream,
};

/// A provider that holds requests for `/held` at the gate.
fn start_with_gate(server: &str) -> (Origin, Gate, Sidecar) {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin =
        Origin::start(Behaviour::custom(move |request: &Request| match request.path.as_str() {
            "/held" => Behaviour::Chat.held(&held),
            _ => Behaviour::Chat,
        }));
    let server = format!("server: {{ {server} }}\n");
    let yaml = policy(&[("a", &origin.url(), "")], &(route("providers: [a]") + &server));
    (origin, gate, single_worker(&yaml))
}

fn held() -> Call {
    Call::post("/held", "{}")
}

/// Sends a request that stays in flight.
fn send_held(sidecar: &Sidecar, origin: &Origin) -> Client {
    let mut client = sidecar.client();
    client.send_only(&held());
    origin.wait_for_in_flight(1);
    client
}

fn wait_for_closed_listener(sidecar: &Sidecar) {
    sidecar.wait_until(|sidecar| Client::try_to(&sidecar.url("/")).is_err());
}

/// Waits until the only worker has started to drain: it then closes idle connections.
fn wait_for_drain(sidecar: &Sidecar, idle: &mut Client) {
    wait_for_closed_listener(sidecar);
    assert!(idle.wait_for_close());
}

/// A connection that is idle after one request.
fn idle(sidecar: &Sidecar) -> Client {
    let mut client = sidecar.client();
    assert_eq!(client.send(&chat()).status, 200);
    client
}

/// Stops the process and waits until it has stopped.
fn freeze(sidecar: &Sidecar) {
    sidecar.signal(Signal::Stop);
    let stat = format!("/proc/{}/stat", sidecar.pid());
    sidecar.wait_until(|_| {
        let text = std::fs::read_to_string(&stat).expect("the process is there");
        text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    });
}

#[track_caller]
fn assert_last_response(client: &mut Client) {
    let response = client.read_response("POST").expect("a response").rest();
    assert_eq!((response.status, response.end), (200, End::Complete), "{}", response.text());
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.wait_for_close());
}

#[test]
fn requests_in_flight_finish_and_readiness_ends_at_once() {
    for signal in [Signal::Term, Signal::Int] {
        let (origin, gate, mut sidecar) = start_with_gate("drain_timeout: 30s");
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 200);
        let (mut idle, mut client) = (idle(&sidecar), send_held(&sidecar, &origin));
        sidecar.signal(signal);
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
        wait_for_drain(&sidecar, &mut idle);
        assert_eq!(sidecar.admin_get("/healthz").0, 200);
        assert_eq!(api(&sidecar, "/api/status")["ready"], false);
        assert_eq!(origin.in_flight(), 1, "the request was cancelled");
        gate.open_wide();
        assert_last_response(&mut client);
        assert_eq!(sidecar.wait_for_exit().code(), Some(0));
        assert_eq!(sidecar.access_log().len(), 2, "an access record was lost");
    }
}

#[test]
fn a_stream_is_sent_to_its_end_during_a_drain() {
    let gate = Gate::closed();
    let origin = Origin::start(Stream::chat(5).gated(&gate));
    let mut sidecar = single_worker(&policy(&[("a", &origin.url(), "")], &route("providers: [a]")));
    let mut client = sidecar.client();
    client.send_only(&chat());
    gate.let_through(3);
    let mut response = client.read_response("POST").expect("a head");
    assert!(response.next_event().is_some(), "the stream has begun");
    sidecar.signal(Signal::Term);
    wait_for_closed_listener(&sidecar);
    gate.open_wide();
    assert_eq!(response.events().len(), 7);
    assert_eq!(response.end(), End::Complete);
    assert!(client.wait_for_close(), "the connection was kept open");
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn the_listener_stays_open_for_the_drain_delay() {
    const DELAY: Duration = Duration::from_secs(1);
    let (_origin, _gate, mut sidecar) = start_with_gate("drain_delay: 1s");
    let mut keep_alive = sidecar.client();
    assert_eq!(keep_alive.send(&chat()).status, 200);
    let signalled = Instant::now();
    sidecar.signal(Signal::Term);
    sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
    let mut served = 0;
    sidecar.wait_until(|sidecar| match Client::try_to(&sidecar.url("/")) {
        Ok(mut client) => {
            served += usize::from(client.try_send(&chat()).is_ok_and(|r| r.status == 200));
            // The connection stays in use.
            let _ = keep_alive.try_send(&chat());
            false
        }
        Err(_) => true,
    });
    assert!(signalled.elapsed() >= DELAY, "closed after {:?}", signalled.elapsed());
    assert!(served > 0, "no request was served although the listener was open");
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn a_request_whose_head_has_started_is_the_last_of_its_connection() {
    let (origin, gate, mut sidecar) = start_with_gate("drain_timeout: 30s");
    let mut first = send_held(&sidecar, &origin);
    let mut fresh = sidecar.client();
    let (mut keep_alive, mut idle) = (idle(&sidecar), idle(&sidecar));
    for client in [&mut fresh, &mut keep_alive] {
        client.write(b"POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-le").expect("half a head");
    }
    sidecar.signal(Signal::Term);
    wait_for_drain(&sidecar, &mut idle);
    for client in [&mut fresh, &mut keep_alive] {
        client.write(b"ngth: 2\r\n\r\n{}").expect("the other half");
        assert_last_response(client);
    }
    gate.open_wide();
    assert_last_response(&mut first);
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn requests_that_arrive_with_the_signal_get_responses() {
    for delay in ["drain_delay: 0s", "drain_delay: 50ms"] {
        let (origin, _gate, mut sidecar) = start_with_gate(delay);
        let mut clients: Vec<_> = (0..8).map(|_| sidecar.client()).collect();
        for client in &mut clients {
            assert_eq!(client.send(&chat()).status, 200);
        }
        freeze(&sidecar);
        // Eight requests on idle connections, eight on connections not yet accepted.
        clients.extend((0..8).map(|_| sidecar.client()));
        clients.iter_mut().for_each(|client| client.send_only(&chat()));
        sidecar.signal(Signal::Term);
        sidecar.signal(Signal::Cont);
        for client in &mut clients {
            let response = client.read_response("POST").expect("a response").rest();
            assert_eq!((response.status, response.end), (200, End::Complete), "{delay}");
        }
        assert_eq!(sidecar.wait_for_exit().code(), Some(0));
        assert_eq!(origin.count(), 24);
    }
}

#[test]
fn idle_connections_do_not_delay_the_exit() {
    let (_origin, _gate, mut sidecar) =
        start_with_gate("header_time: 60s, keep_alive: 1h, drain_timeout: 60s");
    let (mut silent, mut idle) = (sidecar.client(), sidecar.client());
    assert_eq!(idle.send(&chat()).status, 200);
    let start = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(silent.wait_for_close() && idle.wait_for_close());
}

#[test]
fn a_tunnel_stays_open_until_it_ends() {
    let peer = RawServer::start();
    let mut sidecar = single_worker(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut client = RawClient::to(&sidecar.url("/"));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write(format!("GET /talk HTTP/1.1\r\nhost: a\r\n{upgrade}"));
    let mut provider = peer.accept();
    provider.read_until("\r\n\r\n");
    provider.write(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"));
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
    sidecar.signal(Signal::Term);
    wait_for_closed_listener(&sidecar);
    for _ in 0..3 {
        client.write("ping");
        assert_eq!(provider.read_exactly(4), b"ping");
        provider.write("pong");
        assert_eq!(client.read_exactly(4), b"pong");
    }
    assert!(sidecar.is_running());
    drop((client, provider));
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (server, second) in [
        ("drain_timeout: 1h", Signal::Term),
        ("drain_timeout: 1h", Signal::Int),
        ("drain_delay: 1h", Signal::Term),
    ] {
        let (origin, _gate, mut sidecar) = start_with_gate(server);
        let mut client = send_held(&sidecar, &origin);
        sidecar.signal(Signal::Term);
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
        assert!(sidecar.is_running());
        sidecar.signal(second);
        assert_eq!(sidecar.wait_for_exit().code(), Some(130), "{server}");
        assert!(client.read_response("POST").is_err(), "the client got a response");
    }
}

#[test]
fn a_drain_beyond_its_timeout_ends_and_logs_the_open_connections() {
    let (origin, _gate, mut sidecar) = start_with_gate("drain_timeout: 300ms");
    let mut client = send_held(&sidecar, &origin);
    let signalled = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(signalled.elapsed() >= Duration::from_millis(300), "{:?}", signalled.elapsed());
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    assert!(client.read_response("POST").is_err());
    let log = sidecar.log().join("\n");
    assert!(log.contains("drain_timeout") && log.contains("connections=1"), "{log}");
}

#[test]
fn sighup_reloads_the_policy_and_closes_no_connection() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = |version: &str| {
        let more = format!("headers: {{ set: {{ x-version: {version} }} }}");
        policy(&[("a", &origin.url(), &more)], &route("providers: [a]"))
    };
    // Only the signal can cause a reload.
    let builder = Sidecar::builder().policy("policy", &yaml("one")).env("OUTRIGGER_WATCH", "poll");
    let mut sidecar = builder.env("OUTRIGGER_POLL", "1h").workers(1).start();
    let mut client = sidecar.client();
    assert_eq!(client.send(&chat()).status, 200);
    assert_eq!(origin.last().headers.get("x-version"), Some("one"));
    let first = policy_hash(&sidecar);
    sidecar.write_policy("policy", &yaml("two"));
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|sidecar| policy_hash(sidecar) != first);
    assert_eq!(client.send(&chat()).status, 200, "the connection was closed");
    assert_eq!(origin.last().headers.get("x-version"), Some("two"));
    let second = policy_hash(&sidecar);
    sidecar.write_policy("policy", "version: 1\nroutes: [ { name: all, providers: [nobody] } ]\n");
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|s| last_load(s)["result"] == "rejected");
    assert_eq!((client.send(&chat()).status, policy_hash(&sidecar)), (200, second));
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn sighup_during_a_drain_does_not_end_it() {
    let (origin, gate, mut sidecar) = start_with_gate("drain_timeout: 30s");
    let (mut idle, mut client) = (idle(&sidecar), send_held(&sidecar, &origin));
    sidecar.signal(Signal::Term);
    wait_for_drain(&sidecar, &mut idle);
    sidecar.signal(Signal::Hup);
    gate.open_wide();
    assert_last_response(&mut client);
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}
