//! Manual override of a breaker: open, closed or shadow, until an end or until removed.
//!
//! An override takes precedence over the policy and over outcomes, and uses the ordinary
//! states: *open* is the open state with the operator's end, *closed* is the closed state
//! without tripping, *shadow* is the policy mode of that name. When it ends, the normal course
//! follows, so an endpoint that was forced open is probed first.

use super::policy::{EnforcementMode, LONGEST};
use super::state::{State, StateKind};
use super::{BreakerTransition, LocalBreaker, Rejection, TransitionCause};
use crate::resilience::words::words;
use std::time::{Duration, Instant};

/// Retry hint of an override without an end.
const OPEN_ENDED_RETRY: Duration = Duration::from_secs(60);

words! {
    /// The state that an operator sets.
    pub enum OverrideState {
        Open = "open",
        Closed = "closed",
        Shadow = "shadow",
    }
}

/// A manual override and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManualOverride {
    pub state: OverrideState,
    /// `None`: until it is removed.
    pub until: Option<Instant>,
}

impl ManualOverride {
    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

impl LocalBreaker {
    /// Sets an override; the last one set counts.
    pub fn set_override(
        &mut self,
        manual: ManualOverride,
        now: Instant,
    ) -> Option<BreakerTransition> {
        let was_forced_open =
            self.active_override(now).is_some_and(|manual| manual.state == OverrideState::Open);
        self.manual = Some(manual);
        match manual.state {
            OverrideState::Open => {
                let rate = self.attempts.rate(now);
                let until = manual.until.unwrap_or(now + LONGEST);
                let trips = self.trips().max(1);
                Some(self.enter(State::Open { until, trips, rate }, TransitionCause::Override))
            }
            OverrideState::Closed => Some(self.enter(State::CLOSED, TransitionCause::Override)),
            // The end of the previous override must not outlast it.
            OverrideState::Shadow if was_forced_open => {
                Some(self.enter(State::CLOSED, TransitionCause::Override))
            }
            OverrideState::Shadow => None,
        }
    }

    /// Removes the override and resets: closed, nothing remembered.
    pub fn reset(&mut self) -> BreakerTransition {
        self.manual = None;
        self.enter(State::CLOSED, TransitionCause::Override)
    }

    /// The active override.
    pub fn active_override(&self, now: Instant) -> Option<ManualOverride> {
        self.manual.filter(|manual| !manual.has_expired(now))
    }

    /// The policy's mode, or shadow by override.
    pub fn mode(&self, now: Instant) -> EnforcementMode {
        match self.active_override(now) {
            Some(ManualOverride { state: OverrideState::Shadow, .. }) => EnforcementMode::Shadow,
            _ => self.policy.mode,
        }
    }

    /// Whether an override keeps the breaker from tripping.
    pub(crate) fn is_kept_closed(&self, now: Instant) -> bool {
        self.active_override(now).is_some_and(|manual| manual.state == OverrideState::Closed)
    }

    /// Replaces the end of an override without an end, which is no time to wait for, by a
    /// hint.
    pub(crate) fn with_override_hint(&self, rejection: Rejection, now: Instant) -> Rejection {
        match self.active_override(now) {
            Some(ManualOverride { state: OverrideState::Open, until: None })
                if self.kind() == StateKind::Open =>
            {
                Rejection { retry_after: OPEN_ENDED_RETRY, ..rejection }
            }
            _ => rejection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::breaker::BreakerPolicy;
    use crate::resilience::breaker::tests::try_attempt as attempt;
    use crate::resilience::outcome::Outcome;
    use proptest::prelude::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        failure_threshold: 2,
        failure_rate: None,
        slow_rate: None,
        recovery_timeout: Duration::from_secs(10),
        backoff_multiplier: 2.0,
        max_recovery_timeout: Duration::from_secs(60),
        success_threshold: 1,
        probes: 1,
        probe_lease: Duration::from_secs(5),
        ramp: Duration::ZERO,
        mode: EnforcementMode::Enforce,
        shared: None,
    };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_forced_open_breaker_probes_after_its_end() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        let until = Some(t0 + secs(600));
        let transition = breaker
            .set_override(ManualOverride { state: OverrideState::Open, until }, t0)
            .expect("a transition");
        assert_eq!((transition.to, transition.cause), (StateKind::Open, TransitionCause::Override));
        assert!(!attempt(&mut breaker, Outcome::Success, t0 + secs(599)));
        assert!(attempt(&mut breaker, Outcome::Success, t0 + secs(600)));
        assert_eq!(
            (breaker.kind(), breaker.active_override(t0 + secs(600))),
            (StateKind::Closed, None)
        );
    }

    #[test]
    fn an_open_override_without_an_end_hints_a_minute() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        breaker.set_override(ManualOverride { state: OverrideState::Open, until: None }, t0);
        let Err(rejection) = breaker.admit(t0 + secs(86_400)).0 else { panic!("it is open") };
        assert_eq!(rejection.retry_after, OPEN_ENDED_RETRY);
        assert_eq!(breaker.would_admit(t0), Err(rejection));
        breaker.reset();
        assert!(attempt(&mut breaker, Outcome::Success, t0 + secs(86_400)));
    }

    #[test]
    fn a_forced_closed_breaker_does_not_trip_until_its_end() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        breaker.set_override(
            ManualOverride { state: OverrideState::Closed, until: Some(t0 + secs(60)) },
            t0,
        );
        for n in 0..50 {
            assert!(attempt(&mut breaker, Outcome::Failure, t0 + secs(n)));
        }
        attempt(&mut breaker, Outcome::Failure, t0 + secs(60));
        assert_eq!(breaker.kind(), StateKind::Open);
    }

    #[test]
    fn forcing_closed_forgets_the_trip() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        for _ in 0..2 {
            attempt(&mut breaker, Outcome::Failure, t0);
        }
        assert_eq!(breaker.kind(), StateKind::Open);
        breaker.set_override(ManualOverride { state: OverrideState::Closed, until: None }, t0);
        assert!(attempt(&mut breaker, Outcome::Success, t0) && breaker.trips() == 0);
    }

    #[test]
    fn forced_shadow_changes_states_and_rejects_nothing() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        assert_eq!(
            breaker.set_override(ManualOverride { state: OverrideState::Shadow, until: None }, t0),
            None
        );
        for _ in 0..3 {
            assert!(attempt(&mut breaker, Outcome::Failure, t0));
        }
        assert_eq!((breaker.kind(), breaker.mode(t0)), (StateKind::Open, EnforcementMode::Shadow));
        breaker.set_override(ManualOverride { state: OverrideState::Open, until: None }, t0);
        breaker.set_override(ManualOverride { state: OverrideState::Shadow, until: None }, t0);
        assert_eq!(breaker.kind(), StateKind::Closed);
    }

    fn override_steps() -> impl Strategy<Value = Vec<(u8, u64, u64, bool)>> {
        prop::collection::vec((0u8..5, 0u64..30, 1u64..60, any::<bool>()), 0..40)
    }

    proptest! {
        #[test]
        fn an_active_override_decides_alone(steps in override_steps()) {
            let (mut now, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
            for (what, wait, long, good) in steps {
                now += secs(wait);
                let state = [OverrideState::Open, OverrideState::Closed, OverrideState::Shadow].get(what as usize);
                match (state, what) {
                    (Some(&state), _) => {
                        let until = good.then_some(now + secs(long));
                        breaker.set_override(ManualOverride { state, until }, now);
                    }
                    (None, 3) => drop(breaker.reset()),
                    _ => {}
                }
                let outcome = if good { Outcome::Success } else { Outcome::Failure };
                let admitted = attempt(&mut breaker, outcome, now);
                match breaker.active_override(now).map(|manual| manual.state) {
                    Some(OverrideState::Open) => prop_assert!(!admitted),
                    Some(OverrideState::Closed | OverrideState::Shadow) => prop_assert!(admitted),
                    None => {}
                }
            }
        }
    }
}
