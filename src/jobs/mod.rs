//! Jobs are run: which next, how often, when again, and who is told.
//!
//! All on one thread of its own, with connections of its own: what waits in the store for hours
//! must not take time from who waits at the listener. A job goes through the same admission and the
//! same attempts as any request (`proxy/jobs/run.rs`); what decides is written down before it is
//! done, by the store's one writer.
//!
//! With a fleet, jobs of a queue with `share: true` may be run by any of its hosts: `share.rs` says who
//! runs one, `keeper.rs` tells Redis of them, `lend.rs` runs those of others, `fetch.rs` brings back how
//! those of this host ended.

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
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::fleet::redis::connection::RedisLink;
use crate::jobs::dispatcher::Dispatcher;
use crate::jobs::sharing::borrower::Borrower;
use crate::jobs::sharing::ownership::Ownership;
use crate::jobs::sharing::publisher::Publisher;
use crate::jobs::webhooks::CallbackSender;
use crate::proxy::downstream::worker::{TICK, Worker, WorkerLoad, WorkerShared};
use crate::store::Store;
use crate::upstream::Resolver;

/// The running thread.
#[derive(Debug)]
pub struct JobRunner {
    thread: JoinHandle<()>,
    drain: watch::Sender<Option<Instant>>,
}

impl JobRunner {
    /// Starts to run what is in the store; `link`: the way to the fleet's Redis.
    ///
    /// # Errors
    /// When the system gives no thread or runtime.
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

    /// Begins nothing more; what runs may finish until then. What does not is run again after the
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
    let share = match link {
        Some(link) => Some(Ownership::new(link, &store).await),
        None => {
            warn_of_no_fleet(&worker);
            None
        }
    };
    let desk = Dispatcher::new(Rc::clone(&worker), store.clone(), share.clone());
    share.iter().for_each(|share| take_part(&desk, share));
    spawn_local(Rc::clone(&desk).hear());
    spawn_local(expiry::run(Rc::clone(&worker), store.clone()));
    spawn_local(CallbackSender::new(Rc::clone(&worker), store, resolver).run());
    let beats = Rc::clone(&worker);
    spawn_local(async move {
        let mut beat = tokio::time::interval(TICK);
        loop {
            beat.tick().await;
            beats.tick();
        }
    });
    tokio::select! {
        () = desk.work() => {}
        _ = drained.wait_for(Option::is_some) => {}
    }
    let until = drained.borrow().unwrap_or_else(crate::clock::now);
    if tokio::time::timeout_at(until.into(), desk.close()).await.is_err() {
        tracing::warn!("jobs that were being run are run again after the next start");
    }
    if let Some(share) = share {
        share.flush().await;
    }
    worker.tick();
}

/// The tasks of a host of a fleet.
fn take_part(desk: &Rc<Dispatcher>, share: &Rc<Ownership>) {
    // From the first job on.
    share.queues(&desk.worker.current.load());
    spawn_local(Publisher::new(Rc::clone(desk), Rc::clone(share)).run());
    spawn_local(sharing::publisher::renew(Rc::clone(share)));
    spawn_local(sharing::publisher::watch(Rc::clone(desk), Rc::clone(share)));
    spawn_local(sharing::results::hear(Rc::clone(share)));
    spawn_local(sharing::results::run(Rc::clone(desk), Rc::clone(share)));
    let lend = Borrower::new(Rc::clone(desk), Rc::clone(share));
    spawn_local(Rc::clone(&lend).tell_again());
    spawn_local(lend.run());
}

fn warn_of_no_fleet(worker: &Worker) {
    let snapshot = worker.current.load();
    for queue in snapshot.policy.queues.iter().filter(|queue| queue.durable.share) {
        let queue = &queue.name;
        tracing::warn!(queue, "jobs stay on this host: `durable.share` is for a fleet (--redis)");
    }
}
