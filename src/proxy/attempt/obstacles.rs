//! Why the providers of a route cannot take a request: one true reason for each, for refusals.
//!
//! Selection merges the obstacles of a tier to decide about a wait. A refusal names each provider,
//! so this module looks at their state again, once, after the decision.

use std::fmt;
use std::time::{Duration, Instant};

use super::context::ProxyRequest;
use super::select::why_not_permitted;
use super::wait::has_turn;
use crate::proxy::downstream::problem::ProblemKind;
use crate::snapshot::obstacle::{EndpointObstacle, ObstacleKind};
use crate::snapshot::{EndpointCandidate, Route};

/// Endpoints that a refusal names at most.
const MAX_NAMED: usize = 8;

/// An endpoint that takes no request, with the reason.
#[derive(Debug)]
struct NamedObstacle {
    provider: String,
    endpoint: String,
    obstacle: EndpointObstacle,
}

/// The obstacles of all endpoints of a route.
#[derive(Debug, Default)]
pub struct Obstacles(Vec<NamedObstacle>);

impl Obstacles {
    /// Looks at every endpoint of the route, fallbacks included.
    pub fn of(request: &ProxyRequest, route: &Route, now: Instant) -> Obstacles {
        let candidates = route.tiers.iter().flat_map(|tier| &tier.candidates);
        let mut all: Vec<NamedObstacle> = Vec::new();
        for candidate in candidates {
            let (provider, endpoint) =
                (&candidate.provider.policy.name, &candidate.endpoint.policy.name);
            if !all.iter().any(|one| (&one.provider, &one.endpoint) == (provider, endpoint)) {
                let obstacle = obstacle(request, candidate, now);
                let (provider, endpoint) = (provider.clone(), endpoint.clone());
                all.push(NamedObstacle { provider, endpoint, obstacle });
            }
        }
        Obstacles(all)
    }

    /// The problem if they are all alike, else the one for several reasons.
    pub fn kind(&self) -> ProblemKind {
        let mut kinds = self.0.iter().map(|one| problem_of(one.obstacle.kind));
        let first = kinds.next().unwrap_or(ProblemKind::NoCapacity);
        if kinds.all(|kind| kind == first) { first } else { ProblemKind::Unavailable }
    }

    /// The soonest time at which one of them is over.
    pub fn soonest(&self) -> Option<Duration> {
        self.0.iter().filter_map(|one| one.obstacle.wait).min()
    }
}

/// `a: its breaker is open, next probe in 20s; b: on hold for 12s`.
impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().take(MAX_NAMED).enumerate() {
            let same = |other: &&NamedObstacle| other.provider == one.provider;
            let name = match self.0.iter().filter(same).count() {
                1 => one.provider.clone(),
                _ => format!("{}/{}", one.provider, one.endpoint),
            };
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {}", one.obstacle.why)?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more endpoints"),
        }
    }
}

fn problem_of(kind: ObstacleKind) -> ProblemKind {
    match kind {
        ObstacleKind::Drained => ProblemKind::Drained,
        ObstacleKind::Held => ProblemKind::Held,
        ObstacleKind::BreakerOpen => ProblemKind::BreakerOpen,
        ObstacleKind::RateLimited => ProblemKind::RateLimited,
        ObstacleKind::NoCapacity => ProblemKind::NoCapacity,
        ObstacleKind::NotAllowed => ProblemKind::Unavailable,
    }
}

fn obstacle(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    now: Instant,
) -> EndpointObstacle {
    let (provider, endpoint) = (&candidate.provider, &candidate.endpoint);
    let tokens = request.limits.tokens();
    not_allowed(request, candidate)
        .or_else(|| EndpointObstacle::of(provider, endpoint, || request.model(), tokens, now))
        .or_else(|| not_yet(request, candidate))
        .unwrap_or_else(|| {
            EndpointObstacle::new(ObstacleKind::NoCapacity, "available again by now")
        })
}

fn not_allowed(request: &ProxyRequest, candidate: &EndpointCandidate) -> Option<EndpointObstacle> {
    let why = why_not_permitted(request, candidate)?;
    Some(EndpointObstacle::new(ObstacleKind::NotAllowed, why))
}

/// The reason why this request does not get the capacity of its provider.
fn not_yet(request: &ProxyRequest, candidate: &EndpointCandidate) -> Option<EndpointObstacle> {
    let why = if !request.worker.pools.has_capacity(&candidate.endpoint.target) {
        "all its connections are busy"
    } else if request.route.queue.as_ref().is_some_and(|queue| queue.live.is_paused()) {
        "an operator paused the queue"
    } else if !has_turn(request, &candidate.provider.live) {
        "other requests wait for it first"
    } else {
        return None;
    };
    Some(EndpointObstacle::new(ObstacleKind::NoCapacity, why))
}
