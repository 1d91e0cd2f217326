//! Memory use and service while other clients are idle, slow or too many: the short form of
//! `tests/drill bounds` and `tests/drill drain`.
//!
//! The limits are those of the drills: resident memory at most `server.buffered` plus 64 MiB, a
//! problem response for each rejected request, and ordinary requests served meanwhile.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{chat, policy, problem_type, route, single_worker, sleep_until};
use crate::raw_tcp::{RawClient, RawServer};
use crate::support::{Behaviour, Client, End, Origin, Sidecar, Signal};

const BUFFERED: u64 = 8;
const LIMIT: u64 = BUFFERED + 64;

fn start(server: &str) -> (Origin, RawServer, Sidecar) {
    let (origin, stalled) = (Origin::start(Behaviour::Chat), RawServer::start());
    let silent = "auth: none, timeouts: { headers: 1s, first_byte: 1s }";
    let yaml = policy(
        &[("a", &origin.url(), "auth: none"), ("stalled", &stalled.url(), silent)],
        &format!(
            "routes:\n  - {{ name: stalled, match: {{ path: /stalled }}, providers: [stalled], timeout: 2s }}\n\
             \x20 - {{ name: all, providers: [a] }}\n\
             server: {{ buffered: {BUFFERED}MiB{server} }}\n"
        ),
    );
    (origin, stalled, single_worker(&yaml))
}

/// Peak resident memory in MiB.
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
    assert!(peak <= LIMIT, "{peak} MiB resident, at most {LIMIT} allowed");
}

#[test]
fn idle_connections_cost_little_and_block_no_request() {
    let (_origin, _stalled, sidecar) = start("");
    let mut idle: Vec<_> = (0..300).map(|_| sidecar.client()).collect();
    for client in idle.iter_mut().step_by(2) {
        assert_eq!(client.send(&chat()).status, 200);
    }
    for _ in 0..20 {
        assert_served(&sidecar);
    }
    for client in &mut idle {
        assert_eq!(client.send(&chat()).status, 200, "an idle connection must be served");
    }
    assert_within_bounds(&sidecar);
}

#[test]
fn a_byte_that_arrives_alone_is_buffered_as_one_byte() {
    let (_origin, _stalled, sidecar) = start("");
    let head = "POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";
    let mut slow: Vec<_> = (0..50).map(|_| RawClient::to(&sidecar.url("/"))).collect();
    slow.iter_mut().for_each(|wire| wire.write(head));
    assert_served(&sidecar);
    let before = peak(&sidecar);
    let start = Instant::now();
    for round in 1..=100 {
        slow.iter_mut().for_each(|wire| wire.write("x"));
        // Each byte must arrive in a read of its own.
        sleep_until(start + Duration::from_millis(20) * round);
    }
    assert_served(&sidecar);
    // If each byte kept a whole read buffer, these 5,000 would take more than 20 MiB.
    let growth = peak(&sidecar) - before;
    assert!(growth <= 8, "{growth} MiB for 5,000 bytes");
}

#[test]
fn uploads_beyond_the_buffer_get_problem_responses_within_the_memory_limit() {
    let (_origin, _stalled, sidecar) = start("");
    let body = vec![b'x'; 1 << 20];
    thread::scope(|scope| {
        let upload = || {
            let mut client = sidecar.client();
            let head = format!(
                "POST /stalled HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            // The response may arrive before the whole body is accepted.
            let _ = client.write(head.as_bytes()).and_then(|()| client.write(&body));
            client.read_response("POST").expect("a response").rest()
        };
        let uploads: Vec<_> = (0..100).map(|_| scope.spawn(upload)).collect();
        while !uploads.iter().all(|upload| upload.is_finished()) {
            assert_served(&sidecar);
        }
        for upload in uploads {
            let response = upload.join().expect("the upload thread does not panic");
            assert!([503, 504].contains(&response.status), "{}", response.text());
            problem_type(&response);
        }
    });
    let full = r#"outrigger_not_replayable_total{route="stalled",reason="buffers_full"}"#;
    assert!(sidecar.metric(full).is_some_and(|n| n >= 80.0), "{:?}", sidecar.metric(full));
    assert_within_bounds(&sidecar);
    assert_eq!(sidecar.metric("outrigger_buffered_bytes"), Some(0.0), "a buffer was not released");
}

#[test]
fn draining_under_load_loses_no_request() {
    let origin = Origin::start(Behaviour::Chat);
    let mut sidecar =
        Sidecar::start(&policy(&[("a", &origin.url(), "")], &route("providers: [a]")));
    let (received, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let send_until_closed = |mut client: Client| {
        loop {
            let Ok(response) = client.try_send(&chat()) else {
                failed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            received.fetch_add(1, Ordering::Relaxed);
            let is_complete = response.status == 200 && response.end == End::Complete;
            failed.fetch_add(usize::from(!is_complete), Ordering::Relaxed);
            if response.header("connection") == Some("close") {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            let client = sidecar.client();
            scope.spawn(|| send_until_closed(client));
        }
        sidecar.wait_until(|_| received.load(Ordering::Relaxed) > 200);
        sidecar.signal(Signal::Term);
    });
    assert_eq!(failed.into_inner(), 0, "of {} requests", received.into_inner());
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
    assert!(Client::try_to(&sidecar.url("/")).is_err());
}
