//! The admin side: what is in force, what is broken, how much of everything.
//!
//! It runs on a thread of its own, so that no dashboard slows a request. What changes something
//! goes past `guard` and leaves a line in the log. A second, smaller router serves metrics and health
//! alone, for scrapes from outside the pod.

mod auth;
mod caches;
mod degradation;
mod jobs;
mod metrics;
mod overrides;
mod queue;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use auth::{Access, Token, TokenError, token_text};

use crate::cache::Caches;
use crate::degradation::history::EpisodeHistory;
use crate::fleet::Fleet;
use crate::live::Live;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::loader::Loader;
use crate::store::Store;

/// What the admin side shows.
#[derive(Debug)]
pub struct Shown {
    pub live: Arc<Live>,
    pub caches: Arc<Caches>,
    pub current: Arc<CurrentSnapshot>,
    pub loader: Arc<Loader>,
    /// A policy is in force and the listener is open.
    pub ready: AtomicBool,
    pub started: Instant,
    pub listener: String,
    pub access: Access,
    /// `None`: no job is taken.
    pub store: Option<Store>,
    /// `None`: this host is by itself.
    pub fleet: Option<Fleet>,
    pub past: Arc<EpisodeHistory>,
}

/// Serves metrics, health and the API until the process ends.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(listener: TcpListener, shown: Arc<Shown>) -> std::io::Result<()> {
    let router = health()
        .route("/api/status", get(status::status))
        .route("/api/circuit-breakers", get(status::circuit_breakers))
        .route("/api/policies", get(status::policies))
        .route("/api/fleet", get(status::fleet))
        .route("/api/circuit-breakers/{action}/{*key}", post(overrides::breaker))
        .route("/api/degradation", get(degradation::overview))
        .route("/api/degradation/{action}/{name}", post(degradation::change))
        .route("/api/queue", get(queue::overview))
        .route("/api/queue/{action}/{name}", post(queue::change))
        .route("/api/queue/jobs", get(jobs::list))
        .route("/api/queue/jobs/{id}", get(jobs::one))
        .route("/api/queue/jobs/{action}/{id}", post(jobs::change))
        .route("/api/caches", get(caches::overview))
        .route("/api/caches/{action}/{name}", post(caches::change))
        .route("/api/providers/{action}/{name}", post(overrides::provider))
        .layer(from_fn_with_state(Arc::clone(&shown), auth::guard))
        .with_state(shown);
    axum::serve(listener, router).await
}

/// Serves metrics and health alone.
///
/// # Errors
/// When the listener breaks.
pub async fn serve_metrics(listener: TcpListener, shown: Arc<Shown>) -> std::io::Result<()> {
    axum::serve(listener, health().with_state(shown)).await
}

/// Whether an address needs no token.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}

fn health() -> Router<Arc<Shown>> {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
}

async fn readyz(State(shown): State<Arc<Shown>>) -> (StatusCode, &'static str) {
    if shown.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n")
    }
}
