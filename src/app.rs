//! Wires the parts: what starts before what, and what ends before what.
//!
//! The calling thread accepts connections and hears signals. Workers have a thread each. The admin
//! side, DNS, and the watch on the policy share one more, so that nothing they do delays a request.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Sender, UnboundedSender};

use crate::admin::{self, Shown};
use crate::clock;
use crate::live::Live;
use crate::policy::problem::Problem;
use crate::proxy::connection::refusal;
use crate::proxy::worker::{self, Incoming, Load, Order};
use crate::snapshot::Current;
use crate::snapshot::build::{BuildError, Ground};
use crate::snapshot::reload::{self, Loader};
use crate::snapshot::watch::{Wake, watch};
use crate::telemetry::access_log::Log;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Resolver;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of policies, or one file.
    pub policies: PathBuf,
    pub listen: Listen,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// At least 1.
    pub workers: usize,
    /// Listen to the file system's events; the poll works without.
    pub watch: bool,
    pub poll: Duration,
}

/// Where applications connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Why the sidecar did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the policy has {} problems", .0.len())]
    Policy(Vec<Problem>),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot bind {what}: {source} ({hint})")]
    Bind { what: String, source: std::io::Error, hint: &'static str },
    #[error(
        "admin on {0} would be open to others and has no token yet: keep it on loopback, and serve scrapes with --metrics {0}"
    )]
    OpenAdmin(SocketAddr),
    #[error("the system gave no thread or runtime: {0}")]
    System(#[from] std::io::Error),
}

/// How the sidecar ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was begun was finished, or its time was up.
    Drained,
    /// A second signal.
    AtOnce,
}

enum Accept {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A running worker, as the acceptor sees it.
struct Hand {
    orders: UnboundedSender<Order>,
    load: Arc<Load>,
    thread: JoinHandle<std::io::Result<()>>,
}

/// Runs until a signal ends it.
///
/// # Errors
/// When it cannot start; nothing is left running then.
pub fn run(options: &Options) -> Result<Ended, StartError> {
    if let Some(admin) = options.admin.filter(|admin| !admin::is_loopback(*admin)) {
        return Err(StartError::OpenAdmin(admin));
    }
    let read = reload::read(&options.policies).map_err(StartError::Policy)?;
    for warning in read.warnings() {
        tracing::warn!("{warning}");
    }
    let control = runtime()?;
    let front = runtime()?;
    let live = Arc::new(Live::new(Arc::new(Metrics::new()), read.policy().server.buffered));
    let ground =
        Ground { live: Arc::clone(&live), resolver: Resolver::new(control.handle().clone()) };
    let (loader, current) = Loader::start(&options.policies, ground, read)?;
    let accept = front.block_on(async { Accept::bind(&options.listen) })?;
    let (admin, metrics) = (bind_side(options.admin)?, bind_side(options.metrics)?);
    let shown = Arc::new(Shown {
        live: Arc::clone(&live),
        current: Arc::clone(&current),
        loader: Arc::clone(&loader),
        ready: AtomicBool::new(false),
        started: clock::now(),
        listener: accept.name(),
    });
    let (wake, wakes) = mpsc::channel(1);
    let side = Side { admin, metrics, shown: Arc::clone(&shown), wake: wake.clone(), wakes };
    // Before anybody can know that we run: a signal that is not waited for ends the process.
    let signals = front.block_on(async { Signals::new() })?;
    say_listening(&shown, side.admin.as_ref(), side.metrics.as_ref());
    let watched = (options.watch, options.poll);
    thread::Builder::new()
        .name("control".into())
        .spawn(move || control.block_on(side.run(loader, watched)))?;
    let (log, writer) = Log::start(live.metrics.access_log_dropped.clone())?;
    let hands = (0..options.workers.max(1))
        .map(|index| Hand::start(index, &current, &live, &log))
        .collect::<std::io::Result<Vec<_>>>()?;
    drop(log);
    let ended = front.block_on(front_of(accept, hands, signals, shown, current, wake))?;
    if ended == Ended::Drained {
        let _ = writer.join();
    }
    Ok(ended)
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn bind_side(address: Option<SocketAddr>) -> Result<Option<StdTcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bind = |source| StartError::Bind {
        what: address.to_string(),
        source,
        hint: "is another sidecar running? choose another with --admin or --metrics",
    };
    let listener = StdTcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn say_listening(shown: &Shown, admin: Option<&StdTcpListener>, metrics: Option<&StdTcpListener>) {
    let url = |listener: Option<&StdTcpListener>| {
        let address = listener.and_then(|listener| listener.local_addr().ok());
        address.map_or_else(|| "none".to_owned(), |address| format!("http://{address}"))
    };
    tracing::info!(
        listener = %shown.listener,
        admin = %url(admin),
        metrics = %url(metrics),
        "listening"
    );
}

struct Side {
    admin: Option<StdTcpListener>,
    metrics: Option<StdTcpListener>,
    shown: Arc<Shown>,
    wake: Sender<Wake>,
    wakes: mpsc::Receiver<Wake>,
}

impl Side {
    async fn run(self, loader: Arc<Loader>, (events, poll): (bool, Duration)) {
        for (listener, all) in [(self.admin, true), (self.metrics, false)] {
            let Some(listener) = listener else { continue };
            let shown = Arc::clone(&self.shown);
            tokio::spawn(async move {
                let served = match TcpListener::from_std(listener) {
                    Ok(listener) if all => admin::serve(listener, shown).await,
                    Ok(listener) => admin::serve_metrics(listener, shown).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    tracing::error!(%error, "the admin side ended");
                }
            });
        }
        watch(loader, (self.wake, self.wakes), events, poll).await;
    }
}

impl Accept {
    fn bind(listen: &Listen) -> Result<Accept, StartError> {
        let bind = |what: String, source, hint| StartError::Bind { what, source, hint };
        match listen {
            Listen::Tcp(address) => {
                let socket = || {
                    let socket = StdTcpListener::bind(address)?;
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket)
                };
                let hint = "is another sidecar running? choose another with --listen";
                socket().map(Accept::Tcp).map_err(|e| bind(address.to_string(), e, hint))
            }
            Listen::Unix(path) => {
                remove_stale_socket(path);
                let hint = "does its directory exist, and may this user write there?";
                UnixListener::bind(path)
                    .map(|listener| Accept::Unix(listener, path.clone()))
                    .map_err(|e| bind(format!("unix:{}", path.display()), e, hint))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Accept::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |address| format!("http://{address}")),
            Accept::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    async fn next(&self) -> std::io::Result<Incoming> {
        match self {
            Accept::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Incoming::Tcp(stream.into_std()?, peer))
            }
            Accept::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Incoming::Unix(stream.into_std()?))
            }
        }
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        if let Accept::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that nobody listens on is what a sidecar that was killed left behind.
fn remove_stale_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

impl Hand {
    fn start(
        index: usize,
        current: &Arc<Current>,
        live: &Arc<Live>,
        log: &Log,
    ) -> std::io::Result<Hand> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let load = Arc::new(Load::default());
        let (current, live, log) = (Arc::clone(current), Arc::clone(live), log.clone());
        let its_load = Arc::clone(&load);
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || worker::run(current, live, log, its_load, inbox))?;
        Ok(Hand { orders, load, thread })
    }
}

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    End,
    Reload,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::End,
            _ = self.terminate.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

/// Accepts until told to end, then drains.
async fn front_of(
    accept: Accept,
    hands: Vec<Hand>,
    mut signals: Signals,
    shown: Arc<Shown>,
    current: Arc<Current>,
    wake: Sender<Wake>,
) -> std::io::Result<Ended> {
    shown.ready.store(true, Ordering::Release);
    let mut closing: Option<Instant> = None;
    loop {
        let until = closing.unwrap_or_else(|| clock::now() + Duration::from_secs(86_400));
        tokio::select! {
            incoming = accept.next() => hand_out(incoming, &hands, &shown.live, &current).await,
            told = signals.next() => {
                if told == Told::Reload {
                    tracing::info!("SIGHUP: loading the policy");
                    let _ = wake.send(Wake::Load).await;
                    continue;
                }
                if closing.is_some() {
                    return Ok(Ended::AtOnce);
                }
                shown.ready.store(false, Ordering::Release);
                let delay = current.load().policy.server.drain_delay;
                tracing::info!(?delay, "draining: not ready, still accepting");
                closing = Some(clock::now() + delay);
            }
            () = tokio::time::sleep_until(until.into()), if closing.is_some() => break,
        }
    }
    drop(accept);
    drain(hands, current.load().policy.server.drain_timeout, &mut signals).await
}

async fn hand_out(
    incoming: std::io::Result<Incoming>,
    hands: &[Hand],
    live: &Live,
    current: &Current,
) {
    let incoming = match incoming {
        Ok(incoming) => incoming,
        Err(error) => {
            // Out of descriptors, mostly.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(10)).await;
            return;
        }
    };
    let open: usize = hands.iter().map(|hand| hand.load.count()).sum();
    live.metrics.connections.set(open as i64 + 1);
    if open >= current.load().policy.server.connections {
        live.metrics.connections_refused.inc();
        refusal(&incoming);
        return;
    }
    if let Some(hand) = hands.iter().min_by_key(|hand| hand.load.count()) {
        hand.load.connections.fetch_add(1, Ordering::Relaxed);
        let _ = hand.orders.send(Order::Serve(incoming));
    }
}

/// Lets the workers finish what they began, at most for `timeout`.
async fn drain(
    hands: Vec<Hand>,
    timeout: Duration,
    signals: &mut Signals,
) -> std::io::Result<Ended> {
    let until = clock::now() + timeout;
    tracing::info!(?timeout, "draining: the listener is closed");
    for hand in &hands {
        let _ = hand.orders.send(Order::Drain(until));
    }
    let threads: Vec<_> = hands.into_iter().map(|hand| hand.thread).collect();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while !threads.iter().all(JoinHandle::is_finished) {
        tokio::select! {
            told = signals.next() => if told == Told::End {
                return Ok(Ended::AtOnce);
            },
            _ = beat.tick() => {}
        }
    }
    tracing::info!("drained");
    Ok(Ended::Drained)
}
