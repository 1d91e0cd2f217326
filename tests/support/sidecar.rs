//! The built binary, run as a user runs it: policy files, arguments, signals, log lines.
//!
//! It listens on ports of the kernel's choosing and says which in one log line,
//! `listener=http://127.0.0.1:PORT admin=http://127.0.0.1:PORT`. Its policies live in a folder
//! of their own that goes with it. When a test fails, its log is printed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Call, Client, Response};
use super::{PATIENCE, TURN, Watched};

#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    log: Arc<Watched<Log>>,
    readers: Vec<JoinHandle<()>>,
    folder: TempDir,
    listener: String,
    admin: String,
}

/// How to start one.
#[derive(Debug)]
pub struct Builder {
    folder: TempDir,
    listen: String,
    arguments: Vec<String>,
    workers: usize,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    usual_data: bool,
}

/// A start that came to nothing.
#[derive(Debug)]
pub struct Refused {
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

/// What it wrote, line by line: standard error and output together.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    ended: usize,
}

// === impl Builder ===

impl Builder {
    /// Adds a policy file; `name` without its `.yaml` will do.
    pub fn policy(self, name: &str, yaml: &str) -> Self {
        write_policy(&self.policies(), name, yaml);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more argument to `outrigger run`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Where it keeps jobs; none without.
    pub fn data(self, path: &Path) -> Self {
        Self { data: Some(path.to_owned()), ..self }
    }

    /// It keeps jobs where a sidecar does of which nobody said where.
    pub fn usual_data(self) -> Self {
        Self { usual_data: true, ..self }
    }

    /// Where it listens: `unix:PATH` instead of a port of its own.
    pub fn listen(self, listen: &str) -> Self {
        Self { listen: listen.to_owned(), ..self }
    }

    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Where the policies will be read from.
    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// Starts it and waits until it listens; panics with its log when it does not.
    pub fn start(self) -> Sidecar {
        self.try_start().unwrap_or_else(|refused| {
            panic!("the sidecar left with {}:\n{}", refused.status, refused.log.join("\n"))
        })
    }

    pub fn try_start(self) -> Result<Sidecar, Refused> {
        let mut child = self.command().spawn().expect("the outrigger binary can be started");
        let log = Arc::new(Watched::new(Log::default()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let stdout = child.stdout.take().expect("standard output is piped");
        let readers = vec![keep_lines(stderr, &log), keep_lines(stdout, &log)];
        let (listener, admin) = (String::new(), String::new());
        let mut sidecar = Sidecar { child, log, readers, folder: self.folder, listener, admin };
        match sidecar.wait_for_addresses() {
            Some((listener, admin)) => {
                (sidecar.listener, sidecar.admin) = (listener, admin);
                Ok(sidecar)
            }
            None => Err(Refused { status: sidecar.wait_for_exit(), log: sidecar.log() }),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("run").arg("--policies").arg(self.policies());
        command.args(["--listen", &self.listen, "--admin", "127.0.0.1:0"]);
        command.arg("--workers").arg(self.workers.to_string()).args(&self.arguments);
        match &self.data {
            Some(data) => drop(command.arg("--data").arg(data)),
            None if self.usual_data => {}
            None => drop(command.args(["--data", "none"])),
        }
        // What the machine's own environment says must not reach a test.
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            if upper.starts_with("OUTRIGGER_") || upper.ends_with("_PROXY") || upper == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
        let (data, usual_data) = (None, false);
        Builder { folder, listen, arguments, workers: 2, environment, data, usual_data }
    }

    /// With one policy file, `policy.yaml`.
    pub fn start(yaml: &str) -> Self {
        Self::builder().policy("policy", yaml).start()
    }

    /// The listener's URL for a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.listener)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin)
    }

    /// A new connection to the listener.
    pub fn client(&self) -> Client {
        Client::to(&self.listener)
    }

    /// One call on a connection of its own.
    pub fn send(&self, call: &Call) -> Response {
        self.client().send(call)
    }

    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let response = self.admin_send(&Call::get(path));
        (response.status, response.text())
    }

    /// As the dashboard would: from the admin's own origin.
    pub fn admin_post(&self, path: &str, body: &Value) -> (u16, String) {
        let call = Call::json(path, body).header("origin", &self.admin);
        let response = self.admin_send(&call);
        (response.status, response.text())
    }

    pub fn admin_send(&self, call: &Call) -> Response {
        Client::to(&self.admin).send(call)
    }

    /// The value of one series of `/metrics`, by its name with labels as they stand there.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = self.admin_get("/metrics");
        assert_eq!(status, 200, "{text}");
        let rest = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        rest.split(' ').next()?.parse().ok()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its own folder; goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// Replaces a policy file at once, as an editor does: written beside, then renamed.
    pub fn write_policy(&self, name: &str, yaml: &str) {
        write_policy(&self.policies(), name, yaml);
    }

    pub fn remove_policy(&self, name: &str) {
        fs::remove_file(self.policies().join(file_name(name))).expect("the policy file is there");
    }

    /// Everything it has written so far.
    pub fn log(&self) -> Vec<String> {
        self.log.read(|log| log.lines.clone())
    }

    /// Waits for a log line, from the start of the log on, and returns it.
    pub fn wait_for_log(&self, wanted: impl Fn(&str) -> bool) -> String {
        let found = self.log.wait(|log| {
            let line = log.lines.iter().find(|line| wanted(line)).cloned();
            line.map(Some).or((log.ended == 2).then_some(None))
        });
        let Some(Some(line)) = found else { panic!("the log line that was waited for never came") };
        line
    }

    /// The access log's lines: every JSON line that has a `route`.
    pub fn access_log(&self) -> Vec<Value> {
        self.log.read(access_lines)
    }

    /// Waits until the access log has so many lines, and returns them.
    pub fn wait_for_access(&self, count: usize) -> Vec<Value> {
        let found = self.log.wait(|log| {
            let lines = access_lines(log);
            (lines.len() >= count).then_some(lines)
        });
        let found = found.ok_or_else(|| self.access_log().len());
        found.unwrap_or_else(|n| panic!("{count} access log lines never came, only {n}"))
    }

    /// Waits until `holds` is true; panics at the caller's line when it never is.
    #[track_caller]
    pub fn wait_until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "the condition never held");
            self.log.park(TURN);
        }
    }

    pub fn signal(&self, signal: Signal) {
        signal.to(self.pid());
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::Term);
        self.wait_for_exit()
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.join_readers();
                return status;
            }
            assert!(Instant::now() < deadline, "the sidecar never ended");
            self.log.park(TURN);
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `None` when it ends before it says where it listens, or says nothing for too long.
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
            reader.join().expect("the log's reader ends well");
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
            eprintln!("--- the sidecar's log ({skipped} earlier lines left out)");
            eprintln!("{}\n---", log[skipped..].join("\n"));
        }
    }
}

// === impl Signal ===

impl Signal {
    /// Sends it to a process.
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

fn keep_lines(from: impl Read + Send + 'static, log: &Arc<Watched<Log>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            log.change(|log| log.lines.push(text));
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

/// The listener's and the admin side's URL, out of the one log line that names both.
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
    let beside = folder.join(format!(".{name}.new"));
    fs::write(&beside, yaml).expect("the policy can be written");
    fs::rename(&beside, folder.join(name)).expect("the policy can be put in place");
}
