//! The worker threads: starting them, giving them connections, draining them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::LocalSet;

use super::heartbeat::Heartbeats;
use crate::admin::state::AdminState;
use crate::jobs::JobRunner;
use crate::live::Live;
use crate::proxy;
use crate::proxy::downstream::connection::reject;
use crate::proxy::downstream::worker::{
    AcceptedConnection, WorkerCommand, WorkerLoad, WorkerShared,
};
use crate::snapshot::CurrentSnapshot;
use crate::upstream::Resolver;

/// All workers, and the job dispatcher when there is a store.
pub(super) struct Workers {
    workers: Vec<WorkerHandle>,
    jobs: Option<JobRunner>,
    /// The connections that the limit of open files allows.
    max_connections: usize,
}

/// A running worker, as the accepting thread sees it.
struct WorkerHandle {
    orders: UnboundedSender<WorkerCommand>,
    load: Arc<WorkerLoad>,
    task: WorkerTask,
}

enum WorkerTask {
    Thread(JoinHandle<()>),
    Local(tokio::task::JoinHandle<()>),
}

impl Workers {
    /// Starts the workers, the first of them on this thread.
    pub fn start(
        count: usize,
        max_connections: usize,
        common: WorkerShared,
        state: &AdminState,
        resolver: Resolver,
        heartbeats: &Heartbeats,
        local: &LocalSet,
    ) -> std::io::Result<Workers> {
        let start = |index| WorkerHandle::start(index, &common, heartbeats, local);
        let workers = (0..count.max(1)).map(start);
        let workers = workers.collect::<std::io::Result<Vec<_>>>()?;
        let link = state.fleet.as_ref().map(|fleet| fleet.link().clone());
        let store = common.store.clone();
        let jobs =
            store.map(|store| JobRunner::start(common, store, resolver, link)).transpose()?;
        Ok(Workers { workers, jobs, max_connections })
    }

    /// Gives a connection to the worker with the fewest, or rejects it when there are too many.
    pub fn dispatch(&self, incoming: AcceptedConnection, live: &Live, current: &CurrentSnapshot) {
        let open = self.open_connections();
        live.metrics.connections.set(open as i64 + 1);
        if open >= current.load().policy.server.connections.min(self.max_connections) {
            live.metrics.connections_rejected.inc();
            reject(&incoming);
            return;
        }
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.count()) {
            worker.load.connections.fetch_add(1, Ordering::Relaxed);
            let _ = worker.orders.send(WorkerCommand::Serve(incoming));
        }
    }

    /// Updates the metric while no connection is accepted any more.
    pub fn count_connections(&self, live: &Live) {
        live.metrics.connections.set(self.open_connections() as i64);
    }

    fn open_connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.load.count()).sum()
    }

    /// From now on, the next response on a connection is its last.
    pub fn set_draining(&self) {
        for worker in &self.workers {
            worker.load.draining.store(true, Ordering::Release);
        }
    }

    /// Makes workers and jobs finish what is in flight before `until`.
    pub fn drain(&self, until: Instant) {
        for worker in &self.workers {
            let _ = worker.orders.send(WorkerCommand::Drain(until));
        }
        self.jobs.iter().for_each(|jobs| jobs.drain(until));
    }

    pub fn are_finished(&self) -> bool {
        self.workers.iter().all(|worker| worker.task.is_finished())
            && self.jobs.as_ref().is_none_or(JobRunner::is_finished)
    }
}

impl WorkerHandle {
    fn start(
        index: usize,
        common: &WorkerShared,
        heartbeats: &Heartbeats,
        local: &LocalSet,
    ) -> std::io::Result<WorkerHandle> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let load = Arc::new(WorkerLoad::default());
        let (common, worker_load) = (common.clone(), Arc::clone(&load));
        let task = if index == 0 {
            WorkerTask::Local(local.spawn_local(proxy::run_worker(common, worker_load, inbox)))
        } else {
            let name = format!("worker-{index}");
            let heartbeat = heartbeats.register(&name);
            let thread = thread::Builder::new().name(name);
            // Made here, so that a failure ends the start.
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                let run = async {
                    tokio::select! {
                        () = proxy::run_worker(common, worker_load, inbox) => {}
                        () = heartbeat.run() => {}
                    }
                };
                LocalSet::new().block_on(&runtime, run);
            };
            WorkerTask::Thread(thread.spawn(work)?)
        };
        Ok(WorkerHandle { orders, load, task })
    }
}

impl WorkerTask {
    fn is_finished(&self) -> bool {
        match self {
            WorkerTask::Thread(thread) => thread.is_finished(),
            WorkerTask::Local(task) => task.is_finished(),
        }
    }
}
