//! Jobs are run: which next, how often, when again, and who is told.
//!
//! All on one thread of its own, with connections of its own: what waits in the store for hours
//! must not take time from who waits at the listener. A job goes through the same admission and the
//! same attempts as any request (`proxy/deliver.rs`); what decides is written down before it is
//! done, by the store's one writer.

mod callbacks;
mod desk;
mod line;
mod settle;
mod upkeep;

use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::LocalSet;

use self::callbacks::Callbacks;
use self::desk::Desk;
use crate::proxy::worker::{BEAT, Common, Load, Worker};
use crate::store::Store;
use crate::upstream::Resolver;

/// The running thread.
#[derive(Debug)]
pub struct Jobs {
    thread: JoinHandle<()>,
    drain: watch::Sender<Option<Instant>>,
}

impl Jobs {
    /// Starts to run what is in the store.
    ///
    /// # Errors
    /// When the system gives no thread or runtime.
    pub fn start(common: Common, store: Store, resolver: Resolver) -> std::io::Result<Jobs> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (drain, drained) = watch::channel(None);
        let thread = thread::Builder::new().name("jobs".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(common, store, resolver, drained));
        })?;
        Ok(Jobs { thread, drain })
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
    common: Common,
    store: Store,
    resolver: Resolver,
    mut drained: watch::Receiver<Option<Instant>>,
) {
    let worker = Worker::new(common, Arc::new(Load::default()));
    let desk = Desk::new(Rc::clone(&worker), store.clone());
    tokio::task::spawn_local(Rc::clone(&desk).hear());
    tokio::task::spawn_local(upkeep::run(Rc::clone(&worker), store.clone()));
    tokio::task::spawn_local(Callbacks::new(Rc::clone(&worker), store, resolver).run());
    let beats = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            beat.tick().await;
            beats.beat();
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
    worker.beat();
}
