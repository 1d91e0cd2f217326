//! The metrics whose history is kept.

use crate::resilience::stats::metric_sample::SampledKind;
use crate::telemetry::metrics::METRICS;

/// The metrics with a history. The store holds their positions: new ones are appended, and none is
/// removed or moved.
pub const SAMPLED: &[&str] = &[
    "requests",
    "request_duration_seconds",
    "local_responses",
    "retries",
    "retry_denied",
    "retry_budget",
    "retry_cost_budget",
    "not_replayable",
    "hedges",
    "interrupted_streams",
    "stream_continuations",
    "tokens",
    "cost",
    "attempts",
    "first_byte_seconds",
    "attempts_in_flight",
    "endpoint_attempts_in_flight",
    "endpoint_latency_seconds",
    "waiting_requests",
    "concurrency_limit",
    "rate_limit_used",
    "provider_drained",
    "breaker_state",
    "breaker_transitions",
    "breaker_rejections",
    "holds",
    "held_credentials",
    "queue_waiting_requests",
    "queue_wait_seconds",
    "queue_sheds",
    "cache_requests",
    "cache_evictions",
    "cache_bytes",
    "cache_entries",
    "degradation_active",
    "degradation_transitions",
    "degradation_requests",
    "degradation_signal",
    "regression_active",
    "regressions",
    "jobs",
    "job_oldest_ready_seconds",
    "job_deliveries",
    "fleet_connected",
    "fleet_hosts",
    "fleet_redis_calls",
    "connections",
    "connections_rejected",
    "buffered_bytes",
    "admin_changes",
    "retries_succeeded",
    "retry_added_seconds",
    "provider_requests",
];

/// Those that are also sampled every second, for the rates of the last minute.
pub const EACH_SECOND: &[&str] = &[
    "requests",
    "request_duration_seconds",
    "local_responses",
    "retries",
    "cost",
    "attempts",
    "first_byte_seconds",
    "provider_requests",
];

/// The number of a metric.
pub fn number_of(metric: &str) -> Option<u16> {
    let position = SAMPLED.iter().position(|name| *name == metric)?;
    u16::try_from(position).ok()
}

pub fn kind_of(metric: &str) -> SampledKind {
    let info = METRICS.iter().find(|info| info.name == metric);
    match info.map(|info| info.kind) {
        Some("counter") => SampledKind::Rate,
        Some("histogram") => SampledKind::Quantile,
        _ => SampledKind::Level,
    }
}

/// The names of the labels of a metric.
pub fn labels_of(metric: &str) -> &'static [&'static str] {
    METRICS.iter().find(|info| info.name == metric).map_or(&[], |info| info.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MAX_METRICS;

    #[test]
    fn every_sampled_metric_exists_once() {
        for (at, name) in SAMPLED.iter().enumerate() {
            assert!(METRICS.iter().any(|info| info.name == *name), "{name}");
            assert_eq!(number_of(name), Some(at as u16));
        }
        assert!(SAMPLED.len() <= MAX_METRICS);
        assert!(EACH_SECOND.iter().all(|name| SAMPLED.contains(name)));
    }
}
