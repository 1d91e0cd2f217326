//! One request, from start to end. `handler.rs` reads as its table of contents.
//!
//! A request stays on the thread of its worker, so futures here need not be `Send`. If the client
//! disconnects, the future of the request is dropped, which releases its place, permit and buffers.

pub mod access_log;
mod attempt;
pub mod caching;
mod degradation;
pub mod detached;
mod dispatch;
pub mod downstream;
mod handler;
pub mod jobs;
mod request;
mod response;
mod signals;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use downstream::worker::{self, WorkerCommand, WorkerLoad, WorkerShared};
use handler::Handler;

/// Runs a worker within the current runtime and local set, until it has drained.
pub async fn run_worker(
    shared: WorkerShared,
    load: Arc<WorkerLoad>,
    commands: UnboundedReceiver<WorkerCommand>,
) {
    worker::run(shared, load, commands, Handler).await;
}

pub use request::model_name::model_in_path;
