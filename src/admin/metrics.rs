//! `/metrics`, `/healthz` and `/readyz`, the only paths of the metrics listener.
//!
//! Counters are updated as events occur. Gauges of state that changes with time are set at each
//! scrape.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::routes::ApiRoutes;
use super::state::AdminState;
use crate::clock;
use crate::live::credential_cell::HeldCredential;
use crate::snapshot;
use crate::store::Millis;
use crate::telemetry::metrics::{
    EndpointLabels, JobLabels, ProviderLabels, QueueLabels, RateLabels, RouteLabels,
};
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
    admin.refresh_gauges();
    admin.refresh_job_gauges().await;
    let text = admin.live.metrics.encode();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let vary = (VARY, "accept");
    match wants_open_metrics(accept) {
        true => ([(CONTENT_TYPE, OPEN_METRICS), vary], text).into_response(),
        false => ([(CONTENT_TYPE, CLASSIC), vary], classic(&text)).into_response(),
    }
}

impl AdminState {
    /// Sets the gauges of durable jobs. They are absent when the store cannot be read.
    async fn refresh_job_gauges(&self) {
        let metrics = &self.live.metrics;
        metrics.jobs.clear();
        metrics.job_oldest_ready_seconds.clear();
        let Some(store) = &self.store else { return };
        let snapshot = self.current.load_full();
        let names: Vec<_> = snapshot.policy.queues.iter().map(|q| q.name.clone()).collect();
        let Ok(totals) = store.totals().await else { return };
        for total in totals {
            let labels = JobLabels { queue: total.queue, state: total.state.as_str() };
            metrics.jobs.get_or_create_owned(&labels).set(total.jobs as i64);
        }
        let Ok(oldest) = store.oldest(names.clone()).await else { return };
        let now = Millis::of(clock::wall());
        for (queue, oldest) in names.into_iter().zip(oldest) {
            let age = oldest.map_or(0.0, |oldest| oldest.until(now).as_secs_f64());
            metrics.job_oldest_ready_seconds.get_or_create_owned(&QueueLabels { queue }).set(age);
        }
    }

    /// Sets the gauges of routes and providers, and removes those of former ones.
    fn refresh_gauges(&self) {
        let (now, snapshot, metrics) = (clock::now(), self.current.load_full(), &self.live.metrics);
        metrics.retry_budget.clear();
        metrics.retry_cost_budget.clear();
        for route in &snapshot.routes {
            let labels = RouteLabels { route: route.policy.name.clone() };
            metrics.retry_budget.get_or_create_owned(&labels).set(route.live.balance(now));
            if let Some(left) = route.live.cost_left(now) {
                metrics.retry_cost_budget.get_or_create_owned(&labels).set(left);
            }
        }
        metrics.concurrency_limit.clear();
        metrics.endpoint_latency_seconds.clear();
        metrics.held_credentials.clear();
        metrics.rate_limit_used.clear();
        for provider in &snapshot.providers {
            let name = &provider.policy.name;
            self.refresh_provider_gauges(name, provider);
            for address in &provider.endpoints {
                self.refresh_address_gauges(name, address);
            }
        }
        for HeldCredential { key, .. } in self.live.held() {
            let labels = EndpointLabels { provider: key.provider, endpoint: key.endpoint };
            metrics.held_credentials.get_or_create_owned(&labels).inc();
        }
    }

    fn refresh_provider_gauges(&self, name: &str, provider: &snapshot::Provider) {
        let (now, metrics) = (clock::now(), &self.live.metrics);
        // A drain that has ended by itself is noticed by a reader.
        provider.live.is_drained(now);
        let labels = ProviderLabels { provider: name.to_owned() };
        let limit = i64::from(provider.live.limit());
        metrics.concurrency_limit.get_or_create_owned(&labels).set(limit);
        for (of, used) in ["requests", "tokens"].into_iter().zip(provider.rates_used(now)) {
            let Some(used) = used else { continue };
            let labels = RateLabels { provider: name.to_owned(), of };
            metrics.rate_limit_used.get_or_create_owned(&labels).set(used);
        }
    }

    fn refresh_address_gauges(&self, provider: &str, address: &snapshot::Endpoint) {
        let metrics = &self.live.metrics;
        let endpoint = address.policy.name.clone();
        let labels = EndpointLabels { provider: provider.to_owned(), endpoint };
        if let Some(latency) = address.live.measured() {
            let seconds = latency.as_secs_f64();
            metrics.endpoint_latency_seconds.get_or_create_owned(&labels).set(seconds);
        }
        metrics.held_credentials.get_or_create_owned(&labels).set(0);
    }
}
