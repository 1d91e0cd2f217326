//! Circuit breaker: when to stop sending attempts to an endpoint, and when to probe it again.
//!
//! - Closed: consecutive failures, the failure rate or the slow rate (evaluated on every
//!   outcome, the rates once `min_requests` are inside the window) -> Open.
//! - Open: rejects for `min(max, base * multiplier^(n-1))` +-20 % after `n` consecutive trips;
//!   then the next attempt is a probe -> HalfOpen. After 60 s closed, `n` starts at 1 again.
//! - HalfOpen: at most `probes` outstanding; `success_threshold` successes -> Closed, one
//!   failure or throttle -> Open. After closing, slow start limits the traffic
//!   (`limits/slow_start.rs`).
//!
//! A probe is a *lease*. After 8 s without an outcome, or `recovery_timeout`, another probe may
//! go. An outcome after the lease's end is ignored; otherwise one lost outcome would block for
//! ever.
//!
//! Each change of state begins a new *epoch* and clears the windows. An outcome counts only in
//! the epoch that admitted it: a slow success admitted before the trip is no evidence about the present.
//!
//! Shadow mode admits everything but goes through the same states as enforcement: an attempt
//! that enforcement would have rejected is marked on its permit, and its outcome is ignored.
//!
//! Nygard, Release It!; two steps and generations as in sony/gobreaker.

pub mod replica;
pub mod shared_state;

use super::limits::slow_start::SlowStart;
use super::outcome::Outcome;
use super::stats::window::{RateMeter, SlidingWindow};
use policy::LONGEST;
use std::time::{Duration, Instant};

pub use manual::{ManualOverride, OverrideState};
pub use policy::{AttemptLatency, BreakerPolicy, EnforcementMode, Quorum, RateRule, SlowRule};
pub use state::{
    BreakerTransition, ProbeLeases, Recovery, RejectReason, Rejection, State, StateKind,
    TransitionCause,
};

pub mod fleet;
pub mod manual;
pub mod policy;
pub mod state;

const RATE_OVER: Duration = Duration::from_secs(10);

/// Permission to make one attempt. Not `Clone`: one permit, one outcome.
#[derive(Debug)]
#[must_use = "a permit is returned with an outcome"]
pub struct BreakerPermit {
    epoch: u64,
    lease: Option<u64>,
    would_reject: bool,
}

/// The breaker of one host; hosts of a fleet share theirs through `replica.rs`.
#[derive(Clone, Debug)]
pub struct LocalBreaker {
    policy: BreakerPolicy,
    state: State,
    epoch: u64,
    /// Consecutive failures before the newest success, which may turn out to have been one
    /// of them.
    failures_before_success: u32,
    failed: Option<SlidingWindow>,
    slow: Option<SlidingWindow>,
    attempts: RateMeter,
    manual: Option<ManualOverride>,
    /// The cause of the last trip.
    opened_by: Option<TransitionCause>,
}

fn above(window: &SlidingWindow, share: f64, min_requests: u32, now: Instant) -> bool {
    let (total, bad) = window.counts(now);
    bad > 0 && total >= min_requests && f64::from(bad) > share * f64::from(total)
}

impl BreakerPermit {
    /// The breaker's epoch when the permit was issued.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn is_probe(&self) -> bool {
        self.lease.is_some()
    }

    /// Shadow mode only: enforcement would have rejected this attempt.
    pub fn would_reject(&self) -> bool {
        self.would_reject
    }
}

impl LocalBreaker {
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::CLOSED,
            epoch: 0,
            failures_before_success: 0,
            failed: policy.failure_rate.map(|rule| SlidingWindow::new(rule.over)),
            slow: policy.slow_rate.map(|rule| SlidingWindow::new(rule.over)),
            attempts: RateMeter::new(RATE_OVER),
            manual: None,
            opened_by: None,
        }
    }

    /// Takes a new policy. State and counts are kept, and so is an end that is already
    /// set.
    pub fn retune(&mut self, policy: BreakerPolicy) {
        resize(&mut self.failed, policy.failure_rate.map(|rule| rule.over));
        resize(&mut self.slow, policy.slow_rate.map(|rule| rule.over));
        self.policy = policy;
    }

    /// Admits or rejects an attempt. An open breaker turns half-open here.
    pub fn admit(
        &mut self,
        now: Instant,
    ) -> (Result<BreakerPermit, Rejection>, Option<BreakerTransition>) {
        let transition = self.advance(now);
        let (lease, would_reject) = match (self.take(now), self.mode(now)) {
            (Ok(lease), _) => (lease, false),
            (Err(_), EnforcementMode::Shadow) => (None, true),
            (Err(rejection), EnforcementMode::Enforce) => {
                return (Err(self.with_override_hint(rejection, now)), transition);
            }
        };
        (Ok(BreakerPermit { epoch: self.epoch, lease, would_reject }), transition)
    }

    /// The result of [`LocalBreaker::admit`] without a change, to compare candidates.
    pub fn would_admit(&self, now: Instant) -> Result<(), Rejection> {
        match self.mode(now) {
            EnforcementMode::Enforce => {
                let checked = self.state.check(self.policy.probes, now);
                checked.map_err(|rejection| self.with_override_hint(rejection, now))
            }
            EnforcementMode::Shadow => Ok(()),
        }
    }

    /// Returns a permit with its outcome. `took` is the time to the first byte; `draw`, in
    /// `[0, 1)`, spreads the open time if this trips.
    pub fn observe(
        &mut self,
        permit: BreakerPermit,
        outcome: Outcome,
        latency: impl Into<AttemptLatency>,
        now: Instant,
        draw: f64,
    ) -> Option<BreakerTransition> {
        let latency = latency.into();
        if permit.epoch != self.epoch || permit.would_reject {
            return None;
        }
        match self.state {
            State::Closed { .. } => self.observe_closed(outcome, latency, now, draw),
            State::HalfOpen { .. } => {
                self.observe_probe(permit.lease?, outcome, latency.took, now, draw)
            }
            State::Open { .. } => None,
        }
    }

    /// Counts a stream that broke after its permit was returned as a success: that success
    /// was a failure. `epoch` is the permit's. Never applies to a probe; ignored unless
    /// closed since then.
    pub fn observe_interruption(
        &mut self,
        epoch: u64,
        now: Instant,
        draw: f64,
    ) -> Option<BreakerTransition> {
        let State::Closed { failures, .. } = &mut self.state else { return None };
        if epoch != self.epoch {
            return None;
        }
        let before = std::mem::take(&mut self.failures_before_success);
        *failures = failures.saturating_add(before).saturating_add(1);
        if let Some(window) = &mut self.failed {
            window.mark_bad(now);
        }
        self.trip_if_due(now, draw)
    }

    pub fn kind(&self) -> StateKind {
        self.state.kind()
    }

    pub fn policy(&self) -> &BreakerPolicy {
        &self.policy
    }

    /// Number of state changes so far.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Consecutive trips; 0 when the last one is forgotten.
    pub fn trips(&self) -> u32 {
        match self.state {
            State::Closed { recovery, .. } => recovery.map_or(0, |recovery| recovery.trips),
            State::Open { trips, .. } | State::HalfOpen { trips, .. } => trips,
        }
    }

    /// Open: the end of the open time.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Share of its normal traffic that the endpoint should get: 0.1 to 1 during slow
    /// start.
    pub fn slow_start(&self, now: Instant) -> f64 {
        match (&self.state, self.mode(now)) {
            (
                State::Closed { recovery: Some(Recovery { ramp: Some(ramp), .. }), .. },
                EnforcementMode::Enforce,
            ) => ramp.share(now),
            _ => 1.0,
        }
    }

    /// Applies the changes that only depend on time.
    fn advance(&mut self, now: Instant) -> Option<BreakerTransition> {
        if self.manual.is_some_and(|manual| manual.has_expired(now)) {
            self.manual = None;
        }
        let kept_open = self.manual.is_some_and(|manual| manual.state == OverrideState::Open);
        match &mut self.state {
            State::Open { until, .. } if now >= *until && kept_open => *until = now + LONGEST,
            State::Open { until, trips, rate } if now >= *until => {
                let (trips, rate) = (*trips, *rate);
                let leases = ProbeLeases::default();
                let half_open = State::HalfOpen { trips, rate, successes: 0, leases };
                return Some(self.enter(half_open, TransitionCause::Elapsed));
            }
            State::Closed { recovery, .. } if recovery.is_some_and(|r| r.is_over(now)) => {
                *recovery = None;
            }
            _ => {}
        }
        None
    }

    /// Takes one admission: a slow start credit while closed, a lease while half-open.
    fn take(&mut self, now: Instant) -> Result<Option<u64>, Rejection> {
        self.state.check(self.policy.probes, now)?;
        match &mut self.state {
            State::Closed { recovery, .. } => {
                if let Some(ramp) = recovery.as_mut().and_then(|recovery| recovery.ramp.as_mut()) {
                    ramp.spend(now);
                }
                self.attempts.record(now);
                Ok(None)
            }
            State::HalfOpen { leases, .. } => {
                let lease = self.policy.probe_lease.min(LONGEST);
                Ok(Some(leases.grant(now, self.policy.fast_cap(), lease)))
            }
            State::Open { .. } => Ok(None),
        }
    }

    /// Counts an outcome while closed.
    fn observe_closed(
        &mut self,
        outcome: Outcome,
        latency: AttemptLatency,
        now: Instant,
        draw: f64,
    ) -> Option<BreakerTransition> {
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure => true,
            // An exceeded quota is not a fault, and does not prove health either.
            Outcome::Throttled | Outcome::Ignored => return None,
        };
        if let State::Closed { failures, .. } = &mut self.state {
            if failed {
                *failures = failures.saturating_add(1);
            } else {
                self.failures_before_success = std::mem::take(failures);
            }
        }
        if let Some(window) = &mut self.failed {
            window.record(now, failed);
        }
        if let (Some(window), Some(rule)) = (&mut self.slow, self.policy.slow_rate)
            && let Some(is_slow) = rule.is_slow(latency)
        {
            window.record(now, is_slow);
        }
        self.trip_if_due(now, draw)
    }

    /// Counts a probe's outcome.
    fn observe_probe(
        &mut self,
        lease: u64,
        outcome: Outcome,
        took: Duration,
        now: Instant,
        draw: f64,
    ) -> Option<BreakerTransition> {
        let State::HalfOpen { trips, rate, successes, leases } = &mut self.state else {
            return None;
        };
        let counts_failure = leases.give_back(lease, now)?;
        let (trips, rate) = (*trips, *rate);
        match outcome {
            Outcome::Ignored => None,
            Outcome::Failure | Outcome::Throttled if !counts_failure => None,
            Outcome::Failure | Outcome::Throttled => {
                let trips = trips.saturating_add(1);
                let until = now + self.policy.open_after_probe(trips, took, draw);
                let open = State::Open { until, trips, rate };
                Some(self.enter(open, TransitionCause::ProbeFailed))
            }
            Outcome::Success => {
                *successes += 1;
                if *successes < self.policy.success_threshold {
                    return None;
                }
                Some(self.enter(self.recovered(trips, rate, now), TransitionCause::ProbeSucceeded))
            }
        }
    }

    fn trip_if_due(&mut self, now: Instant, draw: f64) -> Option<BreakerTransition> {
        let State::Closed { failures, recovery } = self.state else { return None };
        if self.is_kept_closed(now) {
            return None;
        }
        let cause = self.trip_cause(failures, now)?;
        let trips = recovery.map_or(0, |recovery| recovery.remembered_trips(now));
        let rate = self.rate(now);
        let trips = trips.saturating_add(1);
        let until = now + self.policy.open_for(trips, draw);
        Some(self.enter(State::Open { until, trips, rate }, cause))
    }

    /// Attempts per second without the breaker's influence: now, or before the trip.
    fn rate(&self, now: Instant) -> f64 {
        match self.state {
            State::Open { rate, .. } | State::HalfOpen { rate, .. } => rate,
            State::Closed { recovery, .. } => {
                // During slow start the admitted rate is below the demand.
                let ramp = recovery.and_then(|r| r.ramp).filter(|ramp| !ramp.is_over(now));
                self.attempts.rate(now).max(ramp.map_or(0.0, |ramp| ramp.rate()))
            }
        }
    }

    /// The closed state after a trip: with slow start, and with the trips remembered.
    fn recovered(&self, trips: u32, rate: f64, now: Instant) -> State {
        let over = self.policy.ramp;
        let ramp = (!over.is_zero()).then(|| SlowStart::new(rate, over, now));
        State::Closed { failures: 0, recovery: Some(Recovery { closed_at: now, trips, ramp }) }
    }

    fn trip_cause(&self, failures: u32, now: Instant) -> Option<TransitionCause> {
        let BreakerPolicy { failure_threshold, failure_rate, slow_rate, .. } = self.policy;
        if failure_threshold > 0 && failures >= failure_threshold {
            return Some(TransitionCause::Consecutive);
        }
        if let (Some(window), Some(rule)) = (&self.failed, failure_rate)
            && above(window, rule.above, rule.min_requests, now)
        {
            return Some(TransitionCause::FailureRate);
        }
        if let (Some(window), Some(rule)) = (&self.slow, slow_rate)
            && above(window, rule.above, rule.min_requests, now)
        {
            return Some(TransitionCause::SlowRate);
        }
        None
    }

    fn enter(&mut self, next: State, cause: TransitionCause) -> BreakerTransition {
        let (from, to) = (self.state.kind(), next.kind());
        self.opened_by = if to == StateKind::Open { Some(cause) } else { self.opened_by };
        self.state = next;
        self.epoch += 1;
        self.failures_before_success = 0;
        self.attempts.clear();
        for window in [&mut self.failed, &mut self.slow].into_iter().flatten() {
            window.clear();
        }
        BreakerTransition { from, to, cause, epoch: self.epoch }
    }
}

/// Replaces the window only if its length changed.
fn resize(window: &mut Option<SlidingWindow>, over: Option<Duration>) {
    if window.as_ref().map(SlidingWindow::over) != over {
        *window = over.map(SlidingWindow::new);
    }
}

#[cfg(test)]
mod tests;
