//! A local breaker that follows the fleet's.
//!
//! Where hosts share a breaker, its shared state decides (`replica.rs`) while the host is
//! connected. The local breaker follows it meanwhile, so that it is in the right state when
//! the host must decide alone: open until this host's copy of the end, then probing, then
//! closed; and so that slow start applies here as everywhere else. A manual override takes
//! precedence over the fleet.

use super::state::{ProbeLeases, State, StateKind};
use super::{BreakerTransition, LocalBreaker, OverrideState, TransitionCause};
use std::time::Instant;

impl LocalBreaker {
    /// Whether it tripped, and has not closed since, on this host's own outcomes: not by
    /// an override, and not by the fleet.
    pub fn has_tripped(&self) -> bool {
        let by_other_cause = matches!(
            self.opened_by,
            None | Some(TransitionCause::Override | TransitionCause::Fleet)
        );
        self.kind() != StateKind::Closed && !by_other_cause
    }

    /// Follows the fleet's breaker to this state: open until then, after that many
    /// consecutive trips.
    pub fn follow(
        &mut self,
        kind: StateKind,
        until: Instant,
        trips: u32,
        now: Instant,
    ) -> Option<BreakerTransition> {
        if self.active_override(now).is_some_and(|manual| manual.state != OverrideState::Shadow) {
            return None;
        }
        let (rate, trips) = (self.rate(now), trips.max(1));
        let next = match kind {
            StateKind::Open => State::Open { until, trips, rate },
            StateKind::HalfOpen => {
                State::HalfOpen { trips, rate, successes: 0, leases: ProbeLeases::default() }
            }
            StateKind::Closed if self.kind() == StateKind::Closed => return None,
            StateKind::Closed => self.recovered(trips, rate, now),
        };
        Some(self.enter(next, TransitionCause::Fleet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::breaker::tests::try_attempt as attempt;
    use crate::resilience::breaker::{BreakerPolicy, EnforcementMode, ManualOverride};
    use crate::resilience::outcome::Outcome;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: BreakerPolicy = BreakerPolicy {
        failure_threshold: 2,
        failure_rate: None,
        slow_rate: None,
        recovery_timeout: SECOND,
        backoff_multiplier: 2.0,
        max_recovery_timeout: Duration::from_secs(60),
        success_threshold: 1,
        probes: 1,
        probe_lease: Duration::from_secs(5),
        ramp: Duration::from_secs(10),
        mode: EnforcementMode::Enforce,
        shared: None,
    };

    #[test]
    fn a_host_that_lost_the_fleet_probes_at_its_copy_of_the_end() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        let transition =
            breaker.follow(StateKind::Open, t0 + 9 * SECOND, 3, t0).expect("a transition");
        assert_eq!(
            (transition.to, transition.cause, breaker.trips()),
            (StateKind::Open, TransitionCause::Fleet, 3)
        );
        assert!(!attempt(&mut breaker, Outcome::Success, t0 + 8 * SECOND));
        assert!(attempt(&mut breaker, Outcome::Success, t0 + 9 * SECOND));
        assert_eq!(breaker.kind(), StateKind::Closed);
    }

    #[test]
    fn slow_start_follows_a_close_by_the_fleet() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        for n in 0..1000u32 {
            attempt(&mut breaker, Outcome::Success, t0 + SECOND * n / 100);
        }
        let t1 = t0 + 10 * SECOND;
        breaker.follow(StateKind::Open, t1 + SECOND, 1, t1);
        breaker.follow(StateKind::HalfOpen, t1, 1, t1 + SECOND);
        breaker.follow(StateKind::Closed, t1, 1, t1 + 2 * SECOND);
        assert!(breaker.slow_start(t1 + 2 * SECOND) <= 0.11);
        let admitted = (0..200u32).filter(|n| {
            attempt(&mut breaker, Outcome::Success, t1 + 2 * SECOND + SECOND * *n / 200)
        });
        assert!((5..40).contains(&admitted.count()), "about a tenth of 100 a second");
    }

    #[test]
    fn following_to_closed_while_closed_changes_nothing() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        attempt(&mut breaker, Outcome::Failure, t0);
        assert_eq!(breaker.follow(StateKind::Closed, t0, 0, t0), None);
        attempt(&mut breaker, Outcome::Failure, t0);
        assert_eq!(breaker.kind(), StateKind::Open, "both failures count");
    }

    #[test]
    fn only_local_outcomes_count_as_a_local_trip() {
        let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
        breaker.set_override(
            ManualOverride { state: OverrideState::Open, until: Some(t0 + SECOND) },
            t0,
        );
        assert!(!breaker.has_tripped(), "an override did");
        breaker.reset();
        breaker.follow(StateKind::Open, t0 + SECOND, 1, t0);
        assert!(!breaker.has_tripped(), "the fleet did");
        breaker.follow(StateKind::Closed, t0, 1, t0);
        let t1 = t0 + 60 * SECOND;
        assert!((0..2).all(|_| attempt(&mut breaker, Outcome::Failure, t1)));
        assert!(breaker.has_tripped());
        assert!(attempt(&mut breaker, Outcome::Success, t1 + 2 * SECOND), "a probe");
        assert!(!breaker.has_tripped());
    }

    fn kinds() -> impl Strategy<Value = StateKind> {
        prop_oneof![Just(StateKind::Open), Just(StateKind::HalfOpen), Just(StateKind::Closed)]
    }

    proptest! {
        #[test]
        fn an_override_outranks_the_fleet(steps in prop::collection::vec((kinds(), 0u32..40), 1..40)) {
            for state in [OverrideState::Open, OverrideState::Closed] {
                let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
                breaker.set_override(ManualOverride { state, until: None }, t0);
                for (kind, at) in &steps {
                    let now = t0 + *at * SECOND;
                    prop_assert_eq!(breaker.follow(*kind, now + SECOND, 1, now), None);
                    let admitted = attempt(&mut breaker, Outcome::Failure, now);
                    prop_assert_eq!(admitted, state == OverrideState::Closed);
                }
            }
        }

        #[test]
        fn the_local_state_is_the_last_state_of_the_fleet(steps in prop::collection::vec((kinds(), 0u32..9), 1..40)) {
            let (mut now, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
            for (kind, wait) in steps {
                now += Duration::from_millis(100) * wait;
                let before = breaker.epoch();
                let transition = breaker.follow(kind, now + SECOND, 1, now);
                prop_assert_eq!(breaker.kind(), kind);
                prop_assert_eq!(breaker.epoch(), before + u64::from(transition.is_some()));
            }
        }
    }
}
