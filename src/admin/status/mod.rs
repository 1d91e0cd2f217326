//! `/api/status`, `/api/policies` and `/api/fleet`: an overview of the sidecar, its providers and its
//! routes, the result of the last load of the policy, and the hosts of the fleet.

mod problems;
mod rates;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::breakers::HeldEndpoint;
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiRoutes};
use crate::admin::state::AdminState;
use crate::clock;
use crate::fleet::status::FleetStatus;
use crate::live::Live;
use crate::live::operator_override::ActiveOverride;
use crate::snapshot::loader::PolicyStatus;
use crate::snapshot::obstacle::EndpointObstacle;
use crate::snapshot::{Endpoint, Provider};

pub use problems::{OpenProblem, ProblemSeverity};
use problems::{open_problems, summary};
use rates::LastMinute;
pub use rates::{LatencyPercentiles, ProviderMinute, RouteMinute, SidecarMinute};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SidecarStatus {
    pub version: String,
    /// The state in one sentence.
    #[serde(default)]
    pub summary: String,
    /// Everything that is wrong now, critical problems first.
    #[serde(default)]
    pub problems: Vec<OpenProblem>,
    pub uptime_seconds: u64,
    /// A policy is in force and the listener is open.
    pub ready: bool,
    /// The address where applications connect.
    pub listener: String,
    /// The first 12 characters of the hash of the policy in force.
    pub policy: String,
    /// Open connections of applications.
    pub connections: i64,
    /// Bytes of requests and responses that are held in memory.
    pub buffered_bytes: u64,
    pub providers: Vec<ProviderStatus>,
    pub routes: Vec<RouteStatus>,
    /// Credentials, and models at them, on hold.
    #[serde(default)]
    pub held: Vec<HeldEndpoint>,
    /// The last minute, with percentiles of the duration of requests; absent before the first
    /// sample, at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<SidecarMinute>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProviderStatus {
    pub name: String,
    /// Attempts in flight.
    pub in_flight: u32,
    /// The current concurrency limit.
    pub limit: u32,
    /// Requests waiting for capacity.
    pub waiting: u32,
    /// The operator's manual override.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub manual_override: Option<ActiveOverride>,
    pub endpoints: Vec<EndpointStatus>,
    /// The last minute, with percentiles of the time to the first byte; absent before the first
    /// sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<ProviderMinute>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStatus {
    pub name: String,
    /// Attempts in flight.
    pub pending: u32,
    /// Times that load balancing selected this endpoint.
    pub selected: u64,
    /// Time to the first byte, as a moving average of peaks; absent before the first response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Why it takes no requests now, or none for some models; absent when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    pub name: String,
    /// The load balancing algorithm.
    pub balance: String,
    /// Retries that the retry budget allows now.
    pub budget: f64,
    /// The last minute, with percentiles of the duration of requests; absent before the first
    /// sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<RouteMinute>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<SidecarStatus, _>(
            "/api/status",
            "Reports the state of the sidecar, its providers and its routes.",
            status,
        )
        .get::<PolicyStatus, _>(
            "/api/policies",
            "Reports the policy in force and the result of the last load, with every problem and \
             change.",
            policies,
        )
        .get::<FleetStatus, _>(
            "/api/fleet",
            "Reports the hosts of the fleet, shared breakers, holds, limits and overrides. 404 \
             without `--redis`.",
            fleet,
        )
        .errors(&[ApiErrorKind::NoFleet])
}

async fn fleet(State(admin): State<Arc<AdminState>>) -> Result<ApiJson<FleetStatus>, ApiError> {
    match &admin.fleet {
        Some(fleet) => Ok(ApiJson(fleet.status().await)),
        None => {
            let detail = "this host is in no fleet (start it with --redis)";
            Err(ApiError::new(ApiErrorKind::NoFleet, detail))
        }
    }
}

async fn policies(State(admin): State<Arc<AdminState>>) -> ApiJson<PolicyStatus> {
    ApiJson(admin.loader.status())
}

async fn status(State(admin): State<Arc<AdminState>>) -> ApiJson<SidecarStatus> {
    let (snapshot, now) = (admin.current.load_full(), clock::now());
    let minute = LastMinute::new(&admin);
    let problems = open_problems(&admin, &admin.queues().await, minute.as_ref()).await;
    let rates = minute.as_ref().map(LastMinute::sidecar);
    let providers = snapshot.providers.iter().map(|provider| ProviderStatus {
        rates: minute.as_ref().map(|minute| minute.provider(&snapshot, provider)),
        ..ProviderStatus::new(&admin.live, provider, now)
    });
    let routes = snapshot.routes.iter().map(|route| RouteStatus {
        name: route.policy.name.clone(),
        balance: route.policy.balance.as_str().to_owned(),
        budget: route.live.balance(now),
        rates: minute.as_ref().map(|minute| minute.route(&route.policy.name)),
    });
    ApiJson(SidecarStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        summary: summary(&problems, rates.as_ref().and_then(|rates| rates.failed_share)),
        problems,
        uptime_seconds: now.saturating_duration_since(admin.started).as_secs(),
        ready: admin.ready.load(Ordering::Acquire),
        listener: admin.listener.clone(),
        policy: snapshot.hash.chars().take(12).collect(),
        connections: admin.live.metrics.connections.get(),
        buffered_bytes: admin.live.buffers.used(),
        providers: providers.collect(),
        routes: routes.collect(),
        held: admin.live.held().into_iter().map(HeldEndpoint::new).collect(),
        rates,
    })
}

impl ProviderStatus {
    /// Without rates.
    fn new(live: &Live, provider: &Provider, now: Instant) -> ProviderStatus {
        let endpoints = provider.endpoints.iter();
        let endpoints = endpoints
            .map(|endpoint| EndpointStatus::new(endpoint, obstacle(live, provider, endpoint, now)));
        ProviderStatus {
            name: provider.policy.name.clone(),
            in_flight: provider.live.in_flight(),
            limit: provider.live.limit(),
            waiting: provider.live.waiting(),
            manual_override: provider.live.active_override(now),
            endpoints: endpoints.collect(),
            rates: None,
        }
    }
}

impl EndpointStatus {
    fn new(endpoint: &Endpoint, obstacle: Option<String>) -> EndpointStatus {
        EndpointStatus {
            name: endpoint.policy.name.clone(),
            pending: endpoint.live.pending(),
            selected: endpoint.live.selections(),
            latency_ms: endpoint.live.measured().map(|latency| latency.as_secs_f64() * 1e3),
            obstacle,
        }
    }
}

/// Why an endpoint takes no requests now, or none for some models.
pub fn obstacle(
    live: &Live,
    provider: &Provider,
    endpoint: &Endpoint,
    now: Instant,
) -> Option<String> {
    let obstacle = EndpointObstacle::of(provider, endpoint, || None, 0.0, now);
    obstacle.map(|obstacle| obstacle.why).or_else(|| {
        let breakers = live.breakers_under(&endpoint.key);
        let models: Vec<_> = breakers.iter().filter(|it| !it.key().model.is_empty()).collect();
        let open = models.iter().filter(|breaker| breaker.check(now).is_err()).count();
        let all = models.len();
        let open = (open > 0).then(|| format!("breakers of {open} of {all} models are open"));
        open.or_else(|| match endpoint.held_models(now) {
            0 => None,
            held => Some(format!("models on hold: {held}")),
        })
    })
}
