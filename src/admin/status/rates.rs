//! The rates of the last minute, for `/api/status`.
//!
//! They come from one-second samples of the metrics. The percentiles of a provider come from the
//! sketches of the tracker, which are finer than the buckets of a histogram, where it has some.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::state::AdminState;
use crate::history::memory::MetricHistory;
use crate::history::series_table::SeriesLabels;
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::baseline::calls::{CallFigure, Calls};
use crate::resilience::stats::metric_sample::HistogramSample;
use crate::snapshot::{Provider, Route, Snapshot};

const WINDOW: Duration = Duration::from_secs(60);
/// Local responses with a status of 4xx that are not the client's fault.
const FAILED_LOCALLY: &str = "queue-share";

/// The last minute of the sidecar.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SidecarMinute {
    /// Less than 60 soon after the start.
    pub window_seconds: u64,
    pub requests_per_second: f64,
    /// Share of the requests that ended with a status of 5xx, or that Outrigger rejected for lack of
    /// capacity, 0 to 1; absent without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_share: Option<f64>,
    /// Duration of requests.
    #[serde(flatten)]
    pub latency: LatencyPercentiles,
    pub retries_per_second: f64,
    /// By currency.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cost_per_hour: BTreeMap<String, f64>,
}

/// Absent without observations.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LatencyPercentiles {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// The last minute of a provider.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProviderMinute {
    pub attempts_per_second: f64,
    /// Share of its attempts that succeeded, 0 to 1; absent without attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_share: Option<f64>,
    /// Share of the requests sent to it that ended well for the application, perhaps at another
    /// provider, 0 to 1; absent without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_success_share: Option<f64>,
    /// The share of the attempts that the weights of its routes give it, 0 to 1; absent where the
    /// algorithm of a route wants no share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_wanted: Option<f64>,
    /// Its share of the attempts at all providers of its routes, 0 to 1; absent without attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_seen: Option<f64>,
    /// Time to the first byte.
    #[serde(flatten)]
    pub latency: LatencyPercentiles,
    /// Median time to the first content of streams; absent without streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_content_ms: Option<f64>,
    /// Attempts in flight as a share of the concurrency limit, 0 to 1.
    pub capacity_used: f64,
    /// By currency.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cost_per_hour: BTreeMap<String, f64>,
}

/// The last minute of a route.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteMinute {
    pub requests_per_second: f64,
    /// As of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_share: Option<f64>,
    /// Duration of requests.
    #[serde(flatten)]
    pub latency: LatencyPercentiles,
}

/// The requests of a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestCount {
    pub total: f64,
    /// Ended with a status of 5xx, or rejected for lack of capacity.
    pub failed: f64,
}

/// All series of a metric, with their increase in the window.
type Increases<T> = Vec<(Arc<SeriesLabels>, T)>;

/// The samples of the last minute.
#[derive(Debug)]
pub(super) struct LastMinute {
    seconds: f64,
    requests: Increases<f64>,
    local_responses: Increases<f64>,
    retries: Increases<f64>,
    attempts: Increases<f64>,
    provider_requests: Increases<f64>,
    cost: Increases<f64>,
    durations: Increases<HistogramSample>,
    first_bytes: Increases<HistogramSample>,
    /// By provider.
    calls: HashMap<String, Box<Calls>>,
}

impl LastMinute {
    /// `None` before the first sample.
    pub fn new(admin: &AdminState) -> Option<LastMinute> {
        let history: &MetricHistory = &admin.history;
        let covered = history.covered("requests", WINDOW);
        if covered.is_zero() {
            return None;
        }
        Some(LastMinute {
            seconds: covered.as_secs_f64(),
            requests: history.totals("requests", WINDOW),
            local_responses: history.totals("local_responses", WINDOW),
            retries: history.totals("retries", WINDOW),
            attempts: history.totals("attempts", WINDOW),
            provider_requests: history.totals("provider_requests", WINDOW),
            cost: history.totals("cost", WINDOW),
            durations: history.histograms("request_duration_seconds", WINDOW),
            first_bytes: history.histograms("first_byte_seconds", WINDOW),
            calls: admin.tracker.lock().recent.by_provider(WINDOW),
        })
    }

    pub fn sidecar(&self) -> SidecarMinute {
        let all = |_: &SeriesLabels| true;
        let RouteMinute { requests_per_second, failed_share, latency } = self.of_requests(all);
        SidecarMinute {
            window_seconds: self.seconds as u64,
            requests_per_second,
            failed_share,
            latency,
            retries_per_second: sum(&self.retries, all) / self.seconds,
            cost_per_hour: self.cost_per_hour(all),
        }
    }

    /// The requests of a route.
    pub fn requests(&self, route: &str) -> RequestCount {
        self.count(|labels| labels.get("route") == Some(route))
    }

    pub fn route(&self, name: &str) -> RouteMinute {
        self.of_requests(|labels| labels.get("route") == Some(name))
    }

    fn count(&self, is_meant: impl Fn(&SeriesLabels) -> bool) -> RequestCount {
        let broken =
            sum(&self.requests, |labels| is_meant(labels) && labels.get("status") == Some("5xx"));
        let rejected = sum(&self.local_responses, |labels| {
            is_meant(labels) && labels.get("reason") == Some(FAILED_LOCALLY)
        });
        RequestCount { total: sum(&self.requests, &is_meant), failed: broken + rejected }
    }

    fn of_requests(&self, is_meant: impl Fn(&SeriesLabels) -> bool) -> RouteMinute {
        let RequestCount { total, failed } = self.count(&is_meant);
        RouteMinute {
            requests_per_second: total / self.seconds,
            failed_share: share(failed, total),
            latency: LatencyPercentiles::of(&merged(&self.durations, is_meant)),
        }
    }

    pub fn provider(&self, snapshot: &Snapshot, provider: &Provider) -> ProviderMinute {
        let name = provider.policy.name.as_str();
        let is_meant = |labels: &SeriesLabels| labels.get("provider") == Some(name);
        let attempts = sum(&self.attempts, is_meant);
        let succeeded = sum(&self.attempts, |labels| {
            is_meant(labels) && labels.get("class") == Some("success")
        });
        let requests = sum(&self.provider_requests, is_meant);
        let ended_well = sum(&self.provider_requests, |labels| {
            is_meant(labels) && labels.get("result") == Some("ok")
        });
        let routes: Vec<_> = snapshot.routes.iter().filter(|route| uses(route, name)).collect();
        let rivals: BTreeSet<_> = routes.iter().flat_map(|route| providers_of(route)).collect();
        let all = sum(&self.attempts, |labels| {
            labels.get("provider").is_some_and(|provider| rivals.contains(provider))
        });
        let calls = self.calls.get(name);
        let sketched = calls.map(|calls| LatencyPercentiles::of_calls(calls)).unwrap_or_default();
        let bucketed = LatencyPercentiles::of(&merged(&self.first_bytes, is_meant));
        let limit = f64::from(provider.live.limit().max(1));
        ProviderMinute {
            attempts_per_second: attempts / self.seconds,
            success_share: share(succeeded, attempts),
            client_success_share: share(ended_well, requests),
            share_wanted: self.share_wanted(&routes, name),
            share_seen: share(attempts, all),
            latency: if sketched.p50_ms.is_some() { sketched } else { bucketed },
            first_content_ms: calls
                .and_then(|calls| calls.quantile(CallFigure::FirstContent, 0.5, 1))
                .map(milliseconds),
            capacity_used: (f64::from(provider.live.in_flight()) / limit).min(1.0),
            cost_per_hour: self.cost_per_hour(is_meant),
        }
    }

    /// By the weights of its routes, each as important as its traffic is; evenly without traffic.
    fn share_wanted(&self, routes: &[&Arc<Route>], provider: &str) -> Option<f64> {
        let of_route = |route: &Arc<Route>| {
            let name = route.policy.name.as_str();
            let requests = sum(&self.requests, |labels| labels.get("route") == Some(name));
            wanted_share(route, provider).map(|wanted| (wanted, requests))
        };
        let all: Vec<_> = routes.iter().map(|route| of_route(route)).collect::<Option<_>>()?;
        let traffic: f64 = all.iter().map(|(_, requests)| requests).sum();
        if traffic > 0.0 {
            return Some(all.iter().map(|(wanted, part)| wanted * part / traffic).sum());
        }
        let wanted: f64 = all.iter().map(|(wanted, _)| wanted).sum();
        share(wanted, all.len() as f64)
    }

    fn cost_per_hour(&self, is_meant: impl Fn(&SeriesLabels) -> bool) -> BTreeMap<String, f64> {
        let mut by_currency = BTreeMap::<String, f64>::new();
        for (labels, cost) in self.cost.iter().filter(|(labels, _)| is_meant(labels)) {
            let currency = labels.get("currency").unwrap_or_default().to_owned();
            *by_currency.entry(currency).or_default() += cost * 3600.0 / self.seconds;
        }
        by_currency
    }
}

impl LatencyPercentiles {
    fn of(histogram: &HistogramSample) -> LatencyPercentiles {
        let of = |q| histogram.quantile(q).map(milliseconds);
        LatencyPercentiles { p50_ms: of(0.5), p95_ms: of(0.95), p99_ms: of(0.99) }
    }

    fn of_calls(calls: &Calls) -> LatencyPercentiles {
        let of = |q| calls.quantile(CallFigure::Latency, q, 1).map(milliseconds);
        LatencyPercentiles { p50_ms: of(0.5), p95_ms: of(0.95), p99_ms: of(0.99) }
    }
}

/// The share of the attempts of a route that its policy gives to a provider. `None`: the algorithm
/// wants none.
pub fn wanted_share(route: &Route, provider: &str) -> Option<f64> {
    let candidates = &route.tiers.first()?.candidates;
    let is_own = |candidate: &&_| name_of(candidate) == provider;
    let own = candidates.iter().filter(is_own);
    match route.policy.balance {
        BalanceAlgorithm::Latency | BalanceAlgorithm::LeastConnections => None,
        BalanceAlgorithm::RoundRobin => share(own.count() as f64, candidates.len() as f64),
        BalanceAlgorithm::Weighted => {
            let all: f64 = candidates.iter().map(|candidate| candidate.share).sum();
            share(own.map(|candidate| candidate.share).sum(), all)
        }
        BalanceAlgorithm::First => {
            let first = candidates.first().is_some_and(|first| name_of(first) == provider);
            Some(f64::from(u8::from(first)))
        }
    }
}

fn name_of(candidate: &crate::snapshot::EndpointCandidate) -> &str {
    &candidate.provider.policy.name
}

fn providers_of(route: &Route) -> impl Iterator<Item = &str> {
    route.tiers.iter().flat_map(|tier| tier.candidates.iter().map(name_of))
}

fn uses(route: &Route, provider: &str) -> bool {
    providers_of(route).any(|name| name == provider)
}

fn sum(increases: &Increases<f64>, is_meant: impl Fn(&SeriesLabels) -> bool) -> f64 {
    let meant = increases.iter().filter(|(labels, _)| is_meant(labels));
    meant.fold(0.0, |sum, (_, increase)| sum + increase)
}

fn merged(
    increases: &Increases<HistogramSample>,
    is_meant: impl Fn(&SeriesLabels) -> bool,
) -> HistogramSample {
    let mut all = HistogramSample::default();
    for (_, histogram) in increases.iter().filter(|(labels, _)| is_meant(labels)) {
        all.add(histogram);
    }
    all
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole).clamp(0.0, 1.0))
}

fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}
