//! The admin API: status, manual overrides, metrics and health.
//!
//! It runs on the control thread, so that no dashboard slows a request. Each area has one file with
//! its response types, its handlers and its `routes()`; the CLI reads the same types.
//! `docs/reference/admin-api.md` is generated from the routes. A second listener can serve metrics
//! and health alone, for scrapes from outside the pod.

mod auth;
pub mod breakers;
pub mod caches;
pub mod change;
pub mod degradation;
pub mod error;
mod fleet;
pub mod jobs;
mod metrics;
mod policies;
pub mod providers;
pub mod queue;
mod routes;
pub mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::middleware::from_fn_with_state;
use tokio::net::TcpListener;

pub use auth::{Access, Token, TokenError, read_token};
pub use routes::ApiEndpoint;
use routes::ApiRoutes;

use crate::cache::CacheRegistry;
use crate::degradation::history::EpisodeHistory;
use crate::fleet::Fleet;
use crate::live::Live;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::loader::Loader;
use crate::store::Store;

/// The parts of the sidecar that the API reads and changes.
#[derive(Debug)]
pub struct AdminState {
    pub live: Arc<Live>,
    pub caches: Arc<CacheRegistry>,
    pub current: Arc<CurrentSnapshot>,
    pub loader: Arc<Loader>,
    /// A policy is in force and the listener is open.
    pub ready: AtomicBool,
    pub started: Instant,
    pub listener: String,
    pub access: Access,
    /// `None`: the sidecar accepts no jobs.
    pub store: Option<Store>,
    /// `None`: the host is in no fleet.
    pub fleet: Option<Fleet>,
    pub episodes: Arc<EpisodeHistory>,
}

fn all_routes() -> ApiRoutes {
    metrics::routes()
        .merge(status::routes())
        .merge(policies::routes())
        .merge(breakers::routes())
        .merge(providers::routes())
        .merge(degradation::routes())
        .merge(queue::routes())
        .merge(jobs::routes())
        .merge(caches::routes())
        .merge(fleet::routes())
}

/// Every endpoint of the API.
pub fn endpoints() -> Vec<ApiEndpoint> {
    all_routes().endpoints
}

/// Serves metrics, health and the API until the process ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) -> std::io::Result<()> {
    let authorize = from_fn_with_state(Arc::clone(&state), auth::authorize);
    let router = all_routes().into_router().layer(authorize).with_state(state);
    axum::serve(listener, router).await
}

/// Serves metrics and health alone.
///
/// # Errors
/// When the listener fails.
pub async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>) -> std::io::Result<()> {
    axum::serve(listener, metrics::routes().into_router().with_state(state)).await
}

/// Whether only this host can connect to an address.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}
