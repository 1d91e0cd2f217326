//! Start order, and accepting connections until a signal.

use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::LocalSet;

use super::control_plane::{ControlPlane, bind_admin};
use super::listener::Listener;
use super::shutdown::{Shutdown, drain};
use super::signals::{SignalAction, Signals};
use super::workers::Workers;
use super::{Options, StartError, core_dumps, descriptors, store_dir};
use crate::admin::state::{AdminState, EVENT_STREAMS};
use crate::admin::{self, Access, Token};
use crate::benchmark::history::RunHistory;
use crate::benchmark::runner::BenchmarkRunner;
use crate::benchmark::schedule::Schedule;
use crate::cache::CacheRegistry;
use crate::clock;
use crate::degradation::history::EpisodeHistory;
use crate::fleet::Fleet;
use crate::live::Live;
use crate::live::fleet::FleetView;
use crate::policy::yaml::units::show_duration;
use crate::proxy::downstream::accept::AcceptPauses;
use crate::proxy::downstream::worker::{AcceptedConnection, WorkerShared};
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::build::SnapshotBuilder;
use crate::snapshot::loader::{self, Loader, PendingPolicy};
use crate::snapshot::watch::ReloadTrigger;
use crate::store::Store;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::Metrics;
use crate::tracking::persistence;
use crate::upstream::Resolver;

/// Runs the sidecar until a signal ends it.
///
/// # Errors
/// When it cannot start. Then nothing is left running.
pub fn run(options: &Options) -> Result<Shutdown, StartError> {
    core_dumps::disable();
    let (access, read) = (access(options)?, read_policy(options)?);
    let shares = descriptors::prepare(read.loaded.policy.server.connections);
    let (control, front_runtime) = (runtime()?, runtime()?);
    let resolver = Resolver::new(control.handle().clone());
    let PolicyParts { live, caches, loader, current } = apply_policy(options, read, &resolver)?;
    let listener = front_runtime.block_on(async { Listener::bind(&options.listen) })?;
    let (admin, metrics) = (bind_admin(options.admin)?, bind_admin(options.metrics)?);
    let (store, runs) = open_store(options, &live)?;
    let fleet = join_fleet(options, &live, &current)?;
    let state = Arc::new(AdminState {
        benchmarks: BenchmarkRunner::new(&live, &current, &runs),
        caches,
        loader: Arc::clone(&loader),
        ready: AtomicBool::new(false),
        started: clock::now(),
        listener: listener.name(),
        access,
        max_connections: shares.admin,
        schedule: Schedule::new(Arc::clone(&runs), fleet.clone()),
        fleet,
        live,
        current,
        episodes: Arc::new(EpisodeHistory::new(store.clone())),
        tracker: Arc::default(),
        history: Arc::default(),
        streams: Arc::new(Semaphore::new(EVENT_STREAMS)),
        runs,
        store,
    });
    // Before the first log line that announces the process: an unhandled signal would end it.
    let signals = front_runtime.block_on(async { Signals::new() })?;
    log_addresses(&state, admin.as_ref(), metrics.as_ref());
    let (wake, wakes) = mpsc::channel(1);
    let control_plane = ControlPlane {
        admin,
        metrics,
        state: Arc::clone(&state),
        resolver: resolver.clone(),
        loader,
        wake: wake.clone(),
        wakes,
        watch_events: options.watch,
        poll: options.poll,
    };
    control_plane.start(control)?;
    let front = Front { listener, signals, state, wake, max_connections: shares.clients };
    front.run(&front_runtime, options.workers, resolver)
}

/// The parts that follow from the first policy.
struct PolicyParts {
    live: Arc<Live>,
    caches: Arc<CacheRegistry>,
    loader: Arc<Loader>,
    current: Arc<CurrentSnapshot>,
}

fn apply_policy(
    options: &Options,
    read: PendingPolicy,
    resolver: &Resolver,
) -> Result<PolicyParts, StartError> {
    let live = Arc::new(live(options, read.loaded.policy.server.buffered));
    let caches = Arc::new(CacheRegistry::new(Arc::clone(&live.metrics))?);
    let builder = snapshot_builder(&live, &caches, resolver);
    let (loader, current) = Loader::start(&options.policies, builder, read)?;
    Ok(PolicyParts { live, caches, loader, current })
}

/// Opens the store, and the history of benchmarks, which needs none.
fn open_store(
    options: &Options,
    live: &Arc<Live>,
) -> Result<(Option<Store>, Arc<RunHistory>), StartError> {
    let store = store_dir::open(&options.data, live)?;
    let history = RunHistory::new(store.clone(), Arc::clone(live));
    Ok((store, Arc::new(history.map_err(std::io::Error::other)?)))
}

fn snapshot_builder(
    live: &Arc<Live>,
    caches: &Arc<CacheRegistry>,
    resolver: &Resolver,
) -> SnapshotBuilder {
    let (live, caches) = (Arc::clone(live), Arc::clone(caches));
    SnapshotBuilder { live, caches, resolver: resolver.clone() }
}

fn read_policy(options: &Options) -> Result<PendingPolicy, StartError> {
    let read = loader::read(&options.policies).map_err(StartError::Policy)?;
    read.loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(read)
}

/// The access rules of the admin API. Off loopback it needs a token.
fn access(options: &Options) -> Result<Access, StartError> {
    let token = options.admin_token.as_deref().map(Token::read).transpose()?;
    let remote = options.admin.filter(|admin| !admin::is_loopback(*admin));
    match remote {
        Some(admin) if token.is_none() => Err(StartError::OpenAdmin(admin)),
        _ => Ok(Access { token, on_loopback: remote.is_none() }),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn live(options: &Options, max_buffered: u64) -> Live {
    let fleet = options.fleet.as_ref().map(|_| Arc::new(FleetView::default()));
    Live::new(Arc::new(Metrics::new()), max_buffered, fleet)
}

fn join_fleet(
    options: &Options,
    live: &Arc<Live>,
    current: &Arc<CurrentSnapshot>,
) -> std::io::Result<Option<Fleet>> {
    let Some((options, side)) = options.fleet.clone().zip(live.fleet.clone()) else {
        return Ok(None);
    };
    Fleet::start(options, Arc::clone(live), side, Arc::clone(current)).map(Some)
}

fn log_addresses(
    state: &AdminState,
    admin: Option<&StdTcpListener>,
    metrics: Option<&StdTcpListener>,
) {
    let url = |listener: Option<&StdTcpListener>| {
        let address = listener.and_then(|listener| listener.local_addr().ok());
        address.map_or_else(|| "none".to_owned(), |address| format!("http://{address}"))
    };
    tracing::info!(
        listener = %state.listener,
        admin = %url(admin),
        metrics = %url(metrics),
        "listening"
    );
}

/// The parts that the accepting thread needs.
struct Front {
    listener: Listener,
    signals: Signals,
    state: Arc<AdminState>,
    /// Requests a load of the policy.
    wake: Sender<ReloadTrigger>,
    /// The connections that the limit of open files allows.
    max_connections: usize,
}

impl Front {
    /// Starts the workers and serves until a signal.
    fn run(
        self,
        runtime: &Runtime,
        workers: usize,
        resolver: Resolver,
    ) -> Result<Shutdown, StartError> {
        let AdminState { live, current, store, .. } = &*self.state;
        let log = AccessLogSender::start(live.metrics.access_log_lines_dropped.clone())?;
        let shared = WorkerShared {
            current: Arc::clone(current),
            live: Arc::clone(live),
            log: log.clone(),
            store: store.clone(),
        };
        let local = LocalSet::new();
        let max = self.max_connections;
        let workers = Workers::start(workers, max, shared, &self.state, resolver, &local)?;
        // As a task: the main future of a LocalSet is polled whenever any of its tasks is.
        let serve = async { tokio::task::spawn_local(self.serve(workers, log)).await };
        local.block_on(runtime, serve).map_err(std::io::Error::other)?.map_err(StartError::System)
    }

    /// Accepts connections until a signal, then drains.
    async fn serve(self, workers: Workers, log: AccessLogSender) -> std::io::Result<Shutdown> {
        let Front { listener, mut signals, state, wake, .. } = self;
        let AdminState { live, current, ready, .. } = &*state;
        ready.store(true, Ordering::Release);
        let mut pauses = AcceptPauses::new("application");
        let mut load_requested = false;
        let mut closing: Option<Instant> = None;
        loop {
            let until = closing.unwrap_or_else(|| clock::now() + Duration::from_secs(86_400));
            tokio::select! {
                incoming = next_connection(&listener, &mut pauses) => {
                    workers.dispatch(incoming, live, current);
                }
                action = signals.next() => {
                    if action == SignalAction::Reload {
                        tracing::info!("SIGHUP: loading the policy");
                        load_requested = true;
                        continue;
                    }
                    if closing.is_some() {
                        return Ok(Shutdown::Immediate);
                    }
                    ready.store(false, Ordering::Release);
                    let delay = current.load().policy.server.drain_delay;
                    tracing::info!(delay = show_duration(delay), "draining: not ready, still accepting");
                    closing = Some(clock::now() + delay);
                }
                // The loader may be busy for long; neither a connection nor a signal waits for it.
                permit = wake.reserve(), if load_requested => {
                    load_requested = false;
                    permit.into_iter().for_each(|permit| permit.send(ReloadTrigger::Load));
                }
                () = tokio::time::sleep_until(until.into()), if closing.is_some() => break,
            }
        }
        workers.set_draining();
        state.benchmarks.stop_current("the sidecar ends");
        while let Some(incoming) = listener.pending() {
            workers.dispatch(incoming, live, current);
        }
        drop(listener);
        let timeout = current.load().policy.server.drain_timeout;
        let end = drain(workers, timeout, &mut signals, &log, &live.modes).await;
        if let (Shutdown::Drained, Some(store)) = (end, &state.store) {
            persistence::save_at_end(store, &state.tracker).await;
        }
        Ok(end)
    }
}

async fn next_connection(listener: &Listener, pauses: &mut AcceptPauses) -> AcceptedConnection {
    loop {
        pauses.wait().await;
        if let Some(incoming) = pauses.check(listener.next().await) {
            return incoming;
        }
    }
}
