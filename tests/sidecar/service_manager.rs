//! The sidecar under a service manager such as systemd: notifications, watchdog, socket activation,
//! and the health check of a container runtime.
//!
//! The test plays the service manager: it reads a datagram socket (`NOTIFY_SOCKET`), and passes a
//! listening socket at descriptor 3 (`LISTEN_FDS`).

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{chat, last_load, policy, policy_hash, route, run_cli};
use crate::support::sidecar::{Builder, StartFailure};
use crate::support::{Behaviour, Client, Gate, Origin, PATIENCE, Sidecar, Signal};

/// The socket that notifications are sent to.
struct Notifications(UnixDatagram);

impl Notifications {
    fn at(path: &Path) -> Notifications {
        Notifications::of(UnixDatagram::bind(path).expect("a socket"))
    }

    fn of(socket: UnixDatagram) -> Notifications {
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Notifications(socket)
    }

    /// The lines of the next notification.
    #[track_caller]
    fn receive(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a notification");
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    /// The first notification with this line.
    #[track_caller]
    fn receive_with(&self, line: &str) -> Vec<String> {
        loop {
            let lines = self.receive();
            if lines.iter().any(|own| own == line) {
                return lines;
            }
        }
    }

    /// All notifications that have arrived.
    fn drain(&self) -> Vec<String> {
        self.0.set_nonblocking(true).expect("a mode");
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(length) = self.0.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        all
    }
}

/// The value of a variable in a notification.
#[track_caller]
fn value(lines: &[String], name: &str) -> String {
    let found = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {lines:?}")).to_owned()
}

fn yaml(origin: &Origin, server: &str) -> String {
    let server = format!("server: {{ {server} }}\n");
    policy(&[("a", &origin.url(), "")], &(route("providers: [a]") + &server))
}

/// A sidecar that notifies, and its notifications. It loads the policy on a signal alone.
fn notifying(yaml: &str) -> (Builder, Notifications) {
    let builder = Sidecar::builder().policy("policy", yaml);
    let builder = builder.env("OUTRIGGER_WATCH", "poll").env("OUTRIGGER_POLL", "1h");
    let path = builder.policies().with_file_name("notify");
    let notifications = Notifications::at(&path);
    (builder.env("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), notifications)
}

fn listening() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a socket")
}

fn duplicate(socket: &TcpListener) -> TcpListener {
    socket.try_clone().expect("a duplicate")
}

#[track_caller]
fn failure(builder: Builder) -> StartFailure {
    builder.try_start().map(|_| ()).expect_err("the sidecar started")
}

#[test]
fn ready_is_sent_with_the_address_and_the_policy() {
    let origin = Origin::start(Behaviour::Chat);
    let (builder, notifications) = notifying(&yaml(&origin, ""));
    let sidecar = builder.start();
    let lines = notifications.receive();
    assert_eq!(lines[0], "READY=1");
    let expected = format!("serving {}; policy ", sidecar.url(""));
    let status = value(&lines, "STATUS");
    let hash = status.strip_prefix(&expected).unwrap_or_else(|| panic!("{status}"));
    assert!(policy_hash(&sidecar).starts_with(hash), "{status}");
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert_eq!(sidecar.admin_get("/readyz").0, 200);
}

#[test]
fn the_notification_socket_may_be_abstract() {
    let name = format!("outrigger-test-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).expect("a name");
    let notifications = Notifications::of(UnixDatagram::bind_addr(&address).expect("a socket"));
    let origin = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let _sidecar = builder.env("NOTIFY_SOCKET", &format!("@{name}")).start();
    assert_eq!(notifications.receive()[0], "READY=1");
}

#[test]
fn a_sidecar_that_cannot_start_is_never_ready() {
    let (builder, notifications) = notifying("version: 1\nroutes: []\nsurprise: 1\n");
    assert_eq!(failure(builder).status.code(), Some(2));
    assert_eq!(notifications.drain(), Vec::<String>::new());
}

#[test]
fn a_reload_is_reported_from_its_begin_to_its_end() {
    let origin = Origin::start(Behaviour::Chat);
    let (builder, notifications) = notifying(&yaml(&origin, ""));
    let sidecar = builder.start();
    notifications.receive_with("READY=1");
    let mut before = 0;
    for retries in 1..4 {
        let more = format!("retries: {{ other: {{ max_attempts: {retries} }} }}\n");
        sidecar.write_policy("policy", &(yaml(&origin, "") + &more));
        sidecar.signal(Signal::Hup);
        let begun = notifications.receive_with("RELOADING=1");
        let at: u64 = value(&begun, "MONOTONIC_USEC").parse().expect("a number");
        assert!(at > before, "{at} after {before}");
        before = at;
        let done = notifications.receive();
        assert_eq!(done[0], "READY=1");
        assert_eq!(last_load(&sidecar)["result"], "applied");
        let hash = &policy_hash(&sidecar)[..12];
        assert!(value(&done, "STATUS").ends_with(&format!("policy {hash}")), "{done:?}");
    }
    sidecar.write_policy("policy", "version: 1\nroutes: [ { name: all, providers: [nobody] } ]\n");
    sidecar.signal(Signal::Hup);
    notifications.receive_with("RELOADING=1");
    let done = notifications.receive();
    assert_eq!(done[0], "READY=1");
    assert!(value(&done, "STATUS").contains("rejected"), "{done:?}");
}

#[test]
fn a_change_of_the_files_changes_the_status() {
    let origin = Origin::start(Behaviour::Chat);
    let (builder, notifications) = notifying(&yaml(&origin, ""));
    let sidecar = builder.env("OUTRIGGER_WATCH", "events").start();
    let first = value(&notifications.receive_with("READY=1"), "STATUS");
    sidecar.write_policy("policy", &(yaml(&origin, "") + "retries: { b: { max_attempts: 2 } }\n"));
    let lines = notifications.receive();
    assert!(lines.len() == 1 && value(&lines, "STATUS") != first, "{lines:?}");
}

#[test]
fn stopping_is_sent_when_the_drain_begins() {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let (builder, notifications) = notifying(&yaml(&origin, "drain_timeout: 40s"));
    let mut sidecar = builder.start();
    notifications.receive_with("READY=1");
    let mut client = sidecar.client();
    client.send_only(&chat());
    origin.wait_for_in_flight(1);
    sidecar.signal(Signal::Term);
    let lines = notifications.receive_with("STOPPING=1");
    assert_eq!(value(&lines, "STATUS"), "draining for at most 40s; open connections: 1");
    assert_eq!(value(&lines, "EXTEND_TIMEOUT_USEC"), "50000000");
    gate.open_wide();
    assert_eq!(client.read_response("POST").expect("a response").rest().status, 200);
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
    assert!(notifications.drain().iter().all(|text| !text.contains("READY=1")));
}

#[test]
fn the_watchdog_is_fed_at_half_its_time() {
    const WATCHDOG: Duration = Duration::from_secs(1);
    let origin = Origin::start(Behaviour::Chat);
    let (builder, notifications) = notifying(&yaml(&origin, ""));
    let _sidecar = builder.env("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string()).start();
    notifications.receive_with("WATCHDOG=1");
    let first = Instant::now();
    (0..4).for_each(|_| drop(notifications.receive_with("WATCHDOG=1")));
    let took = first.elapsed();
    assert!(took > WATCHDOG && took < WATCHDOG * 4, "{took:?} for four, expected 2 s");
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let origin = Origin::start(Behaviour::Chat);
    let (builder, notifications) = notifying(&yaml(&origin, ""));
    let builder = builder.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let mut sidecar = builder.start();
    notifications.receive_with("READY=1");
    sidecar.wait_until(|sidecar| {
        sidecar.metric("process_uptime_seconds").is_none_or(|uptime| uptime > 0.2)
    });
    sidecar.stop();
    assert!(notifications.drain().iter().all(|text| !text.contains("WATCHDOG")));
}

#[test]
fn an_inherited_socket_takes_the_place_of_the_address() {
    let origin = Origin::start(Behaviour::Chat);
    let socket = listening();
    let address = socket.local_addr().expect("an address");
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let sidecar = builder.activated(socket).start();
    assert_eq!(sidecar.url(""), format!("http://{address}"));
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn a_connection_between_two_processes_waits_for_the_second() {
    let origin = Origin::start(Behaviour::Chat);
    let socket = listening();
    let start = || {
        let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
        builder.activated(duplicate(&socket)).start()
    };
    let mut first = start();
    let url = first.url("/");
    assert_eq!(first.send(&chat()).status, 200);
    assert_eq!(first.stop().code(), Some(0));
    let mut between = Client::to(&url);
    between.send_only(&chat());
    let _second = start();
    assert_eq!(between.read_response("POST").expect("a response").rest().status, 200);
}

#[test]
fn restarts_under_traffic_lose_no_request() {
    let origin = Origin::start(Behaviour::Chat);
    let socket = listening();
    let url = format!("http://{}/", socket.local_addr().expect("an address"));
    let start = || {
        let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
        builder.activated(duplicate(&socket)).start()
    };
    let (ends, served) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let mut sidecar = start();
        let clients = [(); 4].map(|()| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    assert_eq!(Client::to(&url).send(&chat()).status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for _ in 0..5 {
            let before = served.load(Ordering::Relaxed);
            sidecar.wait_until(|_| served.load(Ordering::Relaxed) > before + 20);
            assert_eq!(sidecar.stop().code(), Some(0));
            sidecar = start();
        }
        ends.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("no request is lost"));
    });
}

#[test]
fn an_inherited_unix_socket_keeps_its_file() {
    let origin = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sidecar.sock");
    let socket = UnixListener::bind(&path).expect("a socket");
    let mut sidecar = builder.activated(socket).start();
    assert_eq!(sidecar.url(""), format!("unix:{}", path.display()));
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(path.exists(), "the sidecar removed the service manager's file");
}

#[test]
fn the_names_of_sockets_say_what_they_are_for() {
    let origin = Origin::start(Behaviour::Chat);
    for (name, path) in [("admin", "/api/status"), ("metrics", "/metrics")] {
        let socket = listening();
        let address = socket.local_addr().expect("an address");
        let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
        let sidecar = builder.env("LISTEN_FDNAMES", name).activated(socket).start();
        assert_eq!(sidecar.send(&chat()).status, 200);
        let url = format!("http://{address}");
        assert_eq!(Client::to(&url).send(&crate::support::Call::get(path)).status, 200, "{name}");
    }
}

#[test]
fn an_inherited_admin_socket_off_loopback_needs_a_token() {
    let origin = Origin::start(Behaviour::Chat);
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let socket = TcpListener::bind(any).expect("a socket");
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let failure = failure(builder.env("LISTEN_FDNAMES", "admin").activated(socket));
    let log = failure.log.join("\n");
    assert!(failure.status.code() == Some(2) && log.contains("--admin-token"), "{log}");
}

#[test]
fn a_descriptor_that_does_not_listen_is_an_error() {
    let origin = Origin::start(Behaviour::Chat);
    let (datagram, _other) = UnixDatagram::pair().expect("a pair");
    let socket = listening();
    let address = socket.local_addr().expect("an address");
    let connected = std::net::TcpStream::connect(address).expect("a connection");
    let builder = || Sidecar::builder().policy("policy", &yaml(&origin, ""));
    for builder in [builder().activated(datagram), builder().activated(connected)] {
        let failure = failure(builder);
        let log = failure.log.join("\n");
        assert!(failure.status.code() == Some(2) && log.contains("descriptor 3"), "{log}");
    }
}

#[test]
fn sockets_for_another_process_are_ignored() {
    let origin = Origin::start(Behaviour::Chat);
    let socket = listening();
    let address = socket.local_addr().expect("an address");
    let builder = Sidecar::builder().policy("policy", &yaml(&origin, ""));
    let sidecar = builder.activated_for("1", socket).start();
    assert_ne!(sidecar.url(""), format!("http://{address}"));
    assert_eq!(sidecar.send(&chat()).status, 200);
}

#[test]
fn the_health_check_follows_readiness() {
    let gate = Gate::closed();
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let mut sidecar = Sidecar::start(&yaml(&origin, "drain_timeout: 60s"));
    let check = |sidecar: &Sidecar, arguments: &[&str]| {
        let output = run_cli(sidecar, arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(text.lines().count(), 1, "{text}");
        (output.status.code(), text.trim().to_owned())
    };
    sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 200);
    assert_eq!(check(&sidecar, &["healthcheck"]), (Some(0), "ready".to_owned()));
    let mut client = sidecar.client();
    client.send_only(&chat());
    origin.wait_for_in_flight(1);
    sidecar.signal(Signal::Term);
    sidecar.wait_until(|sidecar| sidecar.admin_get("/readyz").0 == 503);
    let (code, text) = check(&sidecar, &["healthcheck"]);
    assert!(code == Some(1) && text.contains("not ready: starting or draining"), "{text}");
    assert_eq!(check(&sidecar, &["healthcheck", "--live"]), (Some(0), "ok".to_owned()));
    gate.open_wide();
    assert_eq!(sidecar.wait_for_exit().code(), Some(0));
    let (code, text) = check(&sidecar, &["healthcheck", "--live"]);
    assert!(code == Some(1) && text.contains("is a sidecar running there?"), "{text}");
}
