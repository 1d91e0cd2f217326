//! Notifies the service manager (`sd_notify` of systemd): started, reloading, stopping, a line of
//! status, and the watchdog.
//!
//! A notification is one datagram to the socket that `NOTIFY_SOCKET` names. All of them are sent
//! from the control thread, so that a service manager that does not read delays no request. The
//! watchdog is fed from there as well, while every thread beats (see `heartbeat.rs`): neither a
//! thread that hangs nor a control thread that hangs goes unnoticed.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::sync::watch::Receiver;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::heartbeat::Heartbeats;
use crate::admin::state::AdminState;
use crate::clock;
use crate::policy::yaml::units::show_duration;
use crate::snapshot::loader::LoadResult;

/// How long a notification may wait for the service manager to read.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the line of status is compared with the last one.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Added to the longest drain, for the last log lines and the store.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ServicePhase {
    #[default]
    Starting,
    Serving,
    Draining,
}

/// The service manager, and the parts that it is notified of.
pub(super) struct ServiceManager {
    /// `None`: no service manager started this process.
    socket: Option<StdUnixDatagram>,
    state: Arc<AdminState>,
    phase: Receiver<ServicePhase>,
    heartbeats: Arc<Heartbeats>,
}

/// The last values that the service manager was notified of.
#[derive(Debug, Default)]
struct Reported {
    phase: ServicePhase,
    /// The number of the last request for a load.
    reload: u64,
    is_reloading: bool,
    status: String,
}

impl ServiceManager {
    /// Connects to the socket that the environment names.
    pub fn from_environment(
        state: &Arc<AdminState>,
        phase: Receiver<ServicePhase>,
        heartbeats: &Arc<Heartbeats>,
    ) -> ServiceManager {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let connected = name.map(|name| connect(&name)).transpose();
        let log = |error: &std::io::Error| {
            tracing::warn!(%error, "the service manager cannot be notified (NOTIFY_SOCKET)");
        };
        let socket = connected.inspect_err(log).ok().flatten();
        let (state, heartbeats) = (Arc::clone(state), Arc::clone(heartbeats));
        ServiceManager { socket, state, phase, heartbeats }
    }

    /// Notifies the service manager until the process ends.
    pub async fn run(mut self) {
        let socket = self.socket.take().and_then(|socket| UnixDatagram::from_std(socket).ok());
        let Some(socket) = socket else { return };
        tokio::join!(feed_watchdog(&socket, &self.heartbeats), self.report(&socket));
    }
}

/// The time after which the service manager restarts a process that gives no sign of life.
pub(super) fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_other = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id()));
    let time = number("WATCHDOG_USEC").filter(|time| *time > 0 && !is_other);
    time.map(Duration::from_micros)
}

/// A name that begins with `@` is in the abstract namespace.
fn connect(name: &OsStr) -> std::io::Result<StdUnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = StdUnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn notify(socket: &UnixDatagram, message: &str) {
    let sent = timeout(PATIENCE, socket.send(message.as_bytes())).await;
    if !matches!(sent, Ok(Ok(_))) {
        tracing::warn!(message, "the service manager did not accept a notification");
    }
}

async fn feed_watchdog(socket: &UnixDatagram, heartbeats: &Heartbeats) {
    let Some(watchdog) = heartbeats.watchdog() else { return };
    let mut ticks = interval((watchdog / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match heartbeats.stalled(clock::now()) {
            None => notify(socket, "WATCHDOG=1").await,
            Some(thread) => {
                tracing::error!(thread, "a thread hangs; the watchdog will restart the process");
            }
        }
    }
}

impl ServiceManager {
    async fn report(&self, socket: &UnixDatagram) {
        let (requests, mut phase) = (&self.state.loader.requests, self.phase.clone());
        let mut finished = requests.subscribe();
        let mut ticks = interval(STATUS_INTERVAL);
        let mut reported = Reported::default();
        loop {
            let (now, done) = (*phase.borrow_and_update(), *finished.borrow_and_update());
            for message in self.messages(&mut reported, now, done) {
                notify(socket, &message).await;
            }
            tokio::select! {
                changed = phase.changed() => if changed.is_err() {
                    return;
                },
                _ = finished.changed() => {}
                () = requests.added() => {}
                _ = ticks.tick() => {}
            }
        }
    }

    /// The notifications that are due. Each request for a load is reported as begun and as finished,
    /// however fast the load was: the service manager waits for both.
    fn messages(&self, reported: &mut Reported, phase: ServicePhase, done: u64) -> Vec<String> {
        if phase == ServicePhase::Starting {
            return Vec::new();
        }
        let mut messages = Vec::new();
        let mut ready = None;
        if phase != reported.phase {
            reported.phase = phase;
            ready = self.transition(phase);
        }
        let (latest, is_serving) =
            (self.state.loader.requests.latest(), phase == ServicePhase::Serving);
        if is_serving && latest > reported.reload {
            reported.reload = latest;
            reported.is_reloading = true;
            let begun = clock::monotonic_micros();
            messages
                .push(format!("RELOADING=1\nMONOTONIC_USEC={begun}\nSTATUS=loading the policy"));
        }
        if reported.is_reloading && done >= reported.reload {
            reported.is_reloading = false;
            reported.status.clear();
            ready = ready.or_else(|| is_serving.then(|| "READY=1".to_owned()));
        }
        let mut lines: Vec<_> = ready.into_iter().collect();
        let status = self.status(phase);
        if status != reported.status && !reported.is_reloading {
            lines.push(format!("STATUS={status}"));
            reported.status = status;
        }
        messages.extend((!lines.is_empty()).then(|| lines.join("\n")));
        messages
    }

    /// The variables that report a new phase.
    fn transition(&self, phase: ServicePhase) -> Option<String> {
        match phase {
            ServicePhase::Starting => None,
            ServicePhase::Serving => Some("READY=1".to_owned()),
            ServicePhase::Draining => {
                let server = &self.state.current.load().policy.server;
                let longest = server.drain_delay + server.drain_timeout + STOP_MARGIN;
                Some(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", longest.as_micros()))
            }
        }
    }

    /// The line that `systemctl status` shows.
    fn status(&self, phase: ServicePhase) -> String {
        let AdminState { live, current, loader, listener, .. } = &*self.state;
        match phase {
            ServicePhase::Draining => {
                let timeout = show_duration(current.load().policy.server.drain_timeout);
                let open = live.metrics.connections.get();
                format!("draining for at most {timeout}; open connections: {open}")
            }
            ServicePhase::Starting | ServicePhase::Serving => {
                let policy = loader.status();
                let rejected = match policy.last_load.result {
                    LoadResult::Rejected => {
                        "; the last change was rejected (see `outrigger check`)"
                    }
                    _ => "",
                };
                format!("serving {listener}; policy {}{rejected}", policy.in_force.short)
            }
        }
    }
}
