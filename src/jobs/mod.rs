//! Runs jobs: selects the next one, repeats failed runs, and posts results.
//!
//! Jobs run on a thread of their own with connections of their own, so that a backlog of hours
//! takes no time from requests at the listener. A job passes the same admission and attempts as a
//! request (`proxy/jobs/run.rs`). Every decision is written by the store's one writer before it
//! takes effect.
//!
//! In a fleet, any host may run the jobs of a queue with `share: true`: [`sharing`] decides which
//! host runs a job, and `borrower.rs` runs jobs of other hosts here.

mod borrower;
mod completion;
mod dispatcher;
mod expiry;
mod partition;
pub mod sharing;
mod webhooks;
mod worker_slots;

use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::fleet::redis::connection::RedisLink;
use crate::jobs::borrower::Borrower;
use crate::jobs::dispatcher::Dispatcher;
use crate::jobs::sharing::ownership::{Ownership, RedisAvailability};
use crate::jobs::sharing::publisher::Publisher;
use crate::jobs::sharing::{publisher, results};
use crate::jobs::webhooks::CallbackSender;
use crate::proxy::downstream::worker::{TICK, Worker, WorkerLoad, WorkerShared};
use crate::store::Store;
use crate::upstream::Resolver;

/// How often jobs that run on other hosts are looked at.
const AVAILABILITY_CHECK: Duration = Duration::from_millis(250);

/// The thread that runs jobs.
#[derive(Debug)]
pub struct JobRunner {
    thread: JoinHandle<()>,
    drain: watch::Sender<Option<Instant>>,
}

impl JobRunner {
    /// Starts to run the jobs in the store; `link` is the connection to the fleet's Redis.
    ///
    /// # Errors
    /// If the system refuses a thread or a runtime.
    pub fn start(
        common: WorkerShared,
        store: Store,
        resolver: Resolver,
        link: Option<RedisLink>,
    ) -> std::io::Result<JobRunner> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (drain, drained) = watch::channel(None);
        let thread = thread::Builder::new().name("jobs".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(common, store, resolver, link, drained));
        })?;
        Ok(JobRunner { thread, drain })
    }

    /// Starts nothing more; running jobs may finish until `until`. The others run again after the
    /// next start.
    pub fn drain(&self, until: Instant) {
        let _ = self.drain.send(Some(until));
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

async fn run(
    common: WorkerShared,
    store: Store,
    resolver: Resolver,
    link: Option<RedisLink>,
    mut drained: watch::Receiver<Option<Instant>>,
) {
    let worker = Worker::new(common, Arc::new(WorkerLoad::default()));
    let ownership = match link {
        Some(link) => Some(Ownership::new(link, &store).await),
        None => {
            warn_of_missing_fleet(&worker);
            None
        }
    };
    let dispatcher = Dispatcher::new(Rc::clone(&worker), store.clone(), ownership.clone());
    ownership.iter().for_each(|ownership| join_fleet(&dispatcher, ownership));
    spawn_local(Rc::clone(&dispatcher).follow_store());
    spawn_local(expiry::run(Rc::clone(&worker), store.clone()));
    spawn_local(CallbackSender::new(Rc::clone(&worker), store, resolver).run());
    let beating = Rc::clone(&worker);
    spawn_local(async move {
        let mut beat = tokio::time::interval(TICK);
        loop {
            beat.tick().await;
            beating.tick();
        }
    });
    tokio::select! {
        () = dispatcher.run() => {}
        _ = drained.wait_for(Option::is_some) => {}
    }
    let until = drained.borrow().unwrap_or_else(crate::clock::now);
    if tokio::time::timeout_at(until.into(), dispatcher.close()).await.is_err() {
        tracing::warn!("interrupted jobs run again after the next start");
    }
    if let Some(ownership) = ownership {
        ownership.flush().await;
    }
    worker.tick();
}

/// Starts the tasks of a host of a fleet.
fn join_fleet(dispatcher: &Rc<Dispatcher>, ownership: &Rc<Ownership>) {
    // Queues count as shared from the first job on.
    ownership.shared_queues(&dispatcher.worker.current.load());
    let (worker, store) = (&dispatcher.worker, &dispatcher.store);
    let publisher = Publisher::new(Rc::clone(worker), store.clone(), Rc::clone(ownership));
    spawn_local(publisher.run());
    spawn_local(publisher::renew_leases(Rc::clone(ownership)));
    spawn_local(follow_availability(Rc::clone(dispatcher), Rc::clone(ownership)));
    spawn_local(results::listen(Rc::clone(ownership)));
    spawn_local(results::run(Rc::clone(worker), store.clone(), Rc::clone(ownership)));
    let borrower = Borrower::new(Rc::clone(dispatcher), Rc::clone(ownership));
    spawn_local(Rc::clone(&borrower).resend_results());
    spawn_local(borrower.run());
}

/// Looks at deferred jobs again when their time has come, and at all jobs when Redis comes or goes.
async fn follow_availability(dispatcher: Rc<Dispatcher>, ownership: Rc<Ownership>) {
    let mut before = RedisAvailability::Unreachable;
    let mut check = tokio::time::interval(AVAILABILITY_CHECK);
    loop {
        check.tick().await;
        if !ownership.is_used() {
            continue;
        }
        let now = ownership.availability();
        let changed = std::mem::replace(&mut before, now) != now;
        ownership.resume_deferred(changed);
        if changed {
            match now {
                RedisAvailability::Attached => tracing::info!("shared jobs: redis responds"),
                RedisAvailability::Unreachable => {
                    tracing::warn!("shared jobs: redis is unreachable; new jobs run on this host");
                }
                RedisAvailability::Isolated => {
                    tracing::warn!("shared jobs: redis is unreachable; all jobs run on this host");
                }
            }
            dispatcher.look_up_all().await;
        }
    }
}

fn warn_of_missing_fleet(worker: &Worker) {
    let snapshot = worker.current.load();
    for queue in snapshot.policy.queues.iter().filter(|queue| queue.durable.share) {
        let queue = &queue.name;
        tracing::warn!(queue, "jobs stay on this host: `durable.share` needs a fleet (--redis)");
    }
}
