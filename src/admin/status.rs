//! `/api/*`: the same truths as the metrics, for people and programs that want names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shown;
use super::auth::problem;
use crate::clock;
use crate::live::breaker::cell::BreakerStatus;
use crate::live::operator_override::ActiveOverride;
use crate::snapshot::loader;
use crate::telemetry::events::Event;

/// `/api/status`.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    listener: String,
    policy: String,
    connections: i64,
    buffered_bytes: u64,
    providers: Vec<Provider>,
    routes: Vec<Route>,
}

#[derive(Debug, Serialize)]
struct Provider {
    name: String,
    in_flight: u32,
    limit: u32,
    waiting: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_hand: Option<ActiveOverride>,
    addresses: Vec<Address>,
}

#[derive(Debug, Serialize)]
struct Address {
    name: String,
    pending: u32,
    picked: u64,
    /// Time to the first byte, a moving average of peaks; absent when nothing was answered yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Route {
    name: String,
    balance: &'static str,
    /// Repeats that the route's budget could pay now.
    budget: f64,
}

pub async fn status(State(shown): State<Arc<Shown>>) -> Json<Status> {
    let now = clock::now();
    let snapshot = shown.current.load_full();
    let address = |address: &Arc<crate::snapshot::Endpoint>| {
        let latency = address.live.measured();
        Address {
            name: address.policy.name.clone(),
            pending: address.live.pending(),
            picked: address.live.picked(),
            latency_ms: latency.map(|latency| latency.as_secs_f64() * 1e3),
        }
    };
    let providers = snapshot.providers.iter().map(|provider| Provider {
        name: provider.policy.name.clone(),
        in_flight: provider.live.in_flight(),
        limit: provider.live.limit(),
        waiting: provider.live.waiting(),
        by_hand: provider.live.active_override(now),
        addresses: provider.endpoints.iter().map(address).collect(),
    });
    let routes = snapshot.routes.iter().map(|route| Route {
        name: route.policy.name.clone(),
        balance: route.policy.balance.as_str(),
        budget: route.live.balance(now),
    });
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: now.saturating_duration_since(shown.started).as_secs(),
        ready: shown.ready.load(Ordering::Acquire),
        listener: shown.listener.clone(),
        policy: snapshot.hash.chars().take(12).collect(),
        connections: shown.live.metrics.connections.get(),
        buffered_bytes: shown.live.buffers.used(),
        providers: providers.collect(),
        routes: routes.collect(),
    })
}

/// `/api/circuit-breakers`.
#[derive(Debug, Serialize)]
pub struct CircuitBreakers {
    breakers: Vec<BreakerStatus>,
    held: Vec<Held>,
    /// The latest changes, oldest first.
    events: Vec<Event>,
}

/// An endpoint that is held back, and for how long.
#[derive(Debug, Serialize)]
struct Held {
    key: String,
    left_ms: u64,
}

pub async fn circuit_breakers(State(shown): State<Arc<Shown>>) -> Json<CircuitBreakers> {
    let now = clock::now();
    let held = shown.live.held().into_iter().map(|(key, left_ms)| Held { key, left_ms });
    Json(CircuitBreakers {
        breakers: shown.live.breakers().iter().map(|cell| cell.status(now)).collect(),
        held: held.collect(),
        events: shown.live.events.all(),
    })
}

/// `/api/policies`.
pub async fn policies(State(shown): State<Arc<Shown>>) -> Json<loader::PolicyStatus> {
    Json(shown.loader.status())
}

/// `/api/fleet`.
pub async fn fleet(State(shown): State<Arc<Shown>>) -> Response {
    match &shown.fleet {
        Some(fleet) => Json(fleet.view().await).into_response(),
        None => {
            let detail = "this host is in no fleet (start it with --redis)";
            problem(StatusCode::NOT_FOUND, "no_fleet", detail)
        }
    }
}
