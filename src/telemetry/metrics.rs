//! Every metric that Outrigger tells, in one place, as handles made beforehand.
//!
//! A request touches atomics only: its route's and its endpoint's handles are resolved when the
//! snapshot is built (a lookup by labels costs twenty times an increment). Label values come from
//! the policy, or from a bounded set, so that no application can make the series grow.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::cache::CacheMetrics;
use super::degradation::DegradationMetrics;
use super::family::Series;
use super::fleet::FleetMetrics;
use super::jobs::JobMetrics;
pub use super::known::Known;
pub use super::labels::*;
use super::process::Process;
use crate::clock;

/// Bounds from 1 ms to 5 min: an LLM's answer takes minutes, a refusal microseconds.
pub const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A gauge of a number that may go down to zero.
pub type Level = Gauge<i64, AtomicI64>;
pub type Ratio = Gauge<f64, AtomicU64>;
pub type CostCounter = Counter<f64, AtomicU64>;

pub(super) fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// What a request that no route takes has in its place.
pub const NO_ROUTE: &str = "-";

/// The families. Handles of one label set are taken when a snapshot is built.
#[derive(Debug)]
pub struct Metrics {
    pub requests: Series<RequestLabels, Counter>,
    pub refused: Series<ReasonLabels, Counter>,
    pub request_seconds: Series<RouteLabels, Histogram>,
    pub repeats: Series<ReasonLabels, Counter>,
    pub not_repeated: Series<ReasonLabels, Counter>,
    pub attempts: Series<AttemptLabels, Counter>,
    pub first_byte_seconds: Series<ProviderLabels, Histogram>,
    pub in_flight: Family<ProviderLabels, Level>,
    pub waiting: Family<ProviderLabels, Level>,
    pub queue_waiting: Family<ClassLabels, Level>,
    pub queue_seconds: Series<ClassLabels, Histogram>,
    pub queue_sheds: Series<ShedLabels, Counter>,
    pub rate_used: Family<RateLabels, Ratio>,
    pub drained: Family<ProviderLabels, Level>,
    pub pending: Family<AddressLabels, Level>,
    pub breaker_state: Family<BreakerLabels, Level>,
    pub breaker_transitions: Series<TransitionLabels, Counter>,
    pub breaker_rejections: Family<BreakerLabels, Counter>,
    pub holds: Series<AddressLabels, Counter>,
    pub retry_budget: Family<RouteLabels, Ratio>,
    pub concurrency_limit: Family<ProviderLabels, Level>,
    pub latency_seconds: Family<AddressLabels, Ratio>,
    pub held: Family<AddressLabels, Level>,
    pub policy: Family<PolicyLabels, Level>,
    pub reloads: Family<ReloadLabels, Counter>,
    pub policy_valid: Level,
    pub connections: Level,
    pub connections_refused: Counter,
    pub buffered_bytes: Level,
    pub unbuffered: Series<ReasonLabels, Counter>,
    pub hedges: Series<ReasonLabels, Counter>,
    pub cuts: Series<ReasonLabels, Counter>,
    pub continuations: Series<ReasonLabels, Counter>,
    pub events_dropped: Series<RouteLabels, Counter>,
    pub tokens: Series<TokenLabels, Counter>,
    pub cost: Series<CostLabels, CostCounter>,
    pub cost_budget: Family<RouteLabels, Ratio>,
    pub access_log_dropped: Counter,
    pub admin_changes: Family<AdminLabels, Counter>,
    pub cache: CacheMetrics,
    pub degradation: DegradationMetrics,
    pub jobs: JobMetrics,
    pub fleet: FleetMetrics,
    registry: Registry,
    told: Vec<(String, &'static str)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Metrics::unregistered();
        metrics.register();
        metrics
    }

    fn unregistered() -> Self {
        Metrics {
            requests: Series::new(Counter::default),
            refused: Series::new(Counter::default),
            request_seconds: Series::new(seconds),
            repeats: Series::new(Counter::default),
            not_repeated: Series::new(Counter::default),
            attempts: Series::new(Counter::default),
            first_byte_seconds: Series::new(seconds),
            in_flight: Family::default(),
            waiting: Family::default(),
            queue_waiting: Family::default(),
            queue_seconds: Series::new(seconds),
            queue_sheds: Series::new(Counter::default),
            rate_used: Family::default(),
            drained: Family::default(),
            pending: Family::default(),
            breaker_state: Family::default(),
            breaker_transitions: Series::new(Counter::default),
            breaker_rejections: Family::default(),
            holds: Series::new(Counter::default),
            retry_budget: Family::default(),
            concurrency_limit: Family::default(),
            latency_seconds: Family::default(),
            held: Family::default(),
            policy: Family::default(),
            reloads: Family::default(),
            policy_valid: Level::default(),
            connections: Level::default(),
            connections_refused: Counter::default(),
            buffered_bytes: Level::default(),
            unbuffered: Series::new(Counter::default),
            hedges: Series::new(Counter::default),
            cuts: Series::new(Counter::default),
            continuations: Series::new(Counter::default),
            events_dropped: Series::new(Counter::default),
            tokens: Series::new(Counter::default),
            cost: Series::new(CostCounter::default),
            cost_budget: Family::default(),
            access_log_dropped: Counter::default(),
            admin_changes: Family::default(),
            cache: CacheMetrics::new(),
            degradation: DegradationMetrics::new(),
            jobs: JobMetrics::new(),
            fleet: FleetMetrics::default(),
            registry: Registry::default(),
            told: Vec::new(),
        }
    }

    fn register(&mut self) {
        self.register_requests();
        self.register_answers();
        self.register_endpoints();
        self.register_queues();
        CacheMetrics::register(self);
        DegradationMetrics::register(self);
        JobMetrics::register(self);
        FleetMetrics::register(self);
        self.register_process();
        let process = Process::new(clock::wall());
        self.registry.register_collector(Box::new(process));
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = prometheus_client::metrics::info::Info::new(version);
        self.tell("build", "The version that runs", build);
    }

    fn register_requests(&mut self) {
        self.tell("requests", "Requests answered, by route and status", self.requests.family());
        self.tell(
            "request_seconds",
            "From the request's head to the answer's last byte",
            self.request_seconds.family(),
        );
        self.tell("refused", "Answers of the sidecar's own, by problem", self.refused.family());
        self.tell(
            "retry_budget",
            "Repeats that the budget could pay now",
            self.retry_budget.clone(),
        );
        self.tell("repeats", "Attempts after the first, by reason", self.repeats.family());
        self.tell(
            "not_repeated",
            "Failed attempts that were not repeated, by what forbade it",
            self.not_repeated.family(),
        );
        self.tell(
            "unbuffered",
            "Bodies that could not be kept for another attempt, by reason",
            self.unbuffered.family(),
        );
    }

    fn register_answers(&mut self) {
        self.tell(
            "hedges",
            "Attempts sent beside one that took long, by result",
            self.hedges.family(),
        );
        self.tell(
            "cuts",
            "Answers that broke after their first byte, by reason",
            self.cuts.family(),
        );
        self.tell(
            "continuations",
            "Cut answers that another provider was to go on from, by result",
            self.continuations.family(),
        );
        self.tell(
            "events_dropped",
            "Events of streams that could not be read",
            self.events_dropped.family(),
        );
        self.tell("tokens", "Tokens as the answers say them", self.tokens.family());
        self.tell("cost", "What the tokens cost by the prices of the policy", self.cost.family());
        self.tell(
            "cost_budget",
            "What repeats may still cost now, in the currency of the route's budget",
            self.cost_budget.clone(),
        );
    }

    fn register_endpoints(&mut self) {
        self.tell(
            "attempts",
            "Attempts at an address, by class of outcome",
            self.attempts.family(),
        );
        self.tell(
            "first_byte_seconds",
            "From the attempt's start to its first byte, by provider",
            self.first_byte_seconds.family(),
        );
        self.tell("in_flight", "Attempts in flight at a provider", self.in_flight.clone());
        self.tell("waiting", "Requests that wait for room at a provider", self.waiting.clone());
        self.tell(
            "provider_drained",
            "1 while a provider is taken out by hand",
            self.drained.clone(),
        );
        self.tell(
            "concurrency_limit",
            "Attempts that may be in flight at a provider",
            self.concurrency_limit.clone(),
        );
        self.tell(
            "latency_seconds",
            "Time to the first byte of an address, as the balancer remembers it; a moving average of peaks",
            self.latency_seconds.clone(),
        );
        self.tell("held", "Credentials that wait as their provider asked, now", self.held.clone());
        self.tell("pending", "Attempts in flight at an address", self.pending.clone());
        self.tell("breaker_state", "0 closed, 1 half-open, 2 open", self.breaker_state.clone());
        self.tell(
            "breaker_transitions",
            "Changes of a breaker's state, by cause",
            self.breaker_transitions.family(),
        );
        self.tell(
            "breaker_rejections",
            "Attempts that a breaker refused (in shadow: would have refused)",
            self.breaker_rejections.clone(),
        );
        self.tell("holds", "Times that an endpoint asked to wait", self.holds.family());
    }

    fn register_queues(&mut self) {
        self.tell(
            "rate_used",
            "What of a provider's burst of requests or tokens is used now, from 0 to 1",
            self.rate_used.clone(),
        );
        self.tell(
            "queue_waiting",
            "Requests that wait, by queue and class",
            self.queue_waiting.clone(),
        );
        self.tell(
            "queue_wait_seconds",
            "How long requests waited that went to a provider then",
            self.queue_seconds.family(),
        );
        self.tell(
            "queue_sheds",
            "Requests that could not wait, or no longer, by reason",
            self.queue_sheds.family(),
        );
    }

    fn register_process(&mut self) {
        self.tell("policy", "1 for the hash of the policy in force", self.policy.clone());
        self.tell("policy_reloads", "Loads of the policy, by result", self.reloads.clone());
        self.tell(
            "policy_valid",
            "1 when the files' last state is in force, 0 when it was rejected",
            self.policy_valid.clone(),
        );
        self.tell("connections", "Connections of the application", self.connections.clone());
        self.tell(
            "connections_refused",
            "Connections past `server.connections`",
            self.connections_refused.clone(),
        );
        self.tell(
            "buffered_bytes",
            "Bytes of all replay and answer buffers together",
            self.buffered_bytes.clone(),
        );
        self.tell(
            "access_log_dropped",
            "Access-log lines that could not be written",
            self.access_log_dropped.clone(),
        );
        self.tell(
            "admin_changes",
            "Changes by hand, and requests that the admin side refused",
            self.admin_changes.clone(),
        );
    }

    pub(super) fn tell(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        let suffix = match metric.metric_type() {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        self.told.push((format!("outrigger_{name}{suffix}"), help));
        self.registry.sub_registry_with_prefix("outrigger").register(name, help, metric);
    }

    /// Every metric of our own by the name that it is queried by, and what it tells.
    pub fn told(&self) -> &[(String, &'static str)] {
        &self.told
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }

    /// Says which policy is in force; the one before it is no longer told.
    pub fn set_policy(&self, hash: &str) {
        self.policy.clear();
        self.policy.get_or_create_owned(&PolicyLabels { hash: hash.to_owned() }).set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_policy_at_a_time_is_in_force() {
        let metrics = Metrics::new();
        metrics.set_policy("aaa");
        metrics.set_policy("bbb");
        let text = metrics.encode();
        assert!(text.contains("outrigger_policy{hash=\"bbb\"} 1"));
        assert!(!text.contains("aaa") && text.ends_with("# EOF\n"));
    }
}
