//! `/metrics`: what is counted as it goes, and what is read off at the moment of the scrape.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};

use super::Shown;
use crate::clock;
use crate::store::Millis;
use crate::telemetry::metrics::{
    EndpointLabels, JobLabels, ProviderLabels, QueueLabels, RateLabels, RouteLabels,
};
use crate::telemetry::prometheus_text::{CLASSIC, OPEN_METRICS, classic, wants_open_metrics};

/// OpenMetrics where it is asked for, as Prometheus does; else its classic format.
pub async fn metrics(State(shown): State<Arc<Shown>>, headers: HeaderMap) -> Response {
    shown.read_off();
    shown.read_off_store().await;
    let text = shown.live.metrics.encode();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let vary = (VARY, "accept");
    match wants_open_metrics(accept) {
        true => ([(CONTENT_TYPE, OPEN_METRICS), vary], text).into_response(),
        false => ([(CONTENT_TYPE, CLASSIC), vary], classic(&text)).into_response(),
    }
}

impl Shown {
    /// The same of what lies in the store; where it cannot be read, nothing is told.
    async fn read_off_store(&self) {
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

    /// Sets the gauges of what changes by itself; of what is no more, none is left.
    fn read_off(&self) {
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
            // Told here too: an end that came by itself is noticed by whoever looks.
            provider.live.is_drained(now);
            let name = &provider.policy.name;
            let labels = ProviderLabels { provider: name.clone() };
            let limit = i64::from(provider.live.limit());
            metrics.concurrency_limit.get_or_create_owned(&labels).set(limit);
            for (of, used) in ["requests", "tokens"].into_iter().zip(provider.live.rates_used()) {
                let Some(used) = used else { continue };
                let labels = RateLabels { provider: name.clone(), of };
                metrics.rate_limit_used.get_or_create_owned(&labels).set(used);
            }
            for address in &provider.endpoints {
                let labels = EndpointLabels {
                    provider: name.clone(),
                    endpoint: address.policy.name.clone(),
                };
                if let Some(latency) = address.live.measured() {
                    let seconds = latency.as_secs_f64();
                    metrics.endpoint_latency_seconds.get_or_create_owned(&labels).set(seconds);
                }
                metrics.held_credentials.get_or_create_owned(&labels).set(0);
            }
        }
        for (key, _) in self.live.held() {
            let mut parts = key.splitn(3, '/');
            let (Some(provider), Some(address)) = (parts.next(), parts.next()) else { continue };
            let labels =
                EndpointLabels { provider: provider.to_owned(), endpoint: address.to_owned() };
            metrics.held_credentials.get_or_create_owned(&labels).inc();
        }
    }
}
