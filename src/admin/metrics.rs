//! `/metrics`, `/healthz` and `/readyz`, the only paths of the metrics listener.
//!
//! Counters are updated as events occur. Gauges of state that changes with time are set at each
//! scrape (`history/gauges.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::routes::ApiRoutes;
use super::state::AdminState;
use crate::clock;
use crate::history::gauges;
use crate::telemetry::prometheus_text::{CLASSIC, OPEN_METRICS, classic, wants_open_metrics};

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<String, _>(
            "/metrics",
            "Metrics in the OpenMetrics format, or in the classic Prometheus format when `Accept` does \
             not name OpenMetrics.",
            metrics,
        )
        .get::<String, _>("/healthz", "`ok` while the process runs. Needs no token.", healthz)
        .get::<String, _>(
            "/readyz",
            "200 when a policy is in force and the listener is open, else 503. Needs no token.",
            readyz,
        )
        .or(StatusCode::SERVICE_UNAVAILABLE)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Arc<AdminState>>) -> (StatusCode, &'static str) {
    if admin.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n")
    }
}

async fn metrics(State(admin): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let snapshot = admin.current.load_full();
    gauges::refresh(&admin.live, &snapshot, clock::now());
    gauges::refresh_jobs(&admin.live.metrics, &snapshot, admin.store.as_ref()).await;
    let text = admin.live.metrics.encode();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let vary = (VARY, "accept");
    match wants_open_metrics(accept) {
        true => {
            let text = admin.live.exemplars.add_to(text);
            ([(CONTENT_TYPE, OPEN_METRICS), vary], text).into_response()
        }
        false => ([(CONTENT_TYPE, CLASSIC), vary], classic(&text)).into_response(),
    }
}
