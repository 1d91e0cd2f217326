//! The control plane: admin API, policy watcher, tracking and degradation, on a thread of their own.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::StartError;
use super::service_manager::ServiceManager;
use crate::admin;
use crate::admin::state::AdminState;
use crate::degradation;
use crate::history;
use crate::live::Live;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::watch::{ReloadChannel, watch};
use crate::tracking;
use crate::upstream::Resolver;

/// The parts that the control thread runs with.
pub(super) struct ControlPlane {
    pub admin: Option<StdTcpListener>,
    pub metrics: Option<StdTcpListener>,
    pub state: Arc<AdminState>,
    pub resolver: Resolver,
    pub reloads: ReloadChannel,
    /// Use file system events beside the poll.
    pub watch_events: bool,
    pub poll: Duration,
    pub manager: ServiceManager,
}

impl ControlPlane {
    /// Starts the thread. It runs until the process ends.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(self, runtime: Runtime) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("control".into());
        thread.spawn(move || runtime.block_on(self.run()))?;
        Ok(())
    }

    async fn run(self) {
        if let Some(listener) = from_std(self.admin) {
            tokio::spawn(admin::serve(listener, Arc::clone(&self.state)));
        }
        if let Some(listener) = from_std(self.metrics) {
            tokio::spawn(admin::serve_metrics(listener, Arc::clone(&self.state)));
        }
        let AdminState {
            current, live, loader, episodes, tracker, history: samples, store, ..
        } = &*self.state;
        let (current, live) = (Arc::clone(current), Arc::clone(live));
        tokio::join!(
            watch(Arc::clone(loader), self.reloads, self.watch_events, self.poll,),
            self.state.schedule.run(&self.state.benchmarks),
            tracking::run(Arc::clone(&live), Arc::clone(tracker), store.clone()),
            history::run(
                Arc::clone(&live),
                Arc::clone(&current),
                Arc::clone(samples),
                store.clone()
            ),
            export_traces(&current, &live, &self.resolver),
            degradation::run(
                Arc::clone(&current),
                Arc::clone(&live),
                Arc::clone(episodes),
                self.resolver.clone()
            ),
            self.manager.run(),
        );
    }
}

/// Exports spans until the process ends.
#[cfg(feature = "otel")]
async fn export_traces(current: &CurrentSnapshot, live: &Arc<Live>, resolver: &Resolver) {
    crate::traces::run(current, live, resolver.clone()).await;
}

#[cfg(not(feature = "otel"))]
async fn export_traces(_: &CurrentSnapshot, _: &Arc<Live>, _: &Resolver) {}

/// Registers a listener with the runtime of this thread.
fn from_std(listener: Option<StdTcpListener>) -> Option<TcpListener> {
    let registered = TcpListener::from_std(listener?);
    let log = |error: &std::io::Error| tracing::error!(%error, "cannot serve the admin API");
    registered.inspect_err(log).ok()
}

/// Binds the admin or the metrics listener, unless the service manager has opened it.
///
/// # Errors
/// When the address is in use, or does not belong to this host.
pub(super) fn bind_admin(
    activated: Option<StdTcpListener>,
    address: Option<SocketAddr>,
) -> Result<Option<StdTcpListener>, StartError> {
    let Some(address) = address.filter(|_| activated.is_none()) else { return Ok(activated) };
    let bind = |source| StartError::Bind {
        address: address.to_string(),
        source,
        hint: "is another sidecar running? choose another address with --admin or --metrics",
    };
    let listener = StdTcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}
