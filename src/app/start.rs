//! Start order.

use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::sync::{mpsc, watch};

use super::control_plane::{ControlPlane, bind_admin};
use super::front::Front;
use super::heartbeat::Heartbeats;
use super::listener::Listener;
use super::service_manager::{self, ServiceManager, ServicePhase};
use super::shutdown::Shutdown;
use super::signals::Signals;
use super::sockets::ActivatedSockets;
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
use crate::history;
use crate::live::Live;
use crate::live::fleet::FleetView;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::build::SnapshotBuilder;
use crate::snapshot::loader::{self, Loader, PendingPolicy};
use crate::snapshot::watch::{ReloadChannel, ReloadTrigger};
use crate::store::Store;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Resolver;

/// Runs the sidecar until a signal ends it.
///
/// # Errors
/// When it cannot start. Then nothing is left running.
pub fn run(options: &Options) -> Result<Shutdown, StartError> {
    let sockets = ActivatedSockets::from_environment()?;
    let (access, read) = read_secrets(options, &sockets)?;
    let shares = descriptors::prepare(read.loaded.policy.server.connections);
    let (control, front_runtime) = (runtime()?, runtime()?);
    let resolver = Resolver::new(control.handle().clone());
    let PolicyParts { live, caches, loader, current } = apply_policy(options, read, &resolver)?;
    let OpenListeners { listener, admin, metrics } = listen(options, sockets, &front_runtime)?;
    let (store, runs) = open_store(options, &live, &control)?;
    let fleet = join_fleet(options, &live, &current)?;
    let state = Arc::new(AdminState {
        benchmarks: BenchmarkRunner::new(&live, &current, &runs),
        caches,
        loader,
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
    let (phase, phases) = watch::channel(ServicePhase::Starting);
    let heartbeats = Arc::new(Heartbeats::new(service_manager::watchdog()));
    let (wake, reloads) = reload_channel();
    ControlPlane {
        manager: ServiceManager::from_environment(&state, phases, &heartbeats),
        admin,
        metrics,
        state: Arc::clone(&state),
        resolver: resolver.clone(),
        reloads,
        watch_events: options.watch,
        poll: options.poll,
    }
    .start(control)?;
    let front = Front { listener, signals, state, wake, phase, heartbeats, shares };
    front.run(&front_runtime, options.workers, resolver)
}

fn reload_channel() -> (mpsc::Sender<ReloadTrigger>, ReloadChannel) {
    let (sender, inbox) = mpsc::channel(1);
    (sender.clone(), ReloadChannel { sender, inbox })
}

/// The listeners of the process.
struct OpenListeners {
    listener: Listener,
    admin: Option<StdTcpListener>,
    metrics: Option<StdTcpListener>,
}

/// Opens the listeners that the service manager has not opened.
fn listen(
    options: &Options,
    sockets: ActivatedSockets,
    runtime: &Runtime,
) -> Result<OpenListeners, StartError> {
    let ActivatedSockets { listener, admin, metrics } = sockets;
    Ok(OpenListeners {
        listener: runtime.block_on(async { Listener::open(&options.listen, listener) })?,
        admin: bind_admin(admin, options.admin)?,
        metrics: bind_admin(metrics, options.metrics)?,
    })
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

/// Opens the store, restores its events, and opens the history of benchmarks, which needs none.
fn open_store(
    options: &Options,
    live: &Arc<Live>,
    runtime: &Runtime,
) -> Result<(Option<Store>, Arc<RunHistory>), StartError> {
    let store = store_dir::open(&options.data, live)?;
    if let Some(store) = &store {
        runtime.block_on(history::events::restore(store, &live.events));
    }
    let runs = RunHistory::new(store.clone(), Arc::clone(live));
    Ok((store, Arc::new(runs.map_err(std::io::Error::other)?)))
}

fn snapshot_builder(
    live: &Arc<Live>,
    caches: &Arc<CacheRegistry>,
    resolver: &Resolver,
) -> SnapshotBuilder {
    let (live, caches) = (Arc::clone(live), Arc::clone(caches));
    SnapshotBuilder { live, caches, resolver: resolver.clone() }
}

/// Reads the admin token and the policy. No core file may hold them.
fn read_secrets(
    options: &Options,
    sockets: &ActivatedSockets,
) -> Result<(Access, PendingPolicy), StartError> {
    core_dumps::disable();
    Ok((access(options, sockets)?, read_policy(options)?))
}

fn read_policy(options: &Options) -> Result<PendingPolicy, StartError> {
    let read = loader::read(&options.policies).map_err(StartError::Policy)?;
    read.loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(read)
}

/// The access rules of the admin API. Off loopback it needs a token.
fn access(options: &Options, sockets: &ActivatedSockets) -> Result<Access, StartError> {
    let admin = sockets.admin_address()?.or(options.admin);
    let token = options.admin_token.as_deref().map(Token::read).transpose()?;
    let remote = admin.filter(|admin| !admin::is_loopback(*admin));
    match remote {
        Some(admin) if token.is_none() => Err(StartError::OpenAdmin(admin)),
        _ => {
            let rejections = LogLimit::new();
            Ok(Access { token, on_loopback: remote.is_none(), rejections })
        }
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
