//! Service under attack: a log without a reader, a full disk, hostile connections to the admin
//! side, few file descriptors, stuck uploads; each alone, and all at once.
//!
//! Requests are served meanwhile, memory is bounded, and signals end the process. Each test fails
//! as soon as one request takes longer than [`LONGEST`].

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::{chat, policy, route};
use crate::support::{Behaviour, Call, Client, End, Gate, Origin, Request, Sidecar, Signal};

/// The longest time for a request; in calm it takes about a millisecond.
const LONGEST: Duration = Duration::from_secs(2);
/// `server.buffered`, plus what the process needs for itself and its connections, in MiB.
const MEMORY: u64 = 8 + 96;
const SOFT_LIMIT: u64 = 64;

/// A provider that holds requests for `/held` at the gate.
fn origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(Behaviour::custom(move |request: &Request| match request.path.as_str() {
        "/held" => Behaviour::Chat.held(&gate),
        _ => Behaviour::Chat,
    }))
}

fn yaml(origin: &Origin, server: &str) -> String {
    let server = format!("server: {{ buffered: 8MiB{server} }}\n");
    policy(&[("a", &origin.url(), "")], &(route("providers: [a]") + &server))
}

/// As many connections as wanted, or as the limit of this process allows.
fn at_most(wanted: usize) -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("limits");
    let line =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let soft = line.split_whitespace().next().and_then(|soft| soft.parse().ok());
    wanted.min(soft.unwrap_or(usize::MAX) / 4)
}

/// Opens connections that send these bytes, and nothing more.
fn open(url: &str, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let connect = |_| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        // It may be closed already.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..count).map(connect).collect()
}

fn stick_uploads(sidecar: &Sidecar, count: usize) -> Vec<TcpStream> {
    let head = "POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx";
    open(&sidecar.url(""), count, head.as_bytes())
}

/// One-byte connections to both listeners of the admin side.
fn attack_admin(sidecar: &Sidecar, count: usize) -> Vec<TcpStream> {
    let mut hostile = open(&sidecar.metrics_url(""), count / 2, b"G");
    hostile.extend(open(&sidecar.admin_url(""), count / 2, b"G"));
    hostile
}

#[track_caller]
fn assert_served(sidecar: &Sidecar, count: usize) {
    let mut client = sidecar.client();
    for _ in 0..count {
        let start = Instant::now();
        let response = client.send(&chat());
        assert_eq!((response.status, response.end), (200, End::Complete), "{}", response.text());
        assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
    }
    let start = Instant::now();
    assert_eq!(sidecar.send(&chat()).status, 200, "a new connection is served");
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
}

#[track_caller]
fn assert_memory(sidecar: &Sidecar) {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024;
    assert!(peak <= MEMORY, "{peak} MiB resident, at most {MEMORY} allowed");
}

/// Two signals while a request is in flight end the process at once.
#[track_caller]
fn assert_two_signals_end(sidecar: &mut Sidecar, origin: &Origin) {
    let mut client = sidecar.client();
    client.send_only(&Call::post("/held", "{}"));
    origin.wait_for_in_flight(1);
    sidecar.signal(Signal::Term);
    sidecar.wait_until(|sidecar| Client::try_to(&sidecar.url("/")).is_err());
    let start = Instant::now();
    sidecar.signal(Signal::Term);
    assert_eq!(sidecar.wait_for_exit().code(), Some(130));
    // Not after the drain, which would wait for 30 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_stalled_log_reader_delays_no_request_and_no_exit() {
    let gate = Gate::closed();
    let origin = origin(&gate);
    let start = || Sidecar::builder().policy("policy", &yaml(&origin, "")).stalled_log().start();
    let mut sidecar = start();
    // Their lines do not fit into the pipe.
    assert_served(&sidecar, 400);
    // Each writes a line of the daemon's log.
    let change = json!({ "by": "x".repeat(200), "reason": "x".repeat(200) });
    let change = Call::json("/api/providers/drain/a", &change);
    let mut admin = Client::to(&sidecar.admin_url(""));
    for _ in 0..3_000 {
        assert_eq!(admin.send(&change).status, 200);
    }
    assert_eq!(admin.send(&Call::post("/api/providers/undrain/a", "")).status, 200);
    let dropped = sidecar.metric("outrigger_daemon_log_lines_dropped_total");
    assert!(dropped.is_some_and(|lines| lines > 0.0), "{dropped:?}");
    assert_served(&sidecar, 10);
    assert_memory(&sidecar);
    assert_two_signals_end(&mut sidecar, &origin);
    let mut drained = start();
    assert_served(&drained, 400);
    let stopped = Instant::now();
    assert_eq!(drained.stop().code(), Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
}

#[test]
fn a_full_disk_costs_access_log_lines_and_one_log_line_a_minute() {
    let gate = Gate::closed();
    let origin = origin(&gate);
    let full = ", access_log: { to: /dev/full }";
    let mut sidecar = Sidecar::start(&yaml(&origin, full));
    let dropped = |sidecar: &Sidecar| sidecar.metric("outrigger_access_log_lines_dropped_total");
    for batch in 1..=5 {
        assert_served(&sidecar, 9);
        sidecar.wait_until(|sidecar| dropped(sidecar) == Some(f64::from(batch) * 10.0));
    }
    assert_two_signals_end(&mut sidecar, &origin);
    let warnings = sidecar.log().iter().filter(|line| line.contains("the access log")).count();
    assert_eq!(warnings, 1, "{:?}", sidecar.log());
}

#[test]
fn hostile_admin_connections_take_nothing_from_the_proxy() {
    let gate = Gate::closed();
    let origin = origin(&gate);
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let builder = builder.arg("--metrics").arg("127.0.0.1:0").soft_open_files(SOFT_LIMIT);
    let mut sidecar = builder.start();
    let _hostile = attack_admin(&sidecar, at_most(3000));
    assert_served(&sidecar, 100);
    // Scrapes and probes are served as well, in place of the oldest connections.
    for url in [sidecar.metrics_url("/metrics"), sidecar.admin_url("/healthz")] {
        assert_eq!(crate::support::get(&url).status, 200, "{url}");
    }
    let closed = sidecar.metric("outrigger_admin_connections_closed_total");
    assert!(closed.is_some_and(|closed| closed > 100.0), "{closed:?}");
    let open = sidecar.metric("process_open_fds").expect("a number");
    assert!(open < 250.0, "{open} descriptors");
    assert_memory(&sidecar);
    let lines = sidecar.log().iter().filter(|line| !line.starts_with('{')).count();
    assert!(lines < 20, "{lines} lines of the daemon's log");
    assert_two_signals_end(&mut sidecar, &origin);
}

#[test]
fn stuck_uploads_and_a_low_soft_limit_delay_no_request() {
    let gate = Gate::closed();
    let origin = origin(&gate);
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let mut sidecar = builder.soft_open_files(SOFT_LIMIT).start();
    sidecar
        .wait_for_log(|line| line.contains("limit of open files") && line.contains("was=\"64\""));
    let _stuck = stick_uploads(&sidecar, at_most(2000));
    assert_served(&sidecar, 100);
    assert_memory(&sidecar);
    assert_two_signals_end(&mut sidecar, &origin);
}

#[test]
fn all_attacks_at_once_delay_no_request() {
    let gate = Gate::closed();
    let origin = origin(&gate);
    let full = ", access_log: { to: /dev/full }";
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, full)).stalled_log();
    let builder = builder.arg("--metrics").arg("127.0.0.1:0").soft_open_files(SOFT_LIMIT);
    let mut sidecar = builder.start();
    let _hostile = attack_admin(&sidecar, at_most(3000));
    let _stuck = stick_uploads(&sidecar, at_most(2000));
    assert_served(&sidecar, 300);
    assert_memory(&sidecar);
    assert_two_signals_end(&mut sidecar, &origin);
}

#[test]
fn a_head_that_does_not_arrive_closes_an_admin_connection() {
    let gate = Gate::closed();
    let sidecar = Sidecar::start(&yaml(&origin(&gate), ""));
    let (mut silent, mut idle) =
        (Client::to(&sidecar.admin_url("")), Client::to(&sidecar.admin_url("")));
    silent.write(b"GET /healthz HTT").expect("a part of a head");
    assert_eq!(idle.send(&Call::get("/healthz")).status, 200);
    let start = Instant::now();
    assert!(silent.wait_for_close() && idle.wait_for_close());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}
