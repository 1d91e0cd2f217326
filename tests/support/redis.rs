//! A real Redis process that a test can kill, freeze and restart.
//!
//! It listens on a port that stays reserved while it is down, and on a Unix socket in its folder. The
//! test itself uses the socket, past any [`FaultProxy`] in front of the port. It ends with the test; if
//! the test fails, its log is printed.
//!
//! A test that needs a Redis fails without one: `tests/run` installs it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::listener::ReservedPort;
use super::{PATIENCE, Signal, eventually, faketime};

pub mod certificates;
pub mod cluster;
pub mod fault_proxy;
pub mod resp;
pub mod sentinel;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use fault_proxy::{FaultProxy, ProxyMode};
pub use resp::{Reply, RespClient};
pub use sentinel::Sentinels;

/// libfaketime shifts the clock that a process sees. libc is preloaded too, since jemalloc reads the
/// clock before libfaketime is ready.
const FAKED: &str = "libfaketime.so.1";

#[derive(Debug)]
pub struct RedisServer {
    port: ReservedPort,
    /// The second port of a cluster node.
    bus: Option<ReservedPort>,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    password: Option<String>,
    certificates: Option<Certificates>,
    child: Mutex<Option<Child>>,
}

/// How to start one.
#[derive(Debug, Default)]
pub struct Builder {
    arguments: Vec<String>,
    password: Option<String>,
    tls: bool,
    clock: bool,
    cluster: bool,
    sentinel: bool,
}

// === impl Builder ===

impl Builder {
    /// One more argument to `redis-server`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn password(self, password: &str) -> Self {
        Self { password: Some(password.to_owned()), ..self }
    }

    /// Its port speaks TLS and requires a client certificate.
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Its clock can be set ([`RedisServer::set_clock`]).
    pub fn clock(self) -> Self {
        Self { clock: true, ..self }
    }

    pub fn cluster(self) -> Self {
        Self { cluster: true, ..self }
    }

    /// A Sentinel; `arguments` are lines of its file.
    pub fn sentinel(self) -> Self {
        Self { sentinel: true, ..self }
    }

    /// Starts it and waits until it responds.
    pub fn start(self) -> RedisServer {
        let folder = TempDir::new().expect("a temporary folder");
        let certificates = self.tls.then(|| Certificates::write(folder.path()));
        let mut server = RedisServer {
            port: ReservedPort::port(),
            bus: self.cluster.then(ReservedPort::port),
            folder,
            arguments: Vec::new(),
            environment: Vec::new(),
            password: self.password.clone(),
            certificates,
            child: Mutex::default(),
        };
        server.arguments = match self.sentinel {
            true => server.sentinel_arguments(&self.arguments),
            false => server.arguments(&self),
        };
        if self.clock {
            server.environment = server.faked_clock();
        }
        server.start_again();
        server
    }
}

// === impl RedisServer ===

impl RedisServer {
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The URL with the address of a [`FaultProxy`] in front of it.
    pub fn url_at(&self, address: SocketAddr) -> String {
        let login = self.password.as_ref().map(|word| format!(":{word}@")).unwrap_or_default();
        match &self.certificates {
            Some(certificates) => format!("rediss://{login}{address}?{}", certificates.query()),
            None => format!("redis://{login}{address}"),
        }
    }

    pub fn socket_url(&self) -> String {
        let pass = self.password.as_ref().map(|word| format!("?pass={word}")).unwrap_or_default();
        format!("unix://{}{pass}", self.socket().display())
    }

    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("it was started with TLS")
    }

    /// Its own folder, deleted with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new connection over the Unix socket.
    pub fn connect(&self) -> RespClient {
        self.try_connect().unwrap_or_else(|error| panic!("cannot connect to redis: {error}"))
    }

    /// Executes one command; panics on an error.
    #[track_caller]
    pub fn execute(&self, command: &[&str]) -> Reply {
        match self.connect().execute(command) {
            Reply::Error(error) => panic!("redis replied to {command:?} with `{error}`"),
            reply => reply,
        }
    }

    /// Kills it like a crash: no connection is closed cleanly, and no data is kept.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Starts it on the same port and waits until it responds.
    pub fn start_again(&self) {
        let _ = fs::remove_file(self.socket());
        let began = Instant::now();
        let mut child = self.command().spawn().unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!(
                "redis-server is not installed: this test needs it (apt-get install redis-server)"
            ),
            _ => panic!("redis-server cannot be started: {error}"),
        });
        while !self.responds() {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("redis-server left with {status}:\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "redis-server does not respond:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        *self.child() = Some(child);
    }

    /// Stops the process; its connections stay open.
    pub fn freeze(&self) {
        Signal::Stop.to(self.pid());
    }

    pub fn thaw(&self) {
        Signal::Cont.to(self.pid());
    }

    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("it was started").id()
    }

    /// Shifts the clock that it sees by `seconds`.
    pub fn set_clock(&self, seconds: i64) {
        let beside = self.folder().join("clock.new");
        fs::write(&beside, format!("{seconds:+}")).expect("its clock can be written");
        fs::rename(beside, self.folder().join("clock")).expect("its clock can be set");
        eventually("the clock of redis is set", || {
            let now = self.clock();
            let off = now - wall_seconds();
            ((off - seconds).abs() <= 2).then_some(()).ok_or(format!("it is {off} s off"))
        });
    }

    /// Its time in seconds.
    pub fn clock(&self) -> i64 {
        self.execute(&["TIME"]).items()[0].text().parse().expect("seconds")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn try_connect(&self) -> std::io::Result<RespClient> {
        let mut connection = RespClient::by_socket(&self.socket())?;
        if let Some(password) = &self.password {
            connection.try_execute(&["AUTH", password])?;
        }
        Ok(connection)
    }

    fn responds(&self) -> bool {
        let pong = self.try_connect().and_then(|mut connection| connection.try_execute(&["PING"]));
        pong.is_ok_and(|reply| reply == Reply::Text("PONG".to_owned()))
    }

    fn socket(&self) -> PathBuf {
        self.folder().join("socket")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.folder().join("log"));
        let log = log.expect("a log can be opened");
        let mut command = Command::new("redis-server");
        command.args(&self.arguments).current_dir(self.folder());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command
    }

    fn arguments(&self, builder: &Builder) -> Vec<String> {
        let (port, socket) = (self.address().port().to_string(), self.socket());
        let mut all = words("--bind 127.0.0.1 --appendonly no --daemonize no --dir .");
        all.extend(["--save".to_owned(), String::new()]);
        all.extend(["--unixsocket".to_owned(), socket.display().to_string()]);
        all.extend(match &self.certificates {
            Some(certificates) => {
                words(&format!("--port 0 --tls-port {port} {}", certificates.arguments()))
            }
            None => words(&format!("--port {port}")),
        });
        if let Some(password) = &self.password {
            all.extend(words(&format!("--requirepass {password}")));
        }
        if let Some(bus) = &self.bus {
            let bus = bus.address().port();
            all.extend(words(&format!("--cluster-enabled yes --cluster-port {bus}")));
        }
        all.extend(builder.arguments.iter().cloned());
        all
    }

    /// A Sentinel needs a file, since it writes its state there.
    fn sentinel_arguments(&self, lines: &[String]) -> Vec<String> {
        let (port, socket) = (self.address().port(), self.socket());
        let text = format!(
            "bind 127.0.0.1\nport {port}\nunixsocket {}\ndir .\n{}\n",
            socket.display(),
            lines.join("\n")
        );
        fs::write(self.folder().join("sentinel.conf"), text).expect("its file can be written");
        words("sentinel.conf --sentinel")
    }

    fn faked_clock(&self) -> Vec<(String, String)> {
        let clock = self.folder().join("clock");
        fs::write(&clock, "+0").expect("its clock can be written");
        let preload = format!("{}:libc.so.6", faketime::library(FAKED).display());
        let clock = clock.display().to_string();
        let pairs = [
            ("LD_PRELOAD", preload.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &clock),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the log of redis on {}\n{last}\n---", self.address());
        }
    }
}

pub fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn wall_seconds() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970");
    i64::try_from(since.as_secs()).expect("a valid time")
}
