//! The policy in the form that the request path reads: one immutable snapshot, swapped atomically.
//!
//! A request loads the snapshot once, without a lock, and keeps its `Arc<Route>` to the end, so
//! that it sees one policy throughout. Everything that a request would have to look up is resolved
//! beforehand: matchers, header values, metric handles, dial targets, live state by name.

pub mod build;
pub mod degradation;
pub mod endpoint;
pub mod expiries;
pub mod listener_tls;
pub mod loader;
pub mod obstacle;
pub mod policy_files;
pub mod reload_requests;
mod token_expiry;
pub mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use self::expiries::CredentialExpiry;
use crate::cache::CacheRegistry;
use crate::cache::store::ResponseCache;
use crate::live::breaker::cell::BreakerCell;
use crate::live::credential::max_shares;
use crate::live::degradation::outcome_window::OutcomeWindow;
use crate::live::provider::ProviderLive;
use crate::live::queue::QueueLive;
use crate::live::quota::usage_meter::UsageMeter;
use crate::live::route::RouteLive;
use crate::live::tracking::call_recorder::CallRecorder;
use crate::policy::sections::model::{self, Policy};
use crate::resilience::balance::balancer::BalancerCandidate;
use crate::resilience::outcome::AttemptClass;
use crate::stream::interpret::Interpreter;
use crate::telemetry::access_log::RouteLog;
use crate::telemetry::metrics::{Metrics, PolicyNames, ReasonLabels, RouteLabels};

pub use degradation::{DegradationMode, RouteMode, RouteModes};
pub use endpoint::Endpoint;

/// Holds the snapshot in force.
pub type CurrentSnapshot = ArcSwap<Snapshot>;

/// A policy with everything resolved that a request needs.
#[derive(Debug)]
pub struct Snapshot {
    /// Over the names and contents of the files. Its first twelve digits are displayed.
    pub hash: String,
    pub since: SystemTime,
    pub policy: Policy,
    pub routes: Vec<Arc<Route>>,
    pub providers: Vec<Arc<Provider>>,
    /// In the order of `Policy::degradations`.
    pub modes: Vec<Arc<DegradationMode>>,
    /// `None`: no access log.
    pub access_log: Option<RouteLog>,
    /// `None`: the listener speaks plain HTTP.
    pub listener_tls: Option<Arc<rustls::ServerConfig>>,
    /// When its certificates and tokens expire.
    pub expiries: Vec<CredentialExpiry>,
}

/// A resolved route.
#[derive(Clone, Debug)]
pub struct Route {
    pub policy: model::RoutePolicy,
    /// The route's `providers`, then each of its `fallback` by itself. At least one.
    pub tiers: Vec<Tier>,
    /// A provider's settings depend on the body's model, or change the body.
    pub reads_body: bool,
    pub live: Arc<RouteLive>,
    pub modes: RouteModes,
    /// `None`: no degradation mode observes the route.
    pub outcomes: Option<Arc<OutcomeWindow>>,
    /// `None`: requests do not wait for capacity.
    pub queue: Option<RouteQueue>,
    /// `None`: nothing is stored.
    pub cache: Option<RouteCache>,
    /// The caches that an unsafe request invalidates; `None`: no cache needs that.
    pub invalidation: Option<Arc<CacheRegistry>>,
    pub metrics: RouteMetrics,
    /// The displayed digits of the policy's hash.
    pub policy_hash: Arc<str>,
    pub access_log: Option<RouteLog>,
    pub server: Arc<model::Server>,
}

/// The queue of a route.
#[derive(Clone, Debug)]
pub struct RouteQueue {
    pub policy: model::Queue,
    pub live: Arc<QueueLive>,
}

/// The cache of a route.
#[derive(Clone, Debug)]
pub struct RouteCache {
    pub policy: model::Cache,
    pub live: Arc<ResponseCache>,
}

/// The endpoints among which the balancer selects.
#[derive(Clone, Debug)]
pub struct Tier {
    pub candidates: Vec<EndpointCandidate>,
}

#[derive(Clone, Debug)]
pub struct EndpointCandidate {
    pub provider: Arc<Provider>,
    pub endpoint: Arc<Endpoint>,
    /// The provider's weight times the endpoint's.
    pub share: f64,
    /// Interprets this provider's streams for this route.
    pub interpreter: Arc<Interpreter>,
    /// Counts the tokens and the cost.
    pub usage_meter: Arc<UsageMeter>,
    /// Records the calls, for the baselines.
    pub call_recorder: Arc<CallRecorder>,
}

impl EndpointCandidate {
    /// As the balancer sees it.
    pub fn balancer_candidate(
        &self,
        breaker: Option<&BreakerCell>,
        now: Instant,
    ) -> BalancerCandidate {
        BalancerCandidate {
            share: self.share,
            latency: self.endpoint.live.latency(now),
            pending: self.endpoint.live.pending(),
            slow_start: breaker.map_or(1.0, |breaker| breaker.slow_start(now)),
        }
    }
}

/// A resolved provider.
#[derive(Debug)]
pub struct Provider {
    pub policy: model::ProviderPolicy,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub live: Arc<ProviderLive>,
    pub first_byte: Histogram,
    /// `None`: no degradation mode observes the provider.
    pub outcomes: Option<Arc<OutcomeWindow>>,
}

/// The metric handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    /// By status class: 1xx to 5xx, then 499.
    pub requests: [Counter; 6],
    pub seconds: Histogram,
    /// By the class of the failed attempt.
    pub retries: [Counter; AttemptClass::ALL.len()],
    pub events_dropped: Counter,
}

impl Snapshot {
    /// The first route that matches.
    pub fn route(
        &self,
        method: &Method,
        host: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.policy.matcher.matches(method, host, path, headers))
    }

    /// The names that the policy declares.
    pub fn names(&self) -> PolicyNames<'_> {
        let endpoints = self.providers.iter().flat_map(|provider| {
            let name = provider.policy.name.as_str();
            provider.endpoints.iter().map(move |endpoint| (name, endpoint.policy.name.as_str()))
        });
        PolicyNames {
            routes: self.routes.iter().map(|route| route.policy.name.as_str()).collect(),
            providers: self.providers.iter().map(|p| p.policy.name.as_str()).collect(),
            endpoints: endpoints.collect(),
            queues: self.policy.queues.iter().map(|queue| queue.name.as_str()).collect(),
            caches: self.policy.caches.iter().map(|cache| cache.name.as_str()).collect(),
            modes: self.modes.iter().map(|mode| mode.policy.name.as_str()).collect(),
            benchmarks: self.policy.benchmarks.iter().map(|one| one.name.as_str()).collect(),
            signals: self.modes.iter().flat_map(|mode| mode.named_signals()).collect(),
        }
    }
}

impl Route {
    /// Counts a request body that could not be kept for another attempt.
    pub fn count_unbuffered(&self, metrics: &Metrics, reason: &'static str) {
        metrics.not_replayable.with(&self.reason(reason)).inc();
    }

    /// Counts a response that broke after its first byte and that no other provider completed.
    pub fn count_interrupted(&self, metrics: &Metrics, reason: &'static str) {
        metrics.interrupted_streams.with(&self.reason(reason)).inc();
    }

    /// Counts an attempt to continue an interrupted stream.
    pub fn count_continuation(&self, metrics: &Metrics, result: &'static str) {
        metrics.stream_continuations.with(&self.reason(result)).inc();
    }

    /// Counts a hedged attempt.
    pub fn count_hedge(&self, metrics: &Metrics, result: &'static str) {
        metrics.hedges.with(&self.reason(result)).inc();
    }

    /// Counts a request that a retry completed, which spent this long before its last attempt.
    pub fn count_retry_succeeded(&self, metrics: &Metrics, after: AttemptClass, added: Duration) {
        metrics.retries_succeeded.with(&self.reason(after.as_str())).inc();
        let labels = RouteLabels { route: self.policy.name.clone() };
        metrics.retry_added_seconds.with(&labels).observe(added.as_secs_f64());
    }

    fn reason(&self, reason: &'static str) -> ReasonLabels {
        ReasonLabels { route: self.policy.name.clone(), reason }
    }

    /// Counts a failed attempt that was not retried.
    pub fn count_retry_denied(&self, metrics: &Metrics, reason: &'static str) {
        metrics.retry_denied.with(&self.reason(reason)).inc();
    }
}

impl Provider {
    /// The largest used share of its limits: slots, requests, tokens.
    pub fn used(&self, now: Instant) -> f64 {
        self.rates_used(now).into_iter().flatten().fold(self.live.slots_used(), f64::max)
    }

    /// The used shares of its request and token quotas: of the policy's, or of the one with the
    /// least left that headers reported for a credential and model.
    pub fn rates_used(&self, now: Instant) -> [Option<f64>; 2] {
        let reported = self.endpoints.iter().map(|endpoint| endpoint.quotas_used(now));
        reported.fold(self.live.quota().used(now), max_shares)
    }
}

impl RouteMetrics {
    /// The counter of responses with this status.
    pub fn requests_with(&self, status: u16) -> &Counter {
        let class = if status == 499 { 5 } else { usize::from(status / 100).clamp(1, 5) - 1 };
        &self.requests[class]
    }
}
