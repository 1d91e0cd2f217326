//! A breaker by an operator's hand: open, closed or shadow, for a time or until released.
//!
//! It outranks the policy and what attempts teach, and nothing else of the breaker is bent for it:
//! open is the open state with an end of the operator's; closed is the closed state that does not
//! trip; shadow is the policy's mode of that name. What comes after the end is the usual course, so
//! an endpoint that was opened by hand is asked by a probe first.

use super::policy::{EnforcementMode, LONGEST};
use super::state::{State, StateKind};
use super::{Breaker, BreakerTransition, Rejection, TransitionCause};
use std::time::{Duration, Instant};

/// An open end far away tells nobody when to ask again; this does.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What an operator wants of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverrideState {
    Open,
    Closed,
    Shadow,
}

/// A wish, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManualOverride {
    pub state: OverrideState,
    /// `None`: until it is released.
    pub until: Option<Instant>,
}

// === impl Wish, Hand ===

impl OverrideState {
    pub fn as_str(self) -> &'static str {
        match self {
            OverrideState::Open => "open",
            OverrideState::Closed => "closed",
            OverrideState::Shadow => "shadow",
        }
    }
}

impl ManualOverride {
    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

// === impl Breaker ===

impl Breaker {
    /// Puts an operator's hand on the breaker; the last one counts.
    pub fn set_override(
        &mut self,
        hand: ManualOverride,
        now: Instant,
    ) -> Option<BreakerTransition> {
        let was_open_by_hand = self.hand(now).is_some_and(|hand| hand.state == OverrideState::Open);
        self.hand = Some(hand);
        match hand.state {
            OverrideState::Open => {
                let rate = self.attempts.rate(now);
                let until = hand.until.unwrap_or(now + LONGEST);
                let trips = self.trips().max(1);
                Some(self.enter(State::Open { until, trips, rate }, TransitionCause::Override))
            }
            OverrideState::Closed => Some(self.enter(State::CLOSED, TransitionCause::Override)),
            // An end that a hand had set would outlast it.
            OverrideState::Shadow if was_open_by_hand => {
                Some(self.enter(State::CLOSED, TransitionCause::Override))
            }
            OverrideState::Shadow => None,
        }
    }

    /// Takes the hand off and begins anew: closed, with nothing remembered.
    pub fn reset(&mut self) -> BreakerTransition {
        self.hand = None;
        self.enter(State::CLOSED, TransitionCause::Override)
    }

    /// The hand that is on the breaker.
    pub fn hand(&self, now: Instant) -> Option<ManualOverride> {
        self.hand.filter(|hand| !hand.has_expired(now))
    }

    /// The policy's mode, or shadow by hand.
    pub fn mode(&self, now: Instant) -> EnforcementMode {
        match self.hand(now) {
            Some(ManualOverride { state: OverrideState::Shadow, .. }) => EnforcementMode::Shadow,
            _ => self.policy.mode,
        }
    }

    /// Whether a hand keeps the breaker from tripping.
    pub(crate) fn is_kept_closed(&self, now: Instant) -> bool {
        self.hand(now).is_some_and(|hand| hand.state == OverrideState::Closed)
    }

    /// As this breaker says it: an end that nobody knows is no time to wait for.
    pub(crate) fn with_override_hint(&self, rejection: Rejection, now: Instant) -> Rejection {
        match self.hand(now) {
            Some(ManualOverride { state: OverrideState::Open, until: None })
                if self.kind() == StateKind::Open =>
            {
                Rejection { retry_after: ASK_AGAIN, ..rejection }
            }
            _ => rejection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::breaker::{BreakerAdmission, BreakerPolicy};
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

    fn attempt(breaker: &mut Breaker, outcome: Outcome, now: Instant) -> bool {
        match breaker.admit(now).0 {
            BreakerAdmission::Admit(permit) => {
                breaker.observe(permit, outcome, Duration::ZERO, now, 0.5);
                true
            }
            BreakerAdmission::Reject(_) => false,
        }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn open_by_hand_asks_nobody_until_its_end_and_then_by_a_probe() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        let until = Some(t0 + secs(600));
        let moved = breaker
            .set_override(ManualOverride { state: OverrideState::Open, until }, t0)
            .expect("a transition");
        assert_eq!((moved.to, moved.cause), (StateKind::Open, TransitionCause::Override));
        assert!(!attempt(&mut breaker, Outcome::Success, t0 + secs(599)));
        assert!(attempt(&mut breaker, Outcome::Success, t0 + secs(600)));
        assert_eq!((breaker.kind(), breaker.hand(t0 + secs(600))), (StateKind::Closed, None));
    }

    #[test]
    fn without_an_end_it_stays_open_and_tells_a_minute() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        breaker.set_override(ManualOverride { state: OverrideState::Open, until: None }, t0);
        let BreakerAdmission::Reject(rejection) = breaker.admit(t0 + secs(86_400)).0 else {
            panic!("it is open")
        };
        assert_eq!(rejection.retry_after, ASK_AGAIN);
        assert_eq!(breaker.would_admit(t0), Err(rejection));
        breaker.reset();
        assert!(attempt(&mut breaker, Outcome::Success, t0 + secs(86_400)));
    }

    #[test]
    fn closed_by_hand_does_not_trip_until_its_end() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
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
    fn closing_by_hand_forgets_that_it_was_open() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        for _ in 0..2 {
            attempt(&mut breaker, Outcome::Failure, t0);
        }
        assert_eq!(breaker.kind(), StateKind::Open);
        breaker.set_override(ManualOverride { state: OverrideState::Closed, until: None }, t0);
        assert!(attempt(&mut breaker, Outcome::Success, t0) && breaker.trips() == 0);
    }

    #[test]
    fn shadow_by_hand_takes_the_course_and_refuses_nothing() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
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

    fn hands() -> impl Strategy<Value = Vec<(u8, u64, u64, bool)>> {
        prop::collection::vec((0u8..5, 0u64..30, 1u64..60, any::<bool>()), 0..40)
    }

    proptest! {
        #[test]
        fn while_a_hand_is_on_it_decides_alone(steps in hands()) {
            let (mut now, mut breaker) = (Instant::now(), Breaker::new(POLICY));
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
                match breaker.hand(now).map(|hand| hand.state) {
                    Some(OverrideState::Open) => prop_assert!(!admitted),
                    Some(OverrideState::Closed | OverrideState::Shadow) => prop_assert!(admitted),
                    None => {}
                }
            }
        }
    }
}
