//! Why the providers of a route cannot take a request: all reasons together for a wait, and one true
//! reason for each for refusals.
//!
//! Selection merges the obstacles of a tier to decide about a wait. A refusal names each provider,
//! so this module looks at their state again, once, after the decision.

use std::fmt;
use std::time::{Duration, Instant};

use super::context::ProxyRequest;
use super::select::why_not_permitted;
use super::wait::has_turn;
use crate::live::credential_cell::{CredentialWait, WaitCause};
use crate::live::permit::NoSlot;
use crate::live::provider::NoCapacity;
use crate::proxy::access_log::passed_over::PassOverReason;
use crate::proxy::downstream::problem::ProblemKind;
use crate::resilience::breaker::{RejectReason, Rejection};
use crate::snapshot::obstacle::{EndpointObstacle, ObstacleKind};
use crate::snapshot::{EndpointCandidate, Route};

/// Endpoints that a refusal names at most.
const MAX_NAMED: usize = 8;

/// Why no endpoint of a tier can be selected: all obstacles of its candidates together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Unavailable {
    /// The shortest wait that helps: a backoff, a hold, a ramp or a rate.
    pub wait: Option<Duration>,
    /// The shortest wait that other requests share: any but a backoff.
    pub shared: Option<Duration>,
    /// The shortest backoff of this request.
    pub own: Option<Duration>,
    /// A provider only lacks capacity.
    pub no_capacity: bool,
    /// The shortest time for which an open breaker rejects.
    pub open: Option<Duration>,
    /// A provider imposes a hold.
    pub held: bool,
    /// The shortest wait is a guess: the provider named no time.
    pub guess: bool,
    /// An operator drains a provider.
    pub drained: bool,
    /// The first reason, for the access log.
    pub reason: Option<PassOverReason>,
}

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

impl Unavailable {
    pub fn because(reason: PassOverReason) -> Unavailable {
        Unavailable { reason: Some(reason), ..Unavailable::default() }
    }

    pub fn shared(wait: Duration, reason: PassOverReason) -> Unavailable {
        Unavailable { wait: Some(wait), shared: Some(wait), ..Unavailable::because(reason) }
    }

    /// Notes for the access log why a candidate was passed over.
    pub fn noted(self, request: &ProxyRequest, candidate: &EndpointCandidate) -> Unavailable {
        if let Some(reason) = self.reason {
            request.record.pass_over(&candidate.endpoint, reason);
        }
        self
    }

    pub fn lacking(lack: NoCapacity) -> Unavailable {
        match lack {
            NoCapacity::Concurrency => Unavailable {
                no_capacity: true,
                ..Unavailable::because(PassOverReason::NoCapacity)
            },
            NoCapacity::Rate(wait) => Unavailable::shared(wait, PassOverReason::RateLimited),
        }
    }

    pub fn no_slot(why: NoSlot) -> Unavailable {
        match why {
            NoSlot::Provider(lack) => Unavailable::lacking(lack),
            NoSlot::Credential(blocked) => Unavailable::blocked(blocked),
        }
    }

    pub fn blocked(blocked: CredentialWait) -> Unavailable {
        let reason = match blocked.cause {
            WaitCause::Hold(_) => PassOverReason::Held,
            WaitCause::SlowStart => PassOverReason::SlowStart,
            WaitCause::Quota => PassOverReason::Quota,
        };
        let held = blocked.cause != WaitCause::Quota;
        let guess = blocked.is_guess();
        Unavailable { held, guess, ..Unavailable::shared(blocked.wait, reason) }
    }

    pub fn rejected(rejection: Rejection) -> Unavailable {
        let reason = match rejection.reason {
            RejectReason::Ramp => PassOverReason::Ramp,
            RejectReason::Lease => PassOverReason::ProbeLease,
            RejectReason::Open => PassOverReason::BreakerOpen,
            RejectReason::HalfOpen => PassOverReason::HalfOpen,
        };
        let wait = rejection.retry_after;
        match rejection.reason {
            // A short wait is worthwhile if no other endpoint is available.
            RejectReason::Ramp | RejectReason::Lease => {
                Unavailable { guess: true, ..Unavailable::shared(wait, reason) }
            }
            RejectReason::Open | RejectReason::HalfOpen => {
                Unavailable { open: Some(wait), ..Unavailable::because(reason) }
            }
        }
    }

    pub fn merge(&mut self, other: Unavailable) {
        let sooner = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if other.wait.is_some_and(|wait| self.wait.is_none_or(|own| wait < own)) {
            self.guess = other.guess;
        }
        self.wait = sooner(self.wait, other.wait);
        self.shared = sooner(self.shared, other.shared);
        self.own = sooner(self.own, other.own);
        self.open = sooner(self.open, other.open);
        self.no_capacity |= other.no_capacity;
        self.held |= other.held;
        self.drained |= other.drained;
        self.reason = self.reason.or(other.reason);
    }
}

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
        .unwrap_or_else(|| EndpointObstacle::new(ObstacleKind::NoCapacity, "available again now"))
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
