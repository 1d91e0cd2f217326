//! A breaker that takes the course of its fleet's.
//!
//! Where hosts share a breaker, its register decides (`member.rs`) for as long as the host hears of
//! it. The host's own breaker is led along meanwhile, so that it is where it has to be when the host
//! must decide alone: open to this host's copy of the end, then probed, then closed; and so that
//! traffic ramps here as it does everywhere. An operator's hand on it outranks the fleet.

use super::state::{ProbeLeases, State, StateKind};
use super::{Breaker, BreakerTransition, OverrideState, TransitionCause};
use std::time::Instant;

impl Breaker {
    /// Whether it is open, or was and is not closed yet, by what this host itself has seen: neither by
    /// a hand nor because the fleet is.
    pub fn has_tripped(&self) -> bool {
        let by_others =
            matches!(self.opened, None | Some(TransitionCause::Override | TransitionCause::Fleet));
        self.kind() != StateKind::Closed && !by_others
    }

    /// The fleet's breaker came to this state: open until then, after so many trips in a row.
    pub fn follow(
        &mut self,
        kind: StateKind,
        until: Instant,
        trips: u32,
        now: Instant,
    ) -> Option<BreakerTransition> {
        if self.hand(now).is_some_and(|hand| hand.state != OverrideState::Shadow) {
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
    use crate::resilience::breaker::{
        BreakerAdmission, BreakerPolicy, EnforcementMode, ManualOverride,
    };
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

    fn attempt(breaker: &mut Breaker, outcome: Outcome, now: Instant) -> bool {
        match breaker.admit(now).0 {
            BreakerAdmission::Admit(permit) => {
                breaker.observe(permit, outcome, Duration::ZERO, now, 0.5);
                true
            }
            BreakerAdmission::Reject(_) => false,
        }
    }

    #[test]
    fn what_the_fleet_opened_this_host_alone_probes_at_its_own_copy_of_the_end() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        let moved = breaker.follow(StateKind::Open, t0 + 9 * SECOND, 3, t0).expect("a transition");
        assert_eq!(
            (moved.to, moved.cause, breaker.trips()),
            (StateKind::Open, TransitionCause::Fleet, 3)
        );
        assert!(!attempt(&mut breaker, Outcome::Success, t0 + 8 * SECOND));
        assert!(attempt(&mut breaker, Outcome::Success, t0 + 9 * SECOND));
        assert_eq!(breaker.kind(), StateKind::Closed);
    }

    #[test]
    fn what_the_fleet_closed_is_ramped_to_the_rate_from_before() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        for n in 0..1000u32 {
            attempt(&mut breaker, Outcome::Success, t0 + SECOND * n / 100);
        }
        let t1 = t0 + 10 * SECOND;
        breaker.follow(StateKind::Open, t1 + SECOND, 1, t1);
        breaker.follow(StateKind::HalfOpen, t1, 1, t1 + SECOND);
        breaker.follow(StateKind::Closed, t1, 1, t1 + 2 * SECOND);
        assert!(breaker.slow_start(t1 + 2 * SECOND) <= 0.11);
        let let_in = (0..200u32).filter(|n| {
            attempt(&mut breaker, Outcome::Success, t1 + 2 * SECOND + SECOND * *n / 200)
        });
        assert!((5..40).contains(&let_in.count()), "about a tenth of 100 a second");
    }

    #[test]
    fn closed_while_it_is_closed_changes_nothing() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        attempt(&mut breaker, Outcome::Failure, t0);
        assert_eq!(breaker.follow(StateKind::Closed, t0, 0, t0), None);
        attempt(&mut breaker, Outcome::Failure, t0);
        assert_eq!(breaker.kind(), StateKind::Open, "both failures count");
    }

    #[test]
    fn only_what_it_saw_itself_is_a_trip_of_its_own() {
        let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
        breaker.set_override(
            ManualOverride { state: OverrideState::Open, until: Some(t0 + SECOND) },
            t0,
        );
        assert!(!breaker.has_tripped(), "a hand did");
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
        fn a_hand_outranks_the_fleet(steps in prop::collection::vec((kinds(), 0u32..40), 1..40)) {
            for state in [OverrideState::Open, OverrideState::Closed] {
                let (t0, mut breaker) = (Instant::now(), Breaker::new(POLICY));
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
        fn it_is_where_the_fleet_was_last(steps in prop::collection::vec((kinds(), 0u32..9), 1..40)) {
            let (mut now, mut breaker) = (Instant::now(), Breaker::new(POLICY));
            for (kind, wait) in steps {
                now += Duration::from_millis(100) * wait;
                let before = breaker.epoch();
                let moved = breaker.follow(kind, now + SECOND, 1, now);
                prop_assert_eq!(breaker.kind(), kind);
                prop_assert_eq!(breaker.epoch(), before + u64::from(moved.is_some()));
            }
        }
    }
}
