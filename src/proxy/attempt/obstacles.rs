//! Why the providers of a route cannot take a request: one true reason for each, for refusals.
//!
//! Selection merges the obstacles of a tier to decide about a wait. A refusal names each provider,
//! so this module looks at their state again, once, after the decision.

use std::fmt;
use std::time::{Duration, Instant};

use super::context::ProxyRequest;
use super::select::provider_id;
use super::wait::has_turn;
use crate::live::breaker::cell::BreakerCell;
use crate::live::hold::HoldCell;
use crate::live::operator_override::ActiveOverride;
use crate::live::provider::NoCapacity;
use crate::policy::yaml::units::show_duration;
use crate::proxy::downstream::problem::ProblemKind;
use crate::resilience::breaker::RejectReason;
use crate::resilience::limits::hold::HoldReason;
use crate::snapshot::{Circuit, EndpointCandidate, Route};

/// Endpoints that a refusal names at most.
const MAX_NAMED: usize = 8;

/// An endpoint that takes no request, with the reason and the time until it may.
#[derive(Debug)]
pub struct Obstacle {
    provider: String,
    endpoint: String,
    kind: ProblemKind,
    why: String,
    wait: Option<Duration>,
}

/// The obstacles of all endpoints of a route.
#[derive(Debug, Default)]
pub struct Obstacles(Vec<Obstacle>);

impl Obstacles {
    /// Looks at every endpoint of the route, fallbacks included.
    pub fn of(request: &ProxyRequest, route: &Route, now: Instant) -> Obstacles {
        let candidates = route.tiers.iter().flat_map(|tier| &tier.candidates);
        let mut all: Vec<Obstacle> = Vec::new();
        for candidate in candidates {
            let known = |one: &Obstacle| {
                (&one.provider, &one.endpoint)
                    == (&candidate.provider.policy.name, &candidate.endpoint.policy.name)
            };
            if !all.iter().any(known) {
                all.push(obstacle(request, candidate, now));
            }
        }
        Obstacles(all)
    }

    /// The problem if they are all alike, else the one for several reasons.
    pub fn kind(&self) -> ProblemKind {
        let mut kinds = self.0.iter().map(|one| one.kind);
        let first = kinds.next().unwrap_or(ProblemKind::NoCapacity);
        if kinds.all(|kind| kind == first) { first } else { ProblemKind::Unavailable }
    }

    /// The soonest time at which one of them is over.
    pub fn soonest(&self) -> Option<Duration> {
        self.0.iter().filter_map(|one| one.wait).min()
    }
}

/// `a: its breaker is open, next probe in 20s; b: on hold for 12s`.
impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().take(MAX_NAMED).enumerate() {
            let same = |other: &&Obstacle| other.provider == one.provider;
            let name = match self.0.iter().filter(same).count() {
                1 => one.provider.clone(),
                _ => format!("{}/{}", one.provider, one.endpoint),
            };
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {}", one.why)?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more endpoints"),
        }
    }
}

fn obstacle(request: &ProxyRequest, candidate: &EndpointCandidate, now: Instant) -> Obstacle {
    let circuit = candidate.endpoint.circuit(&candidate.provider.policy, request.body.model());
    let (kind, why, wait) = unusable(request, candidate)
        .or_else(|| drained(candidate, now))
        .or_else(|| held(&circuit, now))
        .or_else(|| rejected(circuit.breaker.as_deref()?, now))
        .or_else(|| full(request, candidate, now))
        .unwrap_or_else(|| (ProblemKind::NoCapacity, "available again by now".to_owned(), None));
    let provider = candidate.provider.policy.name.clone();
    Obstacle { provider, endpoint: candidate.endpoint.policy.name.clone(), kind, why, wait }
}

type Reason = (ProblemKind, String, Option<Duration>);

fn unusable(request: &ProxyRequest, candidate: &EndpointCandidate) -> Option<Reason> {
    let other = request.attempts.only_provider.is_some_and(|only| only != provider_id(candidate));
    let why = "it does not know the Idempotency-Key that another provider received";
    other.then(|| (ProblemKind::Unavailable, why.to_owned(), None))
}

fn drained(candidate: &EndpointCandidate, now: Instant) -> Option<Reason> {
    let active = candidate.provider.live.active_override(now)?;
    Some((ProblemKind::Drained, manual_reason("drained", &active), remaining(&active)))
}

/// The hold that ends first, if every credential has one.
fn held(circuit: &Circuit, now: Instant) -> Option<Reason> {
    let holds = circuit.holds.iter();
    let left: Option<Vec<(Duration, &HoldCell)>> =
        holds.map(|hold| Some((hold.check(now).err()?, &**hold))).collect();
    let (wait, hold) = left?.into_iter().min_by_key(|(wait, _)| *wait)?;
    let shown = show(wait);
    let why = match hold.reason() {
        Some(HoldReason::RetryAfter) => format!("on hold for {shown}, as it asked to wait"),
        Some(HoldReason::Backoff) => format!("on hold for {shown}, because it was throttled"),
        Some(HoldReason::Credential) => {
            format!("on hold for {shown}, because it rejected the credential")
        }
        None => format!("its traffic grows again after a hold; next attempt in {shown}"),
    };
    Some((ProblemKind::Held, why, Some(wait)))
}

fn rejected(breaker: &BreakerCell, now: Instant) -> Option<Reason> {
    let rejection = breaker.check(now).err()?;
    let wait = rejection.retry_after;
    let forced = breaker.status(now).manual_override.filter(|active| active.state == "open");
    if let Some(active) = forced {
        let why = manual_reason("its breaker was opened", &active);
        return Some((ProblemKind::BreakerOpen, why, remaining(&active)));
    }
    let shown = show(wait);
    let (kind, why) = match rejection.reason {
        RejectReason::Open => {
            (ProblemKind::BreakerOpen, format!("its breaker is open, next probe in {shown}"))
        }
        RejectReason::HalfOpen | RejectReason::Lease => {
            (ProblemKind::BreakerOpen, "its breaker is half-open, a probe is under way".to_owned())
        }
        RejectReason::Ramp => {
            let why = format!("its traffic grows again after an outage; next attempt in {shown}");
            (ProblemKind::NoCapacity, why)
        }
    };
    Some((kind, why, Some(wait)))
}

fn full(request: &ProxyRequest, candidate: &EndpointCandidate, now: Instant) -> Option<Reason> {
    let live = &candidate.provider.live;
    let no_capacity = |why: &str| Some((ProblemKind::NoCapacity, why.to_owned(), None));
    match live.check(request.limits.tokens(), now) {
        Err(NoCapacity::Concurrency) => {
            let why = format!("{} of {} attempts are in flight", live.in_flight(), live.limit());
            return no_capacity(&why);
        }
        Err(NoCapacity::Rate(wait)) => {
            let why = format!("its rate limit is used up for {}", show(wait));
            return Some((ProblemKind::RateLimited, why, Some(wait)));
        }
        Ok(()) => {}
    }
    if !request.worker.pools.has_capacity(&candidate.endpoint.target) {
        return no_capacity("all its connections are busy");
    }
    if request.route.queue.as_ref().is_some_and(|queue| queue.live.is_paused()) {
        return no_capacity("an operator paused the queue");
    }
    if has_turn(request, live) { None } else { no_capacity("other requests wait for it first") }
}

/// `drained by ann: key rotation, for another 9m`.
fn manual_reason(what: &str, active: &ActiveOverride) -> String {
    let note = active.note.text();
    let note = if note.is_empty() { " manually".to_owned() } else { format!(" manually {note}") };
    let scope = if active.note.fleet { " on every host" } else { "" };
    let rest = remaining(active).map(|left| format!(", for another {}", show(left)));
    format!("{what}{scope}{note}{}", rest.unwrap_or_default())
}

fn remaining(active: &ActiveOverride) -> Option<Duration> {
    active.remaining_ms.map(Duration::from_millis)
}

/// In whole seconds, rounded up as `Retry-After` is.
fn show(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    show_duration(Duration::from_secs(seconds))
}
