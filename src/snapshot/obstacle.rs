//! Why an endpoint takes no attempt now: the first reason that selection would meet, in words for
//! refusals and for operators.

use std::time::{Duration, Instant};

use super::Circuit;
use crate::live::breaker::cell::BreakerCell;
use crate::live::hold::HoldCell;
use crate::live::operator_override::ActiveOverride;
use crate::live::provider::{NoCapacity, ProviderLive};
use crate::policy::yaml::units::show_duration;
use crate::resilience::breaker::RejectReason;
use crate::resilience::limits::hold::HoldReason;
use crate::resilience::words::words;

words! {
    /// The kind of an obstacle.
    pub enum ObstacleKind {
        /// An operator drains the provider.
        Drained = "drained",
        /// The provider required a wait.
        Held = "held",
        BreakerOpen = "breaker_open",
        RateLimited = "rate_limited",
        NoCapacity = "no_capacity",
        /// This request may not be sent there.
        NotAllowed = "not_allowed",
    }
}

/// The reason why an endpoint takes no attempt, and the time until it may.
#[derive(Debug)]
pub struct EndpointObstacle {
    pub kind: ObstacleKind,
    pub why: String,
    pub wait: Option<Duration>,
}

impl EndpointObstacle {
    /// The first obstacle for an attempt of this many tokens: drain, holds, breaker, then limits.
    pub fn of(
        provider: &ProviderLive,
        circuit: &Circuit,
        tokens: f64,
        now: Instant,
    ) -> Option<EndpointObstacle> {
        drained(provider, now)
            .or_else(|| held(circuit, now))
            .or_else(|| rejected(circuit.breaker.as_deref()?, now))
            .or_else(|| full(provider, tokens, now))
    }

    pub fn new(kind: ObstacleKind, why: impl Into<String>) -> EndpointObstacle {
        EndpointObstacle { kind, why: why.into(), wait: None }
    }

    fn until(self, wait: Option<Duration>) -> EndpointObstacle {
        EndpointObstacle { wait, ..self }
    }
}

fn drained(provider: &ProviderLive, now: Instant) -> Option<EndpointObstacle> {
    let active = provider.active_override(now)?;
    let why = manual_reason("drained", &active);
    Some(EndpointObstacle::new(ObstacleKind::Drained, why).until(remaining(&active)))
}

/// The hold that ends first, if every credential has one.
fn held(circuit: &Circuit, now: Instant) -> Option<EndpointObstacle> {
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
    Some(EndpointObstacle::new(ObstacleKind::Held, why).until(Some(wait)))
}

fn rejected(breaker: &BreakerCell, now: Instant) -> Option<EndpointObstacle> {
    let rejection = breaker.check(now).err()?;
    let wait = rejection.retry_after;
    let forced = breaker.status(now).manual_override.filter(|active| active.state == "open");
    if let Some(active) = forced {
        let why = manual_reason("its breaker was opened", &active);
        return Some(
            EndpointObstacle::new(ObstacleKind::BreakerOpen, why).until(remaining(&active)),
        );
    }
    let shown = show(wait);
    let (kind, why) = match rejection.reason {
        RejectReason::Open => {
            (ObstacleKind::BreakerOpen, format!("its breaker is open, next probe in {shown}"))
        }
        RejectReason::HalfOpen | RejectReason::Lease => {
            (ObstacleKind::BreakerOpen, "its breaker is half-open, a probe is under way".to_owned())
        }
        RejectReason::Ramp => {
            let why = format!("its traffic grows again after an outage; next attempt in {shown}");
            (ObstacleKind::NoCapacity, why)
        }
    };
    Some(EndpointObstacle::new(kind, why).until(Some(wait)))
}

fn full(provider: &ProviderLive, tokens: f64, now: Instant) -> Option<EndpointObstacle> {
    match provider.check(tokens, now).err()? {
        NoCapacity::Concurrency => {
            let (used, limit) = (provider.in_flight(), provider.limit());
            let why = format!("{used} of {limit} attempts are in flight");
            Some(EndpointObstacle::new(ObstacleKind::NoCapacity, why))
        }
        NoCapacity::Rate(wait) => {
            let why = format!("its rate limit is used up for {}", show(wait));
            Some(EndpointObstacle::new(ObstacleKind::RateLimited, why).until(Some(wait)))
        }
    }
}

/// `drained manually by ann: key rotation, for another 9m`.
fn manual_reason(what: &str, active: &ActiveOverride) -> String {
    let note = active.note.suffix();
    let scope = if active.note.fleet { " on every host" } else { "" };
    let rest = remaining(active).map(|left| format!(", for another {}", show(left)));
    format!("{what} manually{scope}{note}{}", rest.unwrap_or_default())
}

fn remaining(active: &ActiveOverride) -> Option<Duration> {
    active.remaining_ms.map(Duration::from_millis)
}

/// In whole seconds, rounded up as `Retry-After` is.
fn show(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    show_duration(Duration::from_secs(seconds))
}
