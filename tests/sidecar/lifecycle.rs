//! How a sidecar ends: nothing that was begun is lost, and nothing keeps it for ever.
//!
//! SIGTERM: not ready at once, still accepting for `server.drain_delay`; then the listener is
//! closed, each connection gets its last answer with `connection: close`, and the process leaves
//! with 0. A second signal ends it at once, with 130. SIGHUP loads the policy again.
//!
//! A sidecar that is stopped (SIGSTOP) while requests arrive and SIGTERM is sent finds all of them
//! at once when it goes on: the worst moment to be told to end, brought about without any timing.

use std::time::{Duration, Instant};

use crate::fixtures::{alone, api, chat, in_force, policy, route};
use crate::raw_tcp::{Peer, RawClient};
use crate::support::{
    Behaviour, Call, Client, End, Gate, Origin, Request, Sidecar, Signal, Stream,
};

/// A provider whose `/held` waits at the gate.
fn scene(server: &str) -> (Origin, Gate, Sidecar) {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin =
        Origin::start(Behaviour::custom(move |request: &Request| match request.path.as_str() {
            "/held" => Behaviour::Chat.held(&held),
            _ => Behaviour::Chat,
        }));
    let server = format!("server: {{ {server} }}\n");
    let yaml = policy(&[("a", &origin.url(), "")], &(route("providers: [a]") + &server));
    (origin, gate, alone(&yaml))
}

fn held() -> Call {
    Call::post("/held", "{}")
}

/// A request that is being worked on.
fn begun(sidecar: &Sidecar, origin: &Origin) -> Client {
    let mut client = sidecar.client();
    client.send_only(&held());
    origin.wait_for_in_flight(1);
    client
}

fn wait_for_closed_listener(sidecar: &Sidecar) {
    sidecar.wait_until(|sidecar| Client::try_to(&sidecar.url("/")).is_err());
}

/// Waits until the only worker has heard of the drain: only then is an idle connection closed.
fn wait_for_drain(sidecar: &Sidecar, idle: &mut Client) {
    wait_for_closed_listener(sidecar);
    assert!(idle.wait_for_close());
}

/// A connection that made a request and has nothing more to say.
fn idle(sidecar: &Sidecar) -> Client {
    let mut client = sidecar.client();
    assert_eq!(client.send(&chat()).status, 200);
    client
}

/// Stops the process; it has stopped when this returns.
fn freeze(sidecar: &Sidecar) {
    sidecar.signal(Signal::Stop);
    let stat = format!("/proc/{}/stat", sidecar.pid());
    sidecar.wait_until(|_| {
        let text = std::fs::read_to_string(&stat).expect("the process is there");
        text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    });
}

#[track_caller]
fn assert_last(client: &mut Client) {
    let response = client.read_response("POST").expect("an answer").rest();
    assert_eq!((response.status, response.end), (200, End::Complete), "{}", response.text());
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.wait_for_close());
}

#[test]
fn what_is_in_flight_is_finished_and_readiness_ends_at_once() {
    for signal in [Signal::Term, Signal::Int] {
        let (origin, gate, mut sidecar) = scene("drain_timeout: 30s");
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 200);
        let (mut idle, mut client) = (idle(&sidecar), begun(&sidecar, &origin));
        sidecar.signal(signal);
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
        wait_for_drain(&sidecar, &mut idle);
        assert_eq!(sidecar.admin_get("/healthz").0, 200);
        assert_eq!(api(&sidecar, "/api/status")["ready"], false);
        assert_eq!(origin.in_flight(), 1, "the request is still being worked on");
        gate.open_wide();
        assert_last(&mut client);
        assert_eq!(sidecar.wait_for_exit().code(), Some(0));
        assert_eq!(sidecar.access_log().len(), 2, "its line is written before the end");
    }
}

#[test]
fn a_stream_goes_on_to_its_end() {
    let gate = Gate::closed();
    let origin = Origin::start(Stream::chat(5).gated(&gate));
    let mut sidecar = alone(&policy(&[("a", &origin.url(), "")], &route("providers: [a]")));
    let mut client = sidecar.client();
    client.send_only(&chat());
    gate.let_through(3);
    let mut answer = client.read_response("POST").expect("a head");
    assert!(answer.next_event().is_some(), "the stream has begun");
    sidecar.signal(Signal::Term);
    wait_for_closed_listener(&sidecar);
    gate.open_wide();
    assert_eq!(answer.events().len(), 7);
    assert_eq!(answer.end(), End::Complete);
    assert!(client.wait_for_close(), "its connection is not kept");
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn the_listener_stays_open_for_drain_delay() {
    const DELAY: Duration = Duration::from_secs(1);
    let (_origin, _gate, mut sidecar) = scene("drain_delay: 1s");
    let mut kept = sidecar.client();
    assert_eq!(kept.send(&chat()).status, 200);
    let told = Instant::now();
    sidecar.signal(Signal::Term);
    sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
    let mut served = 0;
    sidecar.wait_until(|sidecar| match Client::try_to(&sidecar.url("/")) {
        Ok(mut client) => {
            served += usize::from(client.try_send(&chat()).is_ok_and(|r| r.status == 200));
            // Kept in use, as by a client in full swing.
            let _ = kept.try_send(&chat());
            false
        }
        Err(_) => true,
    });
    assert!(told.elapsed() >= DELAY, "closed after {:?}", told.elapsed());
    assert!(served > 0, "nobody was served although the listener was open");
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn a_request_whose_head_has_begun_is_the_last_of_its_connection() {
    let (origin, gate, mut sidecar) = scene("drain_timeout: 30s");
    let mut first = begun(&sidecar, &origin);
    let mut fresh = sidecar.client();
    let (mut kept, mut idle) = (idle(&sidecar), idle(&sidecar));
    for client in [&mut fresh, &mut kept] {
        client.write(b"POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-le").expect("half a head");
    }
    sidecar.signal(Signal::Term);
    wait_for_drain(&sidecar, &mut idle);
    for client in [&mut fresh, &mut kept] {
        client.write(b"ngth: 2\r\n\r\n{}").expect("the other half");
        assert_last(client);
    }
    gate.open_wide();
    assert_last(&mut first);
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}

#[test]
fn requests_that_arrive_together_with_the_signal_are_answered() {
    for delay in ["drain_delay: 0s", "drain_delay: 50ms"] {
        let (origin, _gate, mut sidecar) = scene(delay);
        let mut clients: Vec<_> = (0..8).map(|_| sidecar.client()).collect();
        for client in &mut clients {
            assert_eq!(client.send(&chat()).status, 200);
        }
        freeze(&sidecar);
        // Eight on connections that were idle, eight on connections that nobody has accepted.
        clients.extend((0..8).map(|_| sidecar.client()));
        clients.iter_mut().for_each(|client| client.send_only(&chat()));
        sidecar.signal(Signal::Term);
        sidecar.signal(Signal::Cont);
        for client in &mut clients {
            let response = client.read_response("POST").expect("an answer").rest();
            assert_eq!((response.status, response.end), (200, End::Complete), "{delay}");
        }
        assert_eq!(sidecar.wait_for_exit().code(), Some(0));
        assert_eq!(origin.count(), 24);
    }
}

#[test]
fn connections_that_say_nothing_do_not_hold_the_end_up() {
    let (_origin, _gate, mut sidecar) =
        scene("header_time: 60s, keep_alive: 1h, drain_timeout: 60s");
    let (mut silent, mut idle) = (sidecar.client(), sidecar.client());
    assert_eq!(idle.send(&chat()).status, 200);
    let start = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(silent.wait_for_close() && idle.wait_for_close());
}

#[test]
fn a_tunnel_goes_on_until_it_ends() {
    let peer = Peer::start();
    let mut sidecar = alone(&policy(&[("a", &peer.url(), "")], &route("providers: [a]")));
    let mut client = RawClient::to(&sidecar.url("/"));
    let upgrade = "connection: upgrade\r\nupgrade: echo\r\n\r\n";
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
fn a_second_signal_ends_at_once() {
    for (server, second) in [
        ("drain_timeout: 1h", Signal::Term),
        ("drain_timeout: 1h", Signal::Int),
        ("drain_delay: 1h", Signal::Term),
    ] {
        let (origin, _gate, mut sidecar) = scene(server);
        let mut client = begun(&sidecar, &origin);
        sidecar.signal(Signal::Term);
        sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
        assert!(sidecar.is_running());
        sidecar.signal(second);
        assert_eq!(sidecar.wait_for_exit().code(), Some(130), "{server}");
        assert!(
            client.read_response("POST").is_err(),
            "an answer that is not there is not made up"
        );
    }
}

#[test]
fn a_drain_that_passes_its_limit_ends_and_says_what_it_cut() {
    let (origin, _gate, mut sidecar) = scene("drain_timeout: 300ms");
    let mut client = begun(&sidecar, &origin);
    let told = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(300), "{:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    assert!(client.read_response("POST").is_err());
    let log = sidecar.log().join("\n");
    assert!(log.contains("drain_timeout") && log.contains("connections=1"), "{log}");
}

#[test]
fn hanging_up_loads_the_policy_again_and_ends_nothing() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = |version: &str| {
        let more = format!("headers: {{ set: {{ x-version: {version} }} }}");
        policy(&[("a", &origin.url(), &more)], &route("providers: [a]"))
    };
    // Nothing but the signal can have the files read again.
    let builder = Sidecar::builder().policy("policy", &yaml("one")).env("OUTRIGGER_WATCH", "poll");
    let mut sidecar = builder.env("OUTRIGGER_POLL", "1h").workers(1).start();
    let mut client = sidecar.client();
    assert_eq!(client.send(&chat()).status, 200);
    assert_eq!(origin.last().headers.get("x-version"), Some("one"));
    let first = in_force(&sidecar);
    sidecar.write_policy("policy", &yaml("two"));
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|sidecar| in_force(sidecar) != first);
    assert_eq!(client.send(&chat()).status, 200, "the connection outlives it");
    assert_eq!(origin.last().headers.get("x-version"), Some("two"));
    let second = in_force(&sidecar);
    sidecar.write_policy("policy", "version: 1\nroutes: [ { name: all, providers: [nobody] } ]\n");
    sidecar.signal(Signal::Hup);
    sidecar.wait_until(|s| api(s, "/api/policies")["last_load"]["result"] == "rejected");
    assert_eq!((client.send(&chat()).status, in_force(&sidecar)), (200, second));
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn hanging_up_in_a_drain_does_not_end_it() {
    let (origin, gate, mut sidecar) = scene("drain_timeout: 30s");
    let (mut idle, mut client) = (idle(&sidecar), begun(&sidecar, &origin));
    sidecar.signal(Signal::Term);
    wait_for_drain(&sidecar, &mut idle);
    sidecar.signal(Signal::Hup);
    gate.open_wide();
    assert_last(&mut client);
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
}
