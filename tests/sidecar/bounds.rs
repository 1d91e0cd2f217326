//! Memory, and who is served, while others are idle, slow or too many: the short form of
//! `tests/drill bounds` and `tests/drill drain`.
//!
//! The bar is the drill's: resident memory within `server.buffered` and 64 MiB, a clear answer for
//! whoever is refused, an ordinary request answered meanwhile.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{alone, chat, pace, policy, problem, route};
use crate::raw_tcp::{Peer, RawClient};
use crate::support::{Behaviour, Client, End, Origin, Sidecar, Signal};

const BUFFERED: u64 = 8;
const BAR: u64 = BUFFERED + 64;

fn scene(server: &str) -> (Origin, Peer, Sidecar) {
    let (origin, deaf) = (Origin::start(Behaviour::Chat), Peer::start());
    let silent = "auth: none, timeouts: { headers: 1s, first_byte: 1s }";
    let yaml = policy(
        &[("a", &origin.url(), "auth: none"), ("deaf", &deaf.url(), silent)],
        &format!(
            "routes:\n  - {{ name: deaf, match: {{ path: /deaf }}, providers: [deaf], timeout: 2s }}\n\
             \x20 - {{ name: all, providers: [a] }}\n\
             server: {{ buffered: {BUFFERED}MiB{server} }}\n"
        ),
    );
    (origin, deaf, alone(&yaml))
}

/// The most that was ever resident, in MiB.
fn peak(sidecar: &Sidecar) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[track_caller]
fn assert_served(sidecar: &Sidecar) {
    let response = sidecar.send(&chat());
    assert_eq!((response.status, response.end), (200, End::Complete), "{}", response.text());
}

#[track_caller]
fn assert_within_bounds(sidecar: &Sidecar) {
    let peak = peak(sidecar);
    assert!(peak <= BAR, "{peak} MiB were resident, at most {BAR}");
}

#[test]
fn idle_connections_cost_little_and_keep_nobody_out() {
    let (_origin, _deaf, sidecar) = scene("");
    let mut idle: Vec<_> = (0..300).map(|_| sidecar.client()).collect();
    for client in idle.iter_mut().step_by(2) {
        assert_eq!(client.send(&chat()).status, 200);
    }
    for _ in 0..20 {
        assert_served(&sidecar);
    }
    for client in &mut idle {
        assert_eq!(client.send(&chat()).status, 200, "they are served when they speak");
    }
    assert_within_bounds(&sidecar);
}

#[test]
fn a_byte_at_a_time_is_kept_as_a_byte() {
    let (_origin, _deaf, sidecar) = scene("");
    let head = "POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";
    let mut slow: Vec<_> = (0..50).map(|_| RawClient::to(&sidecar.url("/"))).collect();
    slow.iter_mut().for_each(|wire| wire.write(head));
    assert_served(&sidecar);
    let before = peak(&sidecar);
    let start = Instant::now();
    for turn in 1..=100 {
        slow.iter_mut().for_each(|wire| wire.write("x"));
        // Each byte is to be read by itself.
        pace(start + Duration::from_millis(20) * turn);
    }
    assert_served(&sidecar);
    // Where a byte kept its whole buffer, these 5,000 took 20 MiB and more.
    let grown = peak(&sidecar) - before;
    assert!(grown <= 8, "{grown} MiB for 5,000 bytes");
}

#[test]
fn uploads_that_nobody_takes_are_refused_clearly_and_within_bounds() {
    let (_origin, _deaf, sidecar) = scene("");
    let body = vec![b'x'; 1 << 20];
    thread::scope(|scope| {
        let upload = || {
            let mut client = sidecar.client();
            let head =
                format!("POST /deaf HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
            // It may be answered before all of it is taken.
            let _ = client.write(head.as_bytes()).and_then(|()| client.write(&body));
            client.read_response("POST").expect("an answer").rest()
        };
        let uploads: Vec<_> = (0..100).map(|_| scope.spawn(upload)).collect();
        while !uploads.iter().all(|upload| upload.is_finished()) {
            assert_served(&sidecar);
        }
        for upload in uploads {
            let response = upload.join().expect("the upload ends well");
            assert!([503, 504].contains(&response.status), "{}", response.text());
            problem(&response);
        }
    });
    let full = r#"outrigger_not_replayable_total{route="deaf",reason="buffers_full"}"#;
    assert!(sidecar.metric(full).is_some_and(|n| n >= 80.0), "{:?}", sidecar.metric(full));
    assert_within_bounds(&sidecar);
    assert_eq!(sidecar.metric("outrigger_buffered_bytes"), Some(0.0), "all of it was given back");
}

#[test]
fn a_drain_under_load_loses_no_request() {
    let origin = Origin::start(Behaviour::Chat);
    let mut sidecar =
        Sidecar::start(&policy(&[("a", &origin.url(), "")], &route("providers: [a]")));
    let (answered, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ask = |mut client: Client| {
        loop {
            let Ok(response) = client.try_send(&chat()) else {
                lost.fetch_add(1, Ordering::Relaxed);
                return;
            };
            answered.fetch_add(1, Ordering::Relaxed);
            let whole = response.status == 200 && response.end == End::Complete;
            lost.fetch_add(usize::from(!whole), Ordering::Relaxed);
            if response.header("connection") == Some("close") {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            let client = sidecar.client();
            scope.spawn(|| ask(client));
        }
        sidecar.wait_until(|_| answered.load(Ordering::Relaxed) > 200);
        sidecar.signal(Signal::Term);
    });
    assert_eq!(lost.into_inner(), 0, "of {} requests", answered.into_inner());
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
    assert!(Client::try_to(&sidecar.url("/")).is_err());
}
