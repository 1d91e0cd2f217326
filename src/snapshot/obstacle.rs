//! Why an endpoint takes no attempt now: the first reason that selection would meet, in words for
//! refusals and for operators.

use std::time::{Duration, Instant};

use super::{Endpoint, Provider};
use crate::live::breaker::cell::BreakerCell;
use crate::live::credential_cell::WaitCause;
use crate::live::operator_override::ActiveOverride;
use crate::live::provider::{NoCapacity, ProviderLive};
use crate::policy::yaml::units::show_elapsed;
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
    pub fn of<'m>(
        provider: &Provider,
        endpoint: &Endpoint,
        model: impl Fn() -> Option<&'m str> + Copy,
        tokens: f64,
        now: Instant,
    ) -> Option<EndpointObstacle> {
        let corrected = provider.live.quota().corrected(tokens);
        drained(&provider.live, now)
            .or_else(|| blocked(endpoint, model, corrected, now))
            .or_else(|| rejected(&*endpoint.breaker(&provider.policy, model)?, now))
            .or_else(|| full(&provider.live, tokens, now))
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

/// The hold or the reported quota that ends first, if every credential has one.
fn blocked<'m>(
    endpoint: &Endpoint,
    model: impl Fn() -> Option<&'m str> + Copy,
    tokens: f64,
    now: Instant,
) -> Option<EndpointObstacle> {
    let waits = endpoint.credentials.iter().map(|one| one.check(model, tokens, now).err());
    let waits: Option<Vec<_>> = waits.collect();
    let first = waits?.into_iter().min_by_key(|blocked| blocked.wait)?;
    let shown = show(first.wait);
    let why = match first.cause {
        WaitCause::Hold(HoldReason::RetryAfter) => {
            format!("on hold for {shown}, because it asked to wait")
        }
        WaitCause::Hold(HoldReason::Backoff) => {
            format!("on hold for {shown}, because it was throttled")
        }
        WaitCause::Hold(HoldReason::Credential) => {
            format!("on hold for {shown}, because it rejected the credential")
        }
        WaitCause::SlowStart => {
            format!("its traffic grows again after a hold; next attempt in {shown}")
        }
        WaitCause::Quota => format!("its quota headers say that its quota is used up for {shown}"),
    };
    let is_quota = first.cause == WaitCause::Quota;
    let kind = if is_quota { ObstacleKind::RateLimited } else { ObstacleKind::Held };
    Some(EndpointObstacle::new(kind, why).until(Some(first.wait)))
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
    show_elapsed(Duration::from_secs(seconds))
}
