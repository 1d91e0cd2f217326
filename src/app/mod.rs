//! Wires the parts: what starts before what, and what ends before what.
//!
//! The calling thread accepts connections, hears signals, and is the first worker: where there is only
//! one, a connection is served by the thread that accepted it. Each other worker has a thread. The
//! admin side, DNS, and the watch on the policy share one more, so that nothing they do delays a
//! request.

mod control_plane;
mod join_fleet;
mod listener;
mod store_dir;

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Sender, UnboundedSender};
use tokio::task::LocalSet;

use crate::admin::{self, Access, Shown, Token, TokenError};
use crate::app::control_plane::{Side, bind_side};
use crate::app::listener::Accept;
pub use crate::app::listener::Listen;
pub use crate::app::store_dir::Data;
use crate::cache::Caches;
use crate::clock;
use crate::degradation::history::EpisodeHistory;
use crate::fleet;
use crate::jobs::JobRunner;
use crate::live::Live;
use crate::policy::yaml::diagnostic::Problem;
use crate::proxy;
use crate::proxy::downstream::connection::reject;
use crate::proxy::downstream::worker::{
    AcceptedConnection, WorkerCommand, WorkerLoad, WorkerShared,
};
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::build::{BuildError, SnapshotBuilder};
use crate::snapshot::loader::{self, Loader};
use crate::snapshot::watch::ReloadTrigger;
use crate::store::OpenError;
use crate::telemetry::access_log::AccessLogSender;
use crate::upstream::Resolver;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of policies, or one file.
    pub policies: PathBuf,
    pub listen: Listen,
    pub admin: Option<SocketAddr>,
    /// `env:NAME`, `file:PATH` or the token itself.
    pub admin_token: Option<String>,
    pub metrics: Option<SocketAddr>,
    /// At least 1.
    pub workers: usize,
    /// Listen to the file system's events; the poll works without.
    pub watch: bool,
    pub poll: Duration,
    /// Where jobs are kept.
    pub data: Data,
    /// Whom to share breakers, holds, limits and jobs with.
    pub fleet: Option<fleet::FleetOptions>,
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
        "admin on {0} would be open to others: give it a token (--admin-token file:PATH), or keep it on loopback and serve scrapes with --metrics {0}"
    )]
    OpenAdmin(SocketAddr),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Store(#[from] OpenError),
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

/// A running worker, as the acceptor sees it.
struct Hand {
    orders: UnboundedSender<WorkerCommand>,
    load: Arc<WorkerLoad>,
    task: Task,
}

/// All who work.
struct Hands {
    workers: Vec<Hand>,
    jobs: Option<JobRunner>,
}

/// Where a worker runs.
enum Task {
    Thread(JoinHandle<std::io::Result<()>>),
    Here(tokio::task::JoinHandle<()>),
}

/// Runs until a signal ends it.
///
/// # Errors
/// When it cannot start; nothing is left running then.
pub fn run(options: &Options) -> Result<Ended, StartError> {
    let access = access(options)?;
    let read = loader::read(&options.policies).map_err(StartError::Policy)?;
    read.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let (control, front) = (runtime()?, runtime()?);
    let live = Arc::new(join_fleet::state(options, read.policy().server.buffered));
    let resolver = Resolver::new(control.handle().clone());
    let (ground, caches) = ground(&live, &resolver)?;
    let (loader, current) = Loader::start(&options.policies, ground, read)?;
    let accept = front.block_on(async { Accept::bind(&options.listen) })?;
    let (admin, metrics) = (bind_side(options.admin)?, bind_side(options.metrics)?);
    let store = store_dir::open(&options.data, &live)?;
    let fleet = join_fleet::join(options, &live, &current)?;
    let shown = Arc::new(Shown {
        live: Arc::clone(&live),
        caches,
        current: Arc::clone(&current),
        loader: Arc::clone(&loader),
        ready: AtomicBool::new(false),
        started: clock::now(),
        listener: accept.name(),
        access,
        store: store.clone(),
        fleet,
        past: Arc::new(EpisodeHistory::new(store.clone())),
    });
    let (wake, wakes) = mpsc::channel(1);
    let side = Side::new((admin, metrics), &shown, &resolver, (wake.clone(), wakes));
    // Before anybody can know that we run: a signal that is not waited for ends the process.
    let signals = front.block_on(async { Signals::new() })?;
    say_listening(&shown, side.admin.as_ref(), side.metrics.as_ref());
    let watched = (options.watch, options.poll);
    side.start(control, loader, watched)?;
    let (log, writer) = AccessLogSender::start(live.metrics.access_log_lines_dropped.clone())?;
    let here = LocalSet::new();
    let common = WorkerShared { current: Arc::clone(&current), live, log, store };
    let hands = Hands::start(options.workers, common, &shown, resolver, &here)?;
    let accepting = front_of(accept, hands, signals, shown, current, wake);
    // As a task: what a set of tasks is run for is polled whenever one of them is.
    let accepting = async { tokio::task::spawn_local(accepting).await };
    let ended = here.block_on(&front, accepting).map_err(std::io::Error::other)??;
    drop(here);
    if ended == Ended::Drained {
        let _ = writer.join();
    }
    Ok(ended)
}

impl Hands {
    /// The workers, the first of them on this thread, and who runs jobs where there is a store.
    fn start(
        workers: usize,
        common: WorkerShared,
        shown: &Shown,
        resolver: Resolver,
        here: &LocalSet,
    ) -> std::io::Result<Hands> {
        let workers = (0..workers.max(1)).map(|index| Hand::start(index, &common, here));
        let workers = workers.collect::<std::io::Result<Vec<_>>>()?;
        let link = shown.fleet.as_ref().map(|fleet| fleet.link().clone());
        let store = common.store.clone();
        let jobs =
            store.map(|store| JobRunner::start(common, store, resolver, link)).transpose()?;
        Ok(Hands { workers, jobs })
    }
}

/// What snapshots are bound to, and the caches among it.
fn ground(
    live: &Arc<Live>,
    resolver: &Resolver,
) -> std::io::Result<(SnapshotBuilder, Arc<Caches>)> {
    let caches = Arc::new(Caches::new(Arc::clone(&live.metrics))?);
    let (live, resolver) = (Arc::clone(live), resolver.clone());
    Ok((SnapshotBuilder { live, caches: Arc::clone(&caches), resolver }, caches))
}

/// What the admin side asks of whom; open to others it is never.
fn access(options: &Options) -> Result<Access, StartError> {
    let token = options.admin_token.as_deref().map(Token::read).transpose()?;
    let away = options.admin.filter(|admin| !admin::is_loopback(*admin));
    match away {
        Some(admin) if token.is_none() => Err(StartError::OpenAdmin(admin)),
        _ => Ok(Access { token, on_loopback: away.is_none() }),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
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

impl Hand {
    fn start(index: usize, common: &WorkerShared, here: &LocalSet) -> std::io::Result<Hand> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let load = Arc::new(WorkerLoad::default());
        let (common, its_load) = (common.clone(), Arc::clone(&load));
        let task = if index == 0 {
            Task::Here(here.spawn_local(proxy::run_worker_in_place(common, its_load, inbox)))
        } else {
            let thread = thread::Builder::new().name(format!("worker-{index}"));
            let work = move || proxy::run_worker(common, its_load, inbox);
            Task::Thread(thread.spawn(work)?)
        };
        Ok(Hand { orders, load, task })
    }
}

impl Task {
    fn is_finished(&self) -> bool {
        match self {
            Task::Thread(thread) => thread.is_finished(),
            Task::Here(task) => task.is_finished(),
        }
    }
}

/// As Linux and macOS number it.
const SIGXFSZ: i32 = 25;

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
    /// Heard, so that a limit on the size of files is an error of the write and not our end.
    _file_size: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
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
    hands: Hands,
    mut signals: Signals,
    shown: Arc<Shown>,
    current: Arc<CurrentSnapshot>,
    wake: Sender<ReloadTrigger>,
) -> std::io::Result<Ended> {
    shown.ready.store(true, Ordering::Release);
    let mut closing: Option<Instant> = None;
    loop {
        let until = closing.unwrap_or_else(|| clock::now() + Duration::from_secs(86_400));
        tokio::select! {
            incoming = accept.next() => hand_out(incoming, &hands.workers, &shown.live, &current).await,
            told = signals.next() => {
                if told == Told::Reload {
                    tracing::info!("SIGHUP: loading the policy");
                    let _ = wake.send(ReloadTrigger::Load).await;
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
    let working = hands.workers.iter();
    working.for_each(|hand| hand.load.draining.store(true, Ordering::Release));
    while let Some(incoming) = accept.waiting() {
        hand_out(Ok(incoming), &hands.workers, &shown.live, &current).await;
    }
    drop(accept);
    drain(hands, current.load().policy.server.drain_timeout, &mut signals).await
}

async fn hand_out(
    incoming: std::io::Result<AcceptedConnection>,
    hands: &[Hand],
    live: &Live,
    current: &CurrentSnapshot,
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
        live.metrics.connections_rejected.inc();
        reject(&incoming);
        return;
    }
    if let Some(hand) = hands.iter().min_by_key(|hand| hand.load.count()) {
        hand.load.connections.fetch_add(1, Ordering::Relaxed);
        let _ = hand.orders.send(WorkerCommand::Serve(incoming));
    }
}

/// Lets the workers finish what they began, at most for `timeout`.
async fn drain(hands: Hands, timeout: Duration, signals: &mut Signals) -> std::io::Result<Ended> {
    let until = clock::now() + timeout;
    tracing::info!(?timeout, "draining: the listener is closed");
    for hand in &hands.workers {
        let _ = hand.orders.send(WorkerCommand::Drain(until));
    }
    hands.jobs.iter().for_each(|jobs| jobs.drain(until));
    let tasks: Vec<_> = hands.workers.into_iter().map(|hand| hand.task).collect();
    let is_over = || {
        tasks.iter().all(Task::is_finished)
            && hands.jobs.as_ref().is_none_or(JobRunner::is_finished)
    };
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while !is_over() {
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
