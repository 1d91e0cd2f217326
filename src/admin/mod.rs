//! The admin API: status, manual overrides, metrics and health.
//!
//! It runs on the control thread, so that no dashboard slows a request. Each area has one file with
//! its response types, its handlers and its `routes()`; the CLI reads the same types.
//! `docs/reference/admin-api.md` is generated from the routes. `ui` serves the dashboard. A second listener can serve metrics
//! and health alone, for scrapes from outside the pod.

pub mod analytics;
mod auth;
pub mod benchmarks;
pub mod breakers;
pub mod caches;
pub mod change;
pub mod degradation;
pub mod error;
pub mod history;
pub mod jobs;
mod listener;
mod metrics;
pub mod openapi;
pub mod providers;
pub mod queue;
pub mod recommendations;
mod routes;
pub mod selection;
pub mod state;
pub mod status;
mod ui;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;

pub use auth::{Access, Token, TokenError, read_token};
use listener::AdminListener;
use routes::{ApiJson, ApiRoutes};
use serde_json::{Map, Value};
use state::AdminState;

fn all_routes() -> ApiRoutes {
    metrics::routes()
        .merge(status::routes())
        .merge(analytics::routes())
        .merge(recommendations::routes())
        .merge(breakers::routes())
        .merge(providers::routes())
        .merge(degradation::routes())
        .merge(queue::routes())
        .merge(jobs::routes())
        .merge(caches::routes())
        .merge(selection::routes())
        .merge(benchmarks::routes())
        .merge(history::requests::routes())
        .merge(history::events::routes())
        .merge(history::series::routes())
        .merge(description())
        .with_index()
}

fn description() -> ApiRoutes {
    ApiRoutes::default().get::<Map<String, Value>, _>(
        "/api/openapi.json",
        "Describes this API in OpenAPI 3.1.",
        async || ApiJson(DESCRIPTION.clone()),
    )
}

/// The description of the API in OpenAPI 3.1.
pub static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| openapi::document::document(&all_routes().endpoints));

/// Serves metrics, health and the API until the process ends.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) {
    let authorize = from_fn_with_state(Arc::clone(&state), auth::authorize);
    let listener = AdminListener::new("admin", listener, &state);
    let router =
        all_routes().into_router().merge(ui::router()).layer(from_fn(ui::redirect_browsers));
    listener.serve(router.layer(authorize).with_state(state)).await;
}

/// Serves metrics and health alone.
pub async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>) {
    let listener = AdminListener::new("metrics", listener, &state);
    let router =
        metrics::routes().with_index().into_router().layer(from_fn(auth::reject_ambiguous));
    listener.serve(router.with_state(state)).await;
}

/// Whether only this host can connect to an address.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}
