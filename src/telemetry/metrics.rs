//! Every metric, one row each: name, shape, kind, labels, help.
//!
//! The table below is the only place where a metric is declared. Its handle, its registration, the
//! removal of its series after a reload and the reference (`docs/reference/metrics.md`) follow from
//! its row.
//!
//! A request touches atomics only: the handles of its route and its endpoint are resolved when the
//! snapshot is built (a lookup by labels costs twenty times an increment).

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::family::Series;
pub use super::labels::*;
use super::process::Process;
use super::{logging, panics};
use crate::clock;
use crate::resilience::stats::metric_sample::BUCKET_SECONDS;

/// A gauge of a number that can go down to zero.
pub type Level = Gauge<i64, AtomicI64>;
pub type Ratio = Gauge<f64, AtomicU64>;
pub type CostCounter = Counter<f64, AtomicU64>;

const CHANGES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 192.0, 256.0];

/// A type of metric as Prometheus sees it.
trait MetricKind {
    const NAME: &'static str;
    /// Appended to the name when the metric is exported.
    const SUFFIX: &'static str;
    fn create() -> Self;
}

macro_rules! metric_kinds {
    ($($metric:ty: $name:literal, $suffix:literal, $create:expr;)*) => {$(
        impl MetricKind for $metric {
            const NAME: &'static str = $name;
            const SUFFIX: &'static str = $suffix;
            fn create() -> Self {
                $create
            }
        }
    )*};
}

metric_kinds! {
    Counter: "counter", "_total", Counter::default();
    CostCounter: "counter", "_total", CostCounter::default();
    Level: "gauge", "", Level::default();
    Ratio: "gauge", "", Ratio::default();
    Histogram: "histogram", "", Histogram::new(BUCKET_SECONDS);
}

/// One row of the table, for the reference.
#[derive(Clone, Copy, Debug)]
pub struct MetricInfo {
    /// Without the prefix `outrigger_` and the suffix.
    pub name: &'static str,
    pub suffix: &'static str,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Three shapes: `series` is labelled, and `retain` removes the series of names that the policy no
/// longer declares; `family` is labelled, and the owner of a series removes it; `single` has no labels.
macro_rules! metrics {
    ($($name:ident: $shape:ident $kind:ident $([$labels:ident])? $(= $create:expr)?, $help:literal;)*) => {
        /// The handles of all metrics.
        #[derive(Debug)]
        pub struct Metrics {
            $(pub $name: metrics!(@type $shape $kind $($labels)?),)*
            registry: Registry,
        }

        /// Every metric but those of the process, which every Prometheus client exports alike.
        pub const METRICS: &[MetricInfo] = &[
            $(MetricInfo {
                name: stringify!($name),
                suffix: <$kind as MetricKind>::SUFFIX,
                kind: <$kind as MetricKind>::NAME,
                labels: metrics!(@labels $($labels)?),
                help: $help,
            },)*
            MetricInfo { name: "build", suffix: "_info", kind: "info", labels: &["version"], help: BUILD_HELP },
        ];

        impl Metrics {
            fn unregistered() -> Self {
                Metrics {
                    $($name: metrics!(@new $shape $kind $($create)?),)*
                    registry: Registry::default(),
                }
            }

            fn register(&mut self) {
                let registry = self.registry.sub_registry_with_prefix("outrigger");
                $(registry.register(stringify!($name), $help, metrics!(@handle $shape self.$name));)*
            }

            /// A registry of some of the metrics, without a prefix.
            pub fn registry_of(&self, names: &[&str]) -> Registry {
                let mut registry = Registry::default();
                $(if names.contains(&stringify!($name)) {
                    registry.register(stringify!($name), $help, metrics!(@handle $shape self.$name));
                })*
                registry
            }

            /// Removes the series of routes, providers and other names that are gone.
            pub fn retain(&self, names: &PolicyNames<'_>) {
                $(metrics!(@retain $shape self.$name, names);)*
            }
        }
    };
    (@type series $kind:ident $labels:ident) => { Series<$labels, $kind> };
    (@type family $kind:ident $labels:ident) => { Family<$labels, $kind> };
    (@type single $kind:ident) => { $kind };
    (@new series $kind:ident) => { Series::new(<$kind as MetricKind>::create) };
    (@new family $kind:ident) => { Family::default() };
    (@new single $kind:ident) => { <$kind as MetricKind>::create() };
    (@new single $kind:ident $create:expr) => { $create };
    (@labels) => { &[] };
    (@labels $labels:ident) => { <$labels as LabelSet>::NAMES };
    (@handle series $metrics:ident.$name:ident) => { $metrics.$name.family() };
    (@handle $shape:ident $metrics:ident.$name:ident) => { $metrics.$name.clone() };
    (@retain series $metrics:ident.$name:ident, $names:ident) => {
        $metrics.$name.retain(|labels| labels.is_declared($names))
    };
    (@retain $shape:ident $metrics:ident.$name:ident, $names:ident) => {};
}

metrics! {
    requests: series Counter [RequestLabels], "Completed requests of applications, by route and status class; not runs of jobs";
    request_duration_seconds: series Histogram [RouteLabels], "Time from the head of such a request to the last byte of its response";
    local_responses: series Counter [ReasonLabels], "Responses to applications that Outrigger produced itself, by problem type";
    retries: series Counter [ReasonLabels], "Attempts after the first, by the outcome that caused them";
    retries_succeeded: series Counter [ReasonLabels], "Requests that a retry completed after their first attempt had failed, by the outcome that caused the retry";
    retry_added_seconds: series Histogram [RouteLabels], "Time that such a request spent before its last attempt";
    retry_denied: series Counter [ReasonLabels], "Failed attempts that no retry followed, by reason";
    retry_budget: family Ratio [RouteLabels], "Retries that the budget allows now";
    retry_cost_budget: family Ratio [RouteLabels], "Cost that retries may still cause now, in the currency of the route's budget";
    not_replayable: series Counter [ReasonLabels], "Request bodies that could not be kept for another attempt, by reason";
    hedges: series Counter [ReasonLabels], "Hedged attempts, by result";
    interrupted_streams: series Counter [ReasonLabels], "Responses other than 5xx that broke after their first byte and that no other provider completed, by reason";
    stream_continuations: series Counter [ReasonLabels], "Attempts to continue an interrupted stream at another provider, by result";
    stream_events_dropped: series Counter [RouteLabels], "Stream events that could not be parsed";
    tokens: series Counter [TokenLabels], "Tokens as reported in responses";
    cost: series CostCounter [CostLabels], "Cost of the tokens at the prices of the policy";

    attempts: series Counter [AttemptLabels], "Attempts at an endpoint, by class of outcome";
    provider_requests: series Counter [ProviderRequestLabels], "Requests of the application that were sent to a provider, by what the application got in the end: `failed` is a status of 5xx or a broken response, whichever provider it came from";
    first_byte_seconds: series Histogram [ProviderLabels], "Time from the start of an attempt to the first byte of its response";
    attempts_in_flight: family Level [ProviderLabels], "Attempts in flight at a provider";
    endpoint_attempts_in_flight: family Level [EndpointLabels], "Attempts in flight at an endpoint";
    endpoint_latency_seconds: family Ratio [EndpointLabels], "Time to the first byte as the load balancer estimates it (peak EWMA)";
    waiting_requests: family Level [ProviderLabels], "Requests waiting for capacity of a provider";
    concurrency_limit: family Level [ProviderLabels], "Attempts that may be in flight at a provider";
    rate_limit_used: family Ratio [RateLabels], "Used share of a provider's burst of requests or tokens, 0 to 1";
    provider_drained: family Level [ProviderLabels], "1 while an operator has drained the provider";
    breaker_state: family Level [BreakerLabels], "0 closed, 1 half-open, 2 open";
    breaker_transitions: series Counter [TransitionLabels], "State changes of a breaker, by cause";
    breaker_rejections: family Counter [BreakerLabels], "Times that a breaker excluded its endpoint from a selection (in shadow mode: would have)";
    holds: series Counter [EndpointLabels], "Holds started, for example by Retry-After";
    held_credentials: family Level [EndpointLabels], "Holds in force now, of credentials and of models at them";

    queue_waiting_requests: family Level [ClassLabels], "Requests waiting in a queue, by class";
    queue_wait_seconds: series Histogram [ClassLabels], "Queue time of requests that were then sent to a provider";
    queue_sheds: series Counter [ShedLabels], "Requests that a queue rejected or timed out, by reason";

    cache_requests: series Counter [CacheResultLabels], "Requests of routes with a cache, by cache result";
    cache_evictions: series Counter [CacheLabels], "Stored responses evicted to make room";
    cache_bytes: family Level [CacheLabels], "Size of the stored responses";
    cache_entries: family Level [CacheLabels], "Keys with a stored response";

    degradation_active: series Level [ModeLabels], "1 while a degradation mode is active";
    degradation_transitions: series Counter [ModeTransitionLabels], "Degradation modes entered and left, by cause";
    degradation_requests: series Counter [ModeActionLabels], "Requests that an active mode affected (in shadow mode: would have affected), by action";
    degradation_signal: series Ratio [SignalLabels], "Current value of a signal of a mode's condition: seconds, a share or a count; 1 for true";
    degradation_notifications: series Counter [NotificationLabels], "Notifications of degradation modes, by result";

    regression_active: series Level [RegressionLabels], "1 while a measure of the calls of a route, provider and model is worse than its baseline";
    regressions: series Counter [RegressionLabels], "Regressions detected: a measure became worse than its baseline";
    host_regression: single Level, "1 while most series are worse than their baselines, so that this host or its network is the likely cause";

    benchmark_regressions: series Counter [BenchmarkLabels], "Runs of a benchmark that were worse than its baseline";
    benchmark_runs: series Counter [BenchmarkRunLabels], "Runs of benchmarks that have ended, by state";
    benchmark_latency_seconds: series Ratio [BenchmarkQuantileLabels], "Latency in the last complete run of a benchmark, by quantile";
    benchmark_error_rate: series Ratio [BenchmarkLabels], "Share of failed calls in the last complete run of a benchmark, 0 to 1";
    benchmark_throughput: series Ratio [BenchmarkLabels], "Successful calls in a second in the last complete run of a benchmark";

    jobs: family Level [JobLabels], "Jobs in the store, by queue and state";
    job_oldest_ready_seconds: family Ratio [QueueLabels], "Age of the oldest job that is ready to run";
    job_deliveries: series Counter [DeliveryLabels], "Runs of jobs and deliveries of results, by result";
    jobs_shared: single Level, "Jobs of this host that any host of the fleet may run now";
    jobs_borrowed: single Level, "Jobs of other hosts that run on this host";
    store_commit_seconds: single Histogram, "Duration of the store's commits, including the sync to disk";
    store_commit_changes: single Histogram = Histogram::new(CHANGES), "Changes in one commit of the store";
    store_commits_failed: single Counter, "Commits of the store that failed";

    fleet_connected: single Level, "1 while the fleet's Redis responds";
    fleet_hosts: single Level, "Live hosts of the fleet, this one included";
    fleet_redis_calls: family Counter [RedisCallLabels], "Calls to the fleet's Redis, by call and result";

    policy: family Level [PolicyLabels], "1 for the hash of the policy in force";
    credential_expiry_timestamp_seconds: family Level [ExpiryLabels], "Unix time at which a certificate, or a JSON Web Token among the credentials, expires";
    policy_reloads: family Counter [ReloadLabels], "Policy reloads, by result";
    policy_valid: single Level, "1 when the policy files as they are now are in force, 0 when they were rejected";
    connections: single Level, "Open connections of the application";
    connections_rejected: single Counter, "Connections rejected at the limit: server.connections, or fewer where the limit of open files is too low";
    buffered_bytes: single Level, "Bytes in all replay and response buffers";
    history_series_left_out: single Level, "Series of metrics for which the history of `/api/series` has no room";
    access_log_lines_dropped: single Counter, "Access-log lines that could not be written";
    daemon_log_lines_dropped: single Counter = logging::dropped_lines(), "Lines of the daemon's log that could not be written";
    trace_spans: family Counter [SpanLabels], "Spans of traced requests, by result of their export";
    panics: single Counter = panics::counter(), "Panics, each of which ended one request, one job or one load of the policy";
    admin_connections_closed: single Counter, "Connections to the admin and metrics listeners closed to make room for newer ones";
    admin_changes: family Counter [AdminLabels], "Manual overrides, and admin requests that were rejected";
}

const BUILD_HELP: &str = "Version of Outrigger";

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Metrics::unregistered();
        metrics.register();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let registry = metrics.registry.sub_registry_with_prefix("outrigger");
        registry.register("build", BUILD_HELP, build);
        metrics.registry.register_collector(Box::new(Process::new(clock::wall())));
        metrics
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }

    /// Replaces the hash of the policy in force.
    pub fn set_policy(&self, hash: &str) {
        self.policy.clear();
        self.policy.get_or_create_owned(&PolicyLabels { hash: hash.to_owned() }).set(1);
    }

    /// Counts one commit of the store.
    pub fn count_commit(&self, changes: usize, seconds: f64, failed: bool) {
        self.store_commit_seconds.observe(seconds);
        self.store_commit_changes.observe(changes as f64);
        if failed {
            self.store_commits_failed.inc();
        }
    }

    /// Counts one call to Redis.
    pub fn count_redis_call(&self, call: &'static str, ok: bool) {
        let labels = RedisCallLabels { call, result: if ok { "ok" } else { "failed" } };
        self.fleet_redis_calls.get_or_create_owned(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_policy_hash_is_exported() {
        let metrics = Metrics::new();
        metrics.set_policy("aaa");
        metrics.set_policy("bbb");
        let text = metrics.encode();
        assert!(text.contains("outrigger_policy{hash=\"bbb\"} 1"));
        assert!(!text.contains("aaa") && text.ends_with("# EOF\n"));
    }

    #[test]
    fn series_of_removed_names_are_removed() {
        let metrics = Metrics::new();
        for route in ["old", "new", NO_ROUTE] {
            let labels = ReasonLabels { route: route.to_owned(), reason: "no-route" };
            metrics.local_responses.with(&labels).inc();
        }
        metrics.retain(&PolicyNames { routes: ["new"].into(), ..PolicyNames::default() });
        let text = metrics.encode();
        assert!(text.contains("route=\"new\"") && text.contains("route=\"-\""));
        assert!(!text.contains("route=\"old\""));
    }
}
