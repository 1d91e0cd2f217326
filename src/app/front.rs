//! The accepting thread: connections and signals, until a signal begins the drain.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::StartError;
use super::descriptors::ConnectionShares;
use super::heartbeat::Heartbeats;
use super::listener::Listener;
use super::service_manager::ServicePhase;
use super::shutdown::{Shutdown, drain};
use super::signals::{SignalAction, Signals};
use super::workers::Workers;
use crate::admin::state::AdminState;
use crate::clock;
use crate::history;
use crate::policy::yaml::units::show_duration;
use crate::proxy::downstream::accept::AcceptPauses;
use crate::proxy::downstream::worker::{AcceptedConnection, WorkerShared};
use crate::snapshot::watch::ReloadTrigger;
use crate::telemetry::access_log::AccessLogSender;
use crate::tracking::persistence;
use crate::upstream::Resolver;

/// The parts that the accepting thread needs.
pub(super) struct Front {
    pub listener: Listener,
    pub signals: Signals,
    pub state: Arc<AdminState>,
    /// Requests a load of the policy.
    pub wake: Sender<ReloadTrigger>,
    pub phase: watch::Sender<ServicePhase>,
    pub heartbeats: Arc<Heartbeats>,
    pub shares: ConnectionShares,
}

impl Front {
    /// Starts the workers and serves until a signal.
    pub fn run(
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
        let (local, max, beats) = (LocalSet::new(), self.shares.clients, &self.heartbeats);
        let workers = Workers::start(workers, max, shared, &self.state, resolver, beats, &local)?;
        // As a task: the main future of a LocalSet is polled whenever any of its tasks is.
        let serve = async { tokio::task::spawn_local(self.serve(workers, log)).await };
        local.block_on(runtime, serve).map_err(std::io::Error::other)?.map_err(StartError::System)
    }

    /// Accepts connections until a signal, then drains.
    async fn serve(mut self, workers: Workers, log: AccessLogSender) -> std::io::Result<Shutdown> {
        self.state.ready.store(true, Ordering::Release);
        self.phase.send_replace(ServicePhase::Serving);
        if let Some(end) = self.accept(&workers).await {
            return Ok(end);
        }
        let Front { listener, mut signals, state, .. } = self;
        let AdminState { live, current, .. } = &*state;
        workers.set_draining();
        state.benchmarks.stop_current("the sidecar ends");
        while let Some(incoming) = listener.pending() {
            workers.dispatch(incoming, live, current);
        }
        drop(listener);
        let timeout = current.load().policy.server.drain_timeout;
        let end = drain(workers, timeout, &mut signals, &log, live).await;
        if let (Shutdown::Drained, Some(store)) = (end, &state.store) {
            persistence::save_at_end(store, &state.tracker).await;
            history::events::save_at_end(store, &live.events).await;
        }
        Ok(end)
    }

    /// Accepts connections until the drain begins; the end of the process instead, if a second
    /// signal demands it.
    async fn accept(&mut self, workers: &Workers) -> Option<Shutdown> {
        let AdminState { live, current, ready, loader, .. } = &*self.state;
        let mut heartbeat = self.heartbeats.register("accept");
        let mut pauses = AcceptPauses::new("application");
        let mut load_requested = false;
        let mut closing: Option<Instant> = None;
        loop {
            let until = closing.unwrap_or_else(|| clock::now() + Duration::from_secs(86_400));
            tokio::select! {
                incoming = next_connection(&self.listener, &mut pauses) => {
                    workers.dispatch(incoming, live, current);
                }
                action = self.signals.next() => {
                    if action == SignalAction::Reload {
                        tracing::info!("SIGHUP: loading the policy");
                        loader.requests.add();
                        load_requested = true;
                        continue;
                    }
                    if closing.is_some() {
                        return Some(Shutdown::Immediate);
                    }
                    ready.store(false, Ordering::Release);
                    self.phase.send_replace(ServicePhase::Draining);
                    let delay = current.load().policy.server.drain_delay;
                    tracing::info!(delay = show_duration(delay), "draining: not ready, still accepting");
                    closing = Some(clock::now() + delay);
                }
                // The loader may be busy for long; neither a connection nor a signal waits for it.
                permit = self.wake.reserve(), if load_requested => {
                    load_requested = false;
                    permit.into_iter().for_each(|permit| permit.send(ReloadTrigger::Load));
                }
                () = heartbeat.beat() => {}
                () = tokio::time::sleep_until(until.into()), if closing.is_some() => return None,
            }
        }
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
