//! `/api/selection`: which endpoint a request would be sent to now, and why not to the others.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiQuery, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::live::breaker::cell::BreakerCell;
use crate::proxy::model_in_path;
use crate::resilience::breaker::EnforcementMode;
use crate::snapshot::obstacle::EndpointObstacle;
use crate::snapshot::{EndpointCandidate, Route, RouteMode, Snapshot};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SelectionStatus {
    /// The first 12 characters of the hash of the policy in force.
    pub policy: String,
    /// The route that takes the request; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteSelection>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteSelection {
    pub name: String,
    /// The load balancing algorithm.
    pub balance: String,
    /// Degradation modes that are in force for the route. They may respond themselves.
    pub modes: Vec<ActiveModeActions>,
    /// An operator paused the route's queue: requests wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue_paused: bool,
    /// In the order in which they are used.
    pub endpoints: Vec<EndpointSelection>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ActiveModeActions {
    pub name: String,
    /// In the words of the policy.
    pub actions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndpointSelection {
    pub provider: String,
    pub endpoint: String,
    /// 0: one of the route's `providers`; 1 and more: its first and further `fallback`.
    pub tier: usize,
    /// `selected`, `available`, or why it takes no request now: `drained`, `held`, `breaker_open`,
    /// `rate_limited`, `no_capacity`.
    pub state: Cow<'static, str>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Time until it may take requests again, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct SelectionQuery {
    /// `GET` by default.
    method: Option<String>,
    /// A URL or a path.
    url: Option<String>,
    /// The model that the request names.
    model: Option<String>,
    /// `NAME: VALUE`; may be repeated.
    header: Vec<String>,
}

/// The request in question.
#[derive(Debug)]
struct RequestQuery {
    method: Method,
    url: Uri,
    headers: HeaderMap,
    model: Option<String>,
}

pub fn routes() -> ApiRoutes {
    let routes = ApiRoutes::default().get::<SelectionStatus, _>(
        "/api/selection",
        "Reports which endpoint a request would be sent to now, and why not to the others. Sends and \
         changes nothing.",
        show,
    );
    routes.query::<SelectionQuery>()
}

async fn show(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<SelectionQuery>,
) -> Result<ApiJson<SelectionStatus>, ApiError> {
    let request = RequestQuery::read(query)?;
    let (snapshot, now) = (admin.current.load_full(), clock::now());
    let route = request.find_route(&snapshot);
    let model = request.model.as_deref().or_else(|| model_in_path(request.url.path()));
    let route = route.map(|route| RouteSelection::of(route, model, now));
    Ok(ApiJson(SelectionStatus { policy: snapshot.hash.chars().take(12).collect(), route }))
}

fn invalid(name: &str, found: &str, expected: &str) -> ApiError {
    let detail = format!("`{name}` is `{found}` (expected {expected})");
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}

impl RequestQuery {
    fn read(query: SelectionQuery) -> Result<RequestQuery, ApiError> {
        let SelectionQuery { method, url, model, header } = query;
        let mut headers = HeaderMap::new();
        for line in &header {
            let wrong = || invalid("header", line, "`NAME: VALUE`");
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            let value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
            headers.append(name, value);
        }
        let method = method.map_or(Ok(Method::GET), |method| {
            method.parse().map_err(|_| invalid("method", &method, "a method such as POST"))
        })?;
        let url = url.map_or(Ok(Uri::default()), |url| {
            url.parse().map_err(|_| invalid("url", &url, "a URL or a path"))
        })?;
        Ok(RequestQuery { method, url, headers, model })
    }

    fn find_route<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<Route>> {
        let path = self.url.path();
        if self.method == Method::CONNECT || path.starts_with("/.outrigger/") {
            return None;
        }
        let authority = self.url.authority().map(|authority| authority.as_str());
        let host = authority.or_else(|| self.headers.get("host")?.to_str().ok());
        snapshot.route(&self.method, host.unwrap_or_default(), path, &self.headers)
    }
}

impl RouteSelection {
    fn of(route: &Route, model: Option<&str>, now: Instant) -> RouteSelection {
        let in_force = |mode: &&RouteMode| {
            mode.mode.live.is_in_force() && mode.mode.policy.mode == EnforcementMode::Enforce
        };
        let modes: Vec<&RouteMode> = route.modes.all.iter().filter(in_force).collect();
        let alternate = modes.iter().rev().find_map(|mode| mode.alternate.as_deref());
        let actions = |mode: &&RouteMode| ActiveModeActions {
            name: mode.mode.policy.name.clone(),
            actions: mode.mode.actions.clone(),
        };
        RouteSelection {
            name: route.policy.name.clone(),
            balance: route.policy.balance.as_str().to_owned(),
            queue_paused: route.queue.as_ref().is_some_and(|queue| queue.live.is_paused()),
            endpoints: endpoints(alternate.unwrap_or(route), model, now),
            modes: modes.iter().map(actions).collect(),
        }
    }
}

/// Each endpoint with its state; the first tier with a usable endpoint has the selected one.
fn endpoints(route: &Route, model: Option<&str>, now: Instant) -> Vec<EndpointSelection> {
    let (mut all, mut selected) = (Vec::new(), false);
    for (tier, of) in route.tiers.iter().enumerate() {
        let breaker = |c: &EndpointCandidate| c.endpoint.breaker(&c.provider.policy, || model);
        let breakers: Vec<_> = of.candidates.iter().map(breaker).collect();
        let obstacle = |c: &EndpointCandidate| {
            EndpointObstacle::of(&c.provider, &c.endpoint, || model, 0.0, now)
        };
        let obstacles: Vec<_> = of.candidates.iter().map(obstacle).collect();
        let first = select(route, tier, &breakers, &obstacles, now).filter(|_| !selected);
        selected |= first.is_some();
        let candidates = of.candidates.iter().zip(obstacles).enumerate();
        all.extend(candidates.map(|(index, (candidate, obstacle))| {
            EndpointSelection::new(candidate, tier, obstacle, first == Some(index))
        }));
    }
    all
}

/// The endpoint that selection would take: one that wants a probe, else the balancer's choice.
fn select(
    route: &Route,
    tier: usize,
    breakers: &[Option<Arc<BreakerCell>>],
    obstacles: &[Option<EndpointObstacle>],
    now: Instant,
) -> Option<usize> {
    let usable = |index: usize| obstacles[index].is_none();
    let wants_probe = |index: &usize| {
        usable(*index) && breakers[*index].as_ref().is_some_and(|b| b.wants_probe(now))
    };
    let pairs = route.tiers[tier].candidates.iter().zip(breakers);
    let seen: Vec<_> =
        pairs.map(|(one, breaker)| one.balancer_candidate(breaker.as_deref(), now)).collect();
    (0..seen.len())
        .find(wants_probe)
        .or_else(|| route.live.preview(tier, route.policy.balance, &seen, usable))
}

impl EndpointSelection {
    fn new(
        candidate: &EndpointCandidate,
        tier: usize,
        obstacle: Option<EndpointObstacle>,
        is_selected: bool,
    ) -> EndpointSelection {
        let free = if is_selected { "selected" } else { "available" };
        let wait = obstacle.as_ref().and_then(|obstacle| obstacle.wait);
        EndpointSelection {
            provider: candidate.provider.policy.name.clone(),
            endpoint: candidate.endpoint.policy.name.clone(),
            tier,
            state: obstacle.as_ref().map_or(free, |obstacle| obstacle.kind.as_str()).into(),
            wait_ms: wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            reason: obstacle.map(|obstacle| obstacle.why),
        }
    }
}
