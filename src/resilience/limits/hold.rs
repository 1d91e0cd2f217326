//! Hold: the pause after a provider required us to wait, or rejected our credential.
//!
//! - Throttled with Retry-After: `hold_until = max(hold_until, now + min(Retry-After, 300
//!   s))`, lengthened by up to a half against a stampede. Jitter only ever lengthens: an early
//!   attempt costs the next quota too.
//! - Throttled without Retry-After (or with 0): 1 s, doubling up to 60 s, once for each hold:
//!   ten attempts in flight that are all throttled are one event, not ten.
//! - Credential: 401 holds for 10 min at once; any other status after three in a row, since it
//!   may concern one request only.
//!
//! Quotas are not faults, so a hold is separate from the breaker and never feeds it. When it
//! ends, slow start limits the traffic for 10 s; the first few attempts go at once. During a hold a success means nothing,
//! because its attempt was sent before.
//!
//! Retry-After: RFC 9110 10.2.3; 429: RFC 6585 4.

use super::slow_start::SlowStart;
use crate::resilience::stats::window::RateMeter;
use crate::resilience::words::words;
use std::time::{Duration, Instant};

/// A longer Retry-After is shortened to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const CREDENTIAL_PAUSE: Duration = Duration::from_secs(600);
const CONSECUTIVE_REJECTIONS: u32 = 3;
const JITTER: f64 = 0.5;
const SLOW_START: Duration = Duration::from_secs(10);
const RATE_WINDOW: Duration = Duration::from_secs(10);

words! {
    /// Why an endpoint is held.
    pub enum HoldReason {
        /// Until the provider's Retry-After.
        RetryAfter = "retry_after",
        /// Throttled without Retry-After: exponential backoff.
        Backoff = "backoff",
        Credential = "credential",
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Free,
    Held { until: Instant, reason: HoldReason, rate: f64 },
    SlowStart(SlowStart),
}

/// The hold of one credential at one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    state: State,
    meter: RateMeter,
    /// Consecutive holds that began without Retry-After.
    pauses: u32,
    /// Consecutive rejections of the credential.
    rejections: u32,
}

impl State {
    /// The state at `now`, without any event.
    fn at(self, now: Instant) -> State {
        match self {
            State::Held { until, rate, .. } if now >= until => {
                State::SlowStart(SlowStart::after_hold(rate, SLOW_START, until)).at(now)
            }
            State::SlowStart(slow_start) if slow_start.is_over(now) => State::Free,
            _ => self,
        }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self { state: State::Free, meter: RateMeter::new(RATE_WINDOW), pauses: 0, rejections: 0 }
    }
}

impl Hold {
    /// The provider throttled an attempt. Returns the end of the hold. `draw` is in `[0,
    /// 1)`.
    pub fn throttled(&mut self, retry_after: Option<Duration>, now: Instant, draw: f64) -> Instant {
        let (pause, reason) = match retry_after {
            Some(wait) if !wait.is_zero() => (wait.min(RETRY_AFTER_MAX), HoldReason::RetryAfter),
            _ => (self.next_pause(now), HoldReason::Backoff),
        };
        self.extend(now + pause.mul_f64(1.0 + JITTER * draw.clamp(0.0, 1.0)), reason, now)
    }

    /// The provider rejected the credential. Returns the end of the hold, if one begins.
    pub fn credential(&mut self, status: u16, now: Instant) -> Option<Instant> {
        match status {
            401 => self.rejections = CONSECUTIVE_REJECTIONS,
            // 402, 403, or an error that says that a quota is used up for long.
            _ => self.rejections = self.rejections.saturating_add(1),
        }
        if self.rejections < CONSECUTIVE_REJECTIONS {
            return None;
        }
        self.rejections = 0;
        Some(self.extend(now + CREDENTIAL_PAUSE, HoldReason::Credential, now))
    }

    /// Holds at least until `until`; a later end is kept. Returns the end.
    pub fn extend(&mut self, until: Instant, reason: HoldReason, now: Instant) -> Instant {
        self.state = self.state.at(now);
        let (until, reason, rate) = match self.state {
            State::Held { until: later, reason, rate } if later >= until => (later, reason, rate),
            State::Held { rate, .. } => (until, reason, rate),
            State::SlowStart(slow_start) => (until, reason, slow_start.rate()),
            State::Free => (until, reason, self.meter.rate(now)),
        };
        self.state = State::Held { until, reason, rate };
        until
    }

    /// An attempt succeeded: throttles and rejections are no longer consecutive.
    pub fn success(&mut self, now: Instant) {
        if !self.is_held(now) {
            self.pauses = 0;
            self.rejections = 0;
        }
    }

    /// Admits an attempt, or returns the time until one may go.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.state = self.state.at(now);
        match &mut self.state {
            State::Free => {}
            State::Held { until, .. } => return Err(*until - now),
            State::SlowStart(slow_start) => slow_start.admit(now)?,
        }
        self.meter.record(now);
        Ok(())
    }

    /// Ends the hold and its slow start, and forgets what led to it.
    pub fn clear(&mut self) {
        (self.state, self.pauses, self.rejections) = (State::Free, 0, 0);
    }

    /// Takes over the rate of attempts that another hold measured.
    pub fn start_at_rate_of(&mut self, other: &Hold) {
        self.meter = other.meter.clone();
    }

    /// Whether there is no hold or slow start, and nothing that leads to one.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.state.at(now) == State::Free && self.pauses == 0 && self.rejections == 0
    }

    /// The result of [`Hold::admit`], without a change.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        match self.state.at(now) {
            State::Free => Ok(()),
            State::Held { until, .. } => Err(until - now),
            State::SlowStart(slow_start) => slow_start.check(now),
        }
    }

    /// The reason for the hold, or for the last one if nothing was admitted since.
    pub fn reason(&self) -> Option<HoldReason> {
        match self.state {
            State::Held { reason, .. } => Some(reason),
            State::Free | State::SlowStart(_) => None,
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        matches!(self.state.at(now), State::Held { .. })
    }

    /// 1 s doubling to 60 s, once for each hold.
    fn next_pause(&mut self, now: Instant) -> Duration {
        if !self.is_held(now) || self.pauses == 0 {
            self.pauses = self.pauses.saturating_add(1);
        }
        FIRST_PAUSE.saturating_mul(1 << (self.pauses - 1).min(31)).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
