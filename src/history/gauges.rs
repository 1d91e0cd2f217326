//! Gauges of state that changes with time. They are set before each reading: at a scrape, and at
//! each sample.

use std::time::{Instant, SystemTime};

use crate::clock;
use crate::live::Live;
use crate::live::credential_cell::HeldCredential;
use crate::snapshot::expiries::CredentialExpiry;
use crate::snapshot::{Endpoint, Provider, Snapshot};
use crate::store::{Millis, Store};
use crate::telemetry::metrics::{
    EndpointLabels, ExpiryLabels, JobLabels, Metrics, ProviderLabels, QueueLabels, RateLabels,
    RouteLabels,
};

/// Sets the gauges of routes and providers, and removes those of former ones.
pub fn refresh(live: &Live, snapshot: &Snapshot, now: Instant) {
    let metrics = &live.metrics;
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
        refresh_provider(metrics, provider, now);
        for endpoint in &provider.endpoints {
            refresh_endpoint(metrics, &provider.policy.name, endpoint);
        }
    }
    metrics.credential_expiry_timestamp_seconds.clear();
    for CredentialExpiry { kind, owner, at, .. } in &snapshot.expiries {
        let labels = ExpiryLabels { kind: kind.as_str(), owner: owner.clone() };
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        metrics.credential_expiry_timestamp_seconds.get_or_create_owned(&labels).set(seconds);
    }
    for HeldCredential { key, .. } in live.held() {
        let labels = EndpointLabels { provider: key.provider, endpoint: key.endpoint };
        metrics.held_credentials.get_or_create_owned(&labels).inc();
    }
}

fn refresh_provider(metrics: &Metrics, provider: &Provider, now: Instant) {
    // A drain that has ended by itself is noticed by a reader.
    provider.live.is_drained(now);
    let name = &provider.policy.name;
    let labels = ProviderLabels { provider: name.clone() };
    let limit = i64::from(provider.live.limit());
    metrics.concurrency_limit.get_or_create_owned(&labels).set(limit);
    for (of, used) in ["requests", "tokens"].into_iter().zip(provider.rates_used(now)) {
        let Some(used) = used else { continue };
        let labels = RateLabels { provider: name.clone(), of };
        metrics.rate_limit_used.get_or_create_owned(&labels).set(used);
    }
}

fn refresh_endpoint(metrics: &Metrics, provider: &str, endpoint: &Endpoint) {
    let name = endpoint.policy.name.clone();
    let labels = EndpointLabels { provider: provider.to_owned(), endpoint: name };
    if let Some(latency) = endpoint.live.measured() {
        let seconds = latency.as_secs_f64();
        metrics.endpoint_latency_seconds.get_or_create_owned(&labels).set(seconds);
    }
    metrics.held_credentials.get_or_create_owned(&labels).set(0);
}

/// Sets the gauges of durable jobs. They are absent when the store cannot be read.
pub async fn refresh_jobs(metrics: &Metrics, snapshot: &Snapshot, store: Option<&Store>) {
    let Some(store) = store else { return };
    let names: Vec<_> = snapshot.policy.queues.iter().map(|q| q.name.clone()).collect();
    let totals = store.totals().await.unwrap_or_default();
    let oldest = store.oldest(names.clone()).await.unwrap_or_default();
    // Without a pause from here on: a sample may be taken in each.
    metrics.jobs.clear();
    metrics.job_oldest_ready_seconds.clear();
    for total in totals {
        let labels = JobLabels { queue: total.queue, state: total.state.as_str() };
        metrics.jobs.get_or_create_owned(&labels).set(total.jobs as i64);
    }
    let now = Millis::of(clock::wall());
    for (queue, oldest) in names.into_iter().zip(oldest) {
        let age = oldest.map_or(0.0, |oldest| oldest.until(now).as_secs_f64());
        metrics.job_oldest_ready_seconds.get_or_create_owned(&QueueLabels { queue }).set(age);
    }
}
