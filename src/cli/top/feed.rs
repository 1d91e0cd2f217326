//! The threads that read from the sidecar.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::state::TopView;
use crate::admin::breakers::BreakerList;
use crate::admin::degradation::DegradationStatus;
use crate::admin::queue::QueueList;
use crate::admin::status::SidecarStatus;
use crate::cli::admin_client::AdminArgs;
use crate::cli::watch::stream::follow;

const EACH: Duration = Duration::from_secs(1);

/// A piece of news for the screen.
#[derive(Debug)]
pub(super) enum TopUpdate {
    Status(Box<SidecarStatus>),
    Breakers(BreakerList),
    Queues(QueueList),
    Degradation(DegradationStatus),
    Request(Value),
    /// The sidecar could not be asked.
    Failed(String),
    /// A signal ends the command.
    Stop,
}

/// Starts the threads. They end with the process.
///
/// # Errors
/// When the operating system refuses a thread.
pub(super) fn start(
    admin: AdminArgs,
    updates: &SyncSender<TopUpdate>,
    views: Receiver<TopView>,
) -> Result<(), String> {
    let admin = Arc::new(admin);
    let (poller, status) = (Arc::clone(&admin), updates.clone());
    spawn(move || poll(&poller, &views, &status))?;
    let requests = updates.clone();
    spawn(move || stream(&admin, &requests))?;
    let stop = updates.clone();
    spawn(move || drop(wait_for_signal().map(|()| stop.send(TopUpdate::Stop))))
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = thread::Builder::new().name("top".to_owned()).spawn(run);
    started.map(drop).map_err(|error| error.to_string())
}

/// Asks each second, and at once for another view.
fn poll(admin: &AdminArgs, views: &Receiver<TopView>, updates: &SyncSender<TopUpdate>) {
    let mut view = TopView::Overview;
    loop {
        let status = read(admin, "/api/status", |status| TopUpdate::Status(Box::new(status)));
        let more = match view {
            TopView::Breakers => Some(read(admin, "/api/circuit-breakers", TopUpdate::Breakers)),
            TopView::Queues => Some(read(admin, "/api/queue", TopUpdate::Queues)),
            TopView::Degradation => Some(read(admin, "/api/degradation", TopUpdate::Degradation)),
            TopView::Overview | TopView::Help => None,
        };
        for update in [Some(status), more].into_iter().flatten() {
            if updates.send(update).is_err() {
                return;
            }
        }
        match views.recv_timeout(EACH) {
            Ok(next) => view = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn read<T: DeserializeOwned>(
    admin: &AdminArgs,
    path: &str,
    update: impl FnOnce(T) -> TopUpdate,
) -> TopUpdate {
    let read = admin.get(path).and_then(|reply| reply.read());
    read.map_or_else(TopUpdate::Failed, update)
}

/// Follows the requests, again after the sidecar was gone.
fn stream(admin: &AdminArgs, updates: &SyncSender<TopUpdate>) {
    let mut is_open = true;
    while is_open {
        let ended = follow(admin, "/api/requests/stream", |event| {
            if !event.name.is_empty() {
                return ControlFlow::Continue(());
            }
            let record = serde_json::from_str(&event.data).unwrap_or_default();
            match updates.send(TopUpdate::Request(record)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        is_open = match ended {
            Ok(()) => false,
            Err(error) => updates.send(TopUpdate::Failed(error)).is_ok(),
        };
        // Nothing unparks this thread: a pause before the next connection.
        thread::park_timeout(EACH);
    }
}

/// Returns when a signal asks the command to end. When the terminal is gone, it ends the process:
/// there is nothing to restore, and crossterm never returns from a terminal that is at its end.
fn wait_for_signal() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut term, mut hangup) =
            (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = term.recv() => {}
            _ = hangup.recv() => std::process::exit(1),
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}
