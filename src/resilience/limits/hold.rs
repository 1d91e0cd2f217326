//! Hold: a provider told us to wait, or refused our credential; until when we ask nothing of it.
//!
//! - Throttled: `hold_until = max(hold_until, now + min(Retry-After, 300 s))`, lengthened by up
//!   to half against a herd. Jitter only ever lengthens: asking early costs the next quota too.
//! - Throttled without Retry-After (or with 0): 1 s, doubling to 60 s. It doubles once for each
//!   hold: ten attempts in flight that are all refused are one event, not ten.
//! - Credential: 401 holds 10 min at once; 402 and 403 after three in a row, since either may
//!   be about one request only.
//!
//! Quotas are not faults, so a hold is apart from the breaker and never feeds it. On its end
//! traffic ramps over 10 s. While held, a success tells nothing (its attempt was sent before).
//!
//! Retry-After: RFC 9110 10.2.3; 429: RFC 6585 4.

use super::slow_start::SlowStart;
use crate::resilience::stats::window::RateMeter;
use std::time::{Duration, Instant};

/// A longer Retry-After is taken for this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const CREDENTIAL_PAUSE: Duration = Duration::from_secs(600);
const REFUSALS_IN_A_ROW: u32 = 3;
const JITTER: f64 = 0.5;
const RAMP: Duration = Duration::from_secs(10);
const RATE_OVER: Duration = Duration::from_secs(10);

/// Why an endpoint is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// Until a time that the provider said.
    RetryAfter,
    /// It said no time.
    Backoff,
    Credential,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Free,
    Held { until: Instant, cause: HoldReason, rate: f64 },
    Ramping(SlowStart),
}

/// One hold: of one credential at one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    state: State,
    meter: RateMeter,
    /// Holds in a row that a throttle without Retry-After began.
    pauses: u32,
    /// 402 and 403 in a row.
    refusals: u32,
}

// === impl Cause ===

impl HoldReason {
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::RetryAfter | HoldReason::Backoff => "throttled",
            HoldReason::Credential => "credential",
        }
    }
}

// === impl State ===

impl State {
    /// The state that time alone makes of this one.
    fn at(self, now: Instant) -> State {
        match self {
            State::Held { until, rate, .. } if now >= until => {
                State::Ramping(SlowStart::new(rate, RAMP, until)).at(now)
            }
            State::Ramping(ramp) if ramp.is_over(now) => State::Free,
            _ => self,
        }
    }
}

// === impl Hold ===

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}

impl Hold {
    pub fn new() -> Self {
        Self { state: State::Free, meter: RateMeter::new(RATE_OVER), pauses: 0, refusals: 0 }
    }

    /// The provider said to come later. Returns the end of the hold. `draw` is in `[0, 1)`.
    pub fn throttled(&mut self, retry_after: Option<Duration>, now: Instant, draw: f64) -> Instant {
        let (pause, cause) = match retry_after {
            Some(told) if !told.is_zero() => (told.min(RETRY_AFTER_MAX), HoldReason::RetryAfter),
            _ => (self.next_pause(now), HoldReason::Backoff),
        };
        self.extend(now + pause.mul_f64(1.0 + JITTER * draw.clamp(0.0, 1.0)), cause, now)
    }

    /// The provider refused the credential. Returns the end of the hold, if that begins one.
    pub fn credential(&mut self, status: u16, now: Instant) -> Option<Instant> {
        match status {
            401 => self.refusals = REFUSALS_IN_A_ROW,
            402 | 403 => self.refusals = self.refusals.saturating_add(1),
            _ => return None,
        }
        if self.refusals < REFUSALS_IN_A_ROW {
            return None;
        }
        self.refusals = 0;
        Some(self.extend(now + CREDENTIAL_PAUSE, HoldReason::Credential, now))
    }

    /// Holds at least until `until`; an end that is later already stays. Returns the end.
    pub fn extend(&mut self, until: Instant, cause: HoldReason, now: Instant) -> Instant {
        self.state = self.state.at(now);
        let (until, cause, rate) = match self.state {
            State::Held { until: later, cause, rate } if later >= until => (later, cause, rate),
            State::Held { rate, .. } => (until, cause, rate),
            State::Ramping(ramp) => (until, cause, ramp.rate()),
            State::Free => (until, cause, self.meter.rate(now)),
        };
        self.state = State::Held { until, cause, rate };
        until
    }

    /// An attempt succeeded: throttles and refusals are no longer in a row.
    pub fn success(&mut self, now: Instant) {
        if !self.is_held(now) {
            self.pauses = 0;
            self.refusals = 0;
        }
    }

    /// May an attempt go now? If not, how long until it may.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.state = self.state.at(now);
        match &mut self.state {
            State::Free => {}
            State::Held { until, .. } => return Err(*until - now),
            State::Ramping(ramp) => ramp.admit(now)?,
        }
        self.meter.record(now);
        Ok(())
    }

    /// What [`Hold::admit`] would say, without a change.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        match self.state.at(now) {
            State::Free => Ok(()),
            State::Held { until, .. } => Err(until - now),
            State::Ramping(ramp) => ramp.check(now),
        }
    }

    /// End of the hold, or of the last one when nobody asked since. Compare it with the time.
    pub fn until(&self) -> Option<Instant> {
        match self.state {
            State::Held { until, .. } => Some(until),
            State::Free | State::Ramping(_) => None,
        }
    }

    /// Why [`Hold::until`] is there.
    pub fn cause(&self) -> Option<HoldReason> {
        match self.state {
            State::Held { cause, .. } => Some(cause),
            State::Free | State::Ramping(_) => None,
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
