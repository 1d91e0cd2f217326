//! The built binary, run as a user runs it: policy files, arguments, signals, log lines.
//!
//! The kernel chooses its ports. The sidecar logs them in one line,
//! `listener=http://127.0.0.1:PORT admin=http://127.0.0.1:PORT`. Its policies are in a temporary
//! folder that is removed with it. When a test fails, the log is printed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Call, Client, Response};
use super::{PATIENCE, POLL_INTERVAL, Watched, faketime};

#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    log: Arc<Watched<Log>>,
    readers: Vec<JoinHandle<()>>,
    folder: TempDir,
    listener: String,
    admin: String,
}

/// Options for starting a sidecar.
#[derive(Debug)]
pub struct Builder {
    folder: TempDir,
    listen: String,
    arguments: Vec<String>,
    workers: usize,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    default_data: bool,
    stalled_log: bool,
    soft_open_files: Option<u64>,
    activated: Option<Activated>,
}

/// A socket that is passed as a service manager passes it.
#[derive(Debug)]
struct Activated {
    socket: OwnedFd,
    /// The value of `LISTEN_PID`, as a shell writes it.
    pid: String,
}

/// A sidecar that exited before it listened.
#[derive(Debug)]
pub struct StartFailure {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    Int,
    Hup,
    Usr1,
    Kill,
    Stop,
    Cont,
}

/// Lines of standard error and standard output, in order of arrival.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    /// How many of the two streams have ended.
    ended: usize,
}

// === impl Builder ===

impl Builder {
    /// Adds a policy file; `.yaml` is added to a `name` without an extension.
    pub fn policy(self, name: &str, yaml: &str) -> Self {
        write_policy(&self.policies(), name, yaml);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets its clock begin this many seconds from now and run this many times as fast.
    pub fn clock(self, offset: u32, speed: u32) -> Self {
        let preload = faketime::library("libfaketimeMT.so.1").display().to_string();
        let clock = format!("+{offset} x{speed}");
        self.env("LD_PRELOAD", &preload).env("FAKETIME", &clock).env("FAKETIME_NO_CACHE", "1")
    }

    /// Adds an argument to `outrigger run`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Folder of the job store. Without it there is no store.
    pub fn data(self, path: &Path) -> Self {
        Self { data: Some(path.to_owned()), ..self }
    }

    /// Uses the default folder of the job store.
    pub fn default_data(self) -> Self {
        Self { default_data: true, ..self }
    }

    /// Listens on `unix:PATH` instead of a port.
    pub fn listen(self, listen: &str) -> Self {
        Self { listen: listen.to_owned(), ..self }
    }

    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Reads standard error only until the sidecar listens. The pipe stays open.
    pub fn stalled_log(self) -> Self {
        Self { stalled_log: true, ..self }
    }

    /// Starts with this soft limit of open files.
    pub fn soft_open_files(self, limit: u64) -> Self {
        Self { soft_open_files: Some(limit), ..self }
    }

    /// Passes this socket at descriptor 3, for the process itself.
    pub fn activated(self, socket: impl Into<OwnedFd>) -> Self {
        self.activated_for("$$", socket)
    }

    /// Passes this socket at descriptor 3, for the process with this number.
    pub fn activated_for(self, pid: &str, socket: impl Into<OwnedFd>) -> Self {
        let activated = Activated { socket: socket.into(), pid: pid.to_owned() };
        Self { activated: Some(activated), ..self }
    }

    /// The folder that policies are read from.
    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// Starts the sidecar and waits until it listens; panics with its log if it exits.
    pub fn start(self) -> Sidecar {
        self.try_start().unwrap_or_else(|failure| {
            panic!("the sidecar exited with {}:\n{}", failure.status, failure.log.join("\n"))
        })
    }

    pub fn try_start(self) -> Result<Sidecar, StartFailure> {
        let mut child = self.command().spawn().expect("the outrigger binary can be started");
        let log = Arc::new(Watched::new(Log::default()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let stdout = child.stdout.take().expect("standard output is piped");
        let (stalls, reads) = (self.stalled_log, false);
        let readers = vec![collect_lines(stderr, &log, stalls), collect_lines(stdout, &log, reads)];
        let (listener, admin) = (String::new(), String::new());
        let mut sidecar = Sidecar { child, log, readers, folder: self.folder, listener, admin };
        match sidecar.wait_for_addresses() {
            Some((listener, admin)) => {
                (sidecar.listener, sidecar.admin) = (listener, admin);
                Ok(sidecar)
            }
            None => Err(StartFailure { status: sidecar.wait_for_exit(), log: sidecar.log() }),
        }
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_outrigger");
        let prepared = match (self.soft_open_files, &self.activated) {
            (None, None) => None,
            (Some(limit), _) => Some(format!("ulimit -Sn {limit} && exec \"$0\" \"$@\"")),
            (None, Some(Activated { pid, .. })) => {
                let announced = format!("LISTEN_FDS=1 LISTEN_PID={pid}");
                Some(format!("export {announced} && exec \"$0\" \"$@\" 3<&0 </dev/null"))
            }
        };
        let mut command = match prepared {
            None => Command::new(binary),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(script).arg(binary);
                shell
            }
        };
        command.arg("run").arg("--policies").arg(self.policies());
        command.args(["--listen", &self.listen, "--admin", "127.0.0.1:0"]);
        command.arg("--workers").arg(self.workers.to_string()).args(&self.arguments);
        match &self.data {
            Some(data) => drop(command.arg("--data").arg(data)),
            None if self.default_data => {}
            None => drop(command.args(["--data", "none"])),
        }
        // The environment of the machine must not influence a test.
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            if upper.starts_with("OUTRIGGER_") || upper.ends_with("_PROXY") || upper == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let socket = self.activated.as_ref().map(|activated| activated.socket.try_clone());
        let input = socket.map(|socket| Stdio::from(socket.expect("a socket can be duplicated")));
        command.stdin(input.unwrap_or_else(Stdio::null));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

// === impl Sidecar ===

impl Sidecar {
    pub fn builder() -> Builder {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("policies")).expect("a folder for policies");
        let listen = "127.0.0.1:0".to_owned();
        let (arguments, environment) = (Vec::new(), Vec::new());
        Builder {
            folder,
            listen,
            arguments,
            workers: 2,
            environment,
            data: None,
            default_data: false,
            stalled_log: false,
            soft_open_files: None,
            activated: None,
        }
    }

    /// Starts with one policy file, `policy.yaml`.
    pub fn start(yaml: &str) -> Self {
        Self::builder().policy("policy", yaml).start()
    }

    /// The URL of the listener with a path that starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.listener)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin)
    }

    /// Opens a connection to the listener.
    pub fn client(&self) -> Client {
        Client::to(&self.listener)
    }

    /// Sends one request on a new connection.
    pub fn send(&self, call: &Call) -> Response {
        self.client().send(call)
    }

    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let response = self.admin_send(&Call::get(path));
        (response.status, response.text())
    }

    /// Posts as the dashboard does, with the origin of the admin listener.
    pub fn admin_post(&self, path: &str, body: &Value) -> (u16, String) {
        let call = Call::json(path, body).header("origin", &self.admin);
        let response = self.admin_send(&call);
        (response.status, response.text())
    }

    pub fn admin_send(&self, call: &Call) -> Response {
        Client::to(&self.admin).send(call)
    }

    /// The value of one series of `/metrics`, named with its labels as they are printed.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = self.admin_get("/metrics");
        assert_eq!(status, 200, "{text}");
        let rest = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        rest.split(' ').next()?.parse().ok()
    }

    /// The URL of the metrics listener; the sidecar runs with `--metrics 127.0.0.1:0`.
    pub fn metrics_url(&self, path: &str) -> String {
        let line = self.wait_for_log(|line| line.contains("metrics=http://"));
        let address = line.split("metrics=").nth(1).expect("an address");
        format!("{}{path}", address.split(' ').next().expect("an address"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its temporary folder, removed on drop.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// Replaces a policy file atomically, like an editor: write a temporary file, then rename it.
    pub fn write_policy(&self, name: &str, yaml: &str) {
        write_policy(&self.policies(), name, yaml);
    }

    /// All lines written so far.
    pub fn log(&self) -> Vec<String> {
        self.log.read(|log| log.lines.clone())
    }

    /// Waits for the first log line that matches, including earlier ones, and returns it.
    pub fn wait_for_log(&self, matches: impl Fn(&str) -> bool) -> String {
        let found = self.log.wait(|log| {
            let line = log.lines.iter().find(|line| matches(line)).cloned();
            line.map(Some).or((log.ended == 2).then_some(None))
        });
        let Some(Some(line)) = found else { panic!("the expected log line never appeared") };
        line
    }

    /// The access log: every JSON line that has a `route`.
    pub fn access_log(&self) -> Vec<Value> {
        self.log.read(access_lines)
    }

    /// Waits until the access log has `count` lines, and returns all of them.
    pub fn wait_for_access(&self, count: usize) -> Vec<Value> {
        let found = self.log.wait(|log| {
            let lines = access_lines(log);
            (lines.len() >= count).then_some(lines)
        });
        let found = found.ok_or_else(|| self.access_log().len());
        found.unwrap_or_else(|n| panic!("never {count} access log lines, last {n}"))
    }

    /// Waits until `condition` is true; panics at the caller's line if it never is.
    #[track_caller]
    pub fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "the condition never held");
            self.log.park(POLL_INTERVAL);
        }
    }

    pub fn signal(&self, signal: Signal) {
        signal.to(self.pid());
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::Term);
        self.wait_for_exit()
    }

    /// Waits until the process has exited.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.join_readers();
                return status;
            }
            assert!(Instant::now() < deadline, "the sidecar never exited");
            self.log.park(POLL_INTERVAL);
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `None` if the process exits before it logs its addresses, or logs none in time.
    fn wait_for_addresses(&mut self) -> Option<(String, String)> {
        let found = self.log.wait(|log| match log.lines.iter().find_map(|l| addresses(l)) {
            Some(found) => Some(Some(found)),
            None => (log.ended == 2).then_some(None),
        });
        if found.is_none() {
            let _ = self.child.kill();
        }
        found.flatten()
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("the log reader ends without a panic");
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.len().saturating_sub(200);
            eprintln!("--- log of the sidecar ({skipped} earlier lines omitted)");
            eprintln!("{}\n---", log[skipped..].join("\n"));
        }
    }
}

// === impl Signal ===

impl Signal {
    /// Sends the signal to a process.
    pub fn to(self, pid: u32) {
        let command = format!("kill -{} {pid}", self.name());
        let status = Command::new("sh").args(["-c", &command]).status().expect("sh can be run");
        assert!(status.success(), "`{command}` failed");
    }

    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Hup => "HUP",
            Signal::Usr1 => "USR1",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        }
    }
}

/// A reader that `stalls` stops at the line with the addresses, and closes its end never.
fn collect_lines(
    from: impl Read + Send + 'static,
    log: &Arc<Watched<Log>>,
    stalls: bool,
) -> JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let is_last = stalls && addresses(&text).is_some();
            log.change(|log| log.lines.push(text));
            if is_last {
                std::mem::forget(from);
                return;
            }
            line.clear();
        }
        log.change(|log| log.ended += 1);
    })
}

fn access_lines(log: &Log) -> Vec<Value> {
    let parsed = log.lines.iter().filter(|line| line.starts_with('{'));
    let parsed = parsed.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line.get("route").is_some()).collect()
}

/// The URLs of the listener and the admin listener, from the log line that names both.
fn addresses(line: &str) -> Option<(String, String)> {
    let after = |key: &str| {
        let rest = &line[line.find(key)? + key.len()..];
        if rest.starts_with("unix:") {
            return rest.split(' ').next().map(str::to_owned);
        }
        let port = rest.strip_prefix("http://127.0.0.1:")?;
        let digits = port.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then(|| format!("http://127.0.0.1:{}", &port[..digits]))
    };
    Some((after("listener=")?, after("admin=")?))
}

fn file_name(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{name}.yaml") }
}

fn write_policy(folder: &Path, name: &str, yaml: &str) {
    let name = file_name(name);
    let temporary = folder.join(format!(".{name}.new"));
    fs::write(&temporary, yaml).expect("the policy can be written");
    fs::rename(&temporary, folder.join(name)).expect("the policy can be put in place");
}
