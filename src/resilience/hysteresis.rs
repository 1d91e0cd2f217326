//! Hysteresis: when a degradation mode is entered and left.
//!
//! - Out: the condition holds for `hold` without interruption → In.
//! - In: the condition is false for `recover_after` without interruption → Out.
//!
//! An interruption restarts the count, so a condition that flaps faster than both lengths
//! changes nothing: a flapping mode is worse than a late one. The condition is sampled from
//! time to time, and between two samples it counts as it was at the first.
//!
//! A manual override takes precedence while it is active. The condition is still followed
//! meanwhile and decides again as soon as the override ends.

use std::time::{Duration, Instant};

use crate::resilience::words::words;

/// How long a condition must hold, or be false, before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerPolicy {
    pub hold: Duration,
    pub recover_after: Duration,
}

/// The state of the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Out,
    /// It holds, but not for long enough yet.
    Rising {
        since: Instant,
    },
    In,
    /// It is false, but not for long enough yet.
    Falling {
        since: Instant,
    },
}

/// A manual override of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerOverride {
    /// Forces the mode on, or off.
    pub active: bool,
    /// `None`: until it is removed.
    pub until: Option<Instant>,
}

words! {
    /// The cause of a change.
    pub enum TriggerCause {
        Condition = "condition",
        /// An override was set, removed, or expired.
        Override = "override",
    }
}

/// A change of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerChange {
    Entered(TriggerCause),
    Left(TriggerCause),
}

#[derive(Clone, Debug)]
pub struct Trigger {
    policy: TriggerPolicy,
    state: State,
    manual: Option<TriggerOverride>,
    in_force: bool,
}

impl State {
    /// Whether the condition alone puts the mode in force.
    pub fn is_in(self) -> bool {
        matches!(self, State::In | State::Falling { .. })
    }

    fn after(self, holds: bool, policy: &TriggerPolicy, now: Instant) -> State {
        let for_at_least = |since, length| now.saturating_duration_since(since) >= length;
        match (self, holds) {
            (State::Out, false) | (State::In, true) => self,
            (State::Out, true) if policy.hold.is_zero() => State::In,
            (State::Out, true) => State::Rising { since: now },
            (State::Rising { since }, true) if for_at_least(since, policy.hold) => State::In,
            (State::Falling { since }, false) if for_at_least(since, policy.recover_after) => {
                State::Out
            }
            (State::Rising { .. }, true) | (State::Falling { .. }, false) => self,
            (State::Rising { .. }, false) => State::Out,
            (State::In, false) if policy.recover_after.is_zero() => State::Out,
            (State::In, false) => State::Falling { since: now },
            (State::Falling { .. }, true) => State::In,
        }
    }
}

impl Trigger {
    pub fn new(policy: TriggerPolicy) -> Self {
        Trigger { policy, state: State::Out, manual: None, in_force: false }
    }

    /// Takes other lengths; the time counted so far is kept.
    pub fn retune(&mut self, policy: TriggerPolicy) {
        self.policy = policy;
    }

    /// Takes a sample of the condition.
    pub fn update(&mut self, holds: bool, now: Instant) -> Option<TriggerChange> {
        let ended = self.expire_override(now);
        self.state = self.state.after(holds, &self.policy, now);
        self.apply(if ended { TriggerCause::Override } else { TriggerCause::Condition })
    }

    /// Sets or removes a manual override.
    pub fn set_override(&mut self, manual: Option<TriggerOverride>) -> Option<TriggerChange> {
        self.manual = manual;
        self.apply(TriggerCause::Override)
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn policy(&self) -> TriggerPolicy {
        self.policy
    }

    /// The active override.
    pub fn active_override(&self, now: Instant) -> Option<TriggerOverride> {
        self.manual.filter(|manual| manual.until.is_none_or(|until| now < until))
    }

    /// The least time that a mode in force remains, if the condition is false from now on.
    pub fn earliest_end(&self, now: Instant) -> Duration {
        let from_condition = match self.state {
            State::Out | State::Rising { .. } => Duration::ZERO,
            State::In => self.policy.recover_after,
            State::Falling { since } => {
                self.policy.recover_after.saturating_sub(now.saturating_duration_since(since))
            }
        };
        match self.active_override(now) {
            // Without an end it may be removed at any moment.
            Some(TriggerOverride { active: true, until }) => {
                let manual = until.map(|until| until.saturating_duration_since(now));
                from_condition.max(manual.unwrap_or_default())
            }
            _ => from_condition,
        }
    }

    fn expire_override(&mut self, now: Instant) -> bool {
        let over = self.manual.is_some() && self.active_override(now).is_none();
        if over {
            self.manual = None;
        }
        over
    }

    fn apply(&mut self, cause: TriggerCause) -> Option<TriggerChange> {
        let in_force = self.manual.map_or(self.state.is_in(), |manual| manual.active);
        if std::mem::replace(&mut self.in_force, in_force) == in_force {
            return None;
        }
        Some(if in_force { TriggerChange::Entered(cause) } else { TriggerChange::Left(cause) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: TriggerPolicy =
        TriggerPolicy { hold: Duration::from_secs(5), recover_after: Duration::from_secs(30) };

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// In force since `t0 + 5 s`.
    fn entered(t0: Instant) -> Trigger {
        let mut trigger = Trigger::new(POLICY);
        assert_eq!(trigger.update(true, t0), None);
        assert_eq!(
            trigger.update(true, t0 + s(5)),
            Some(TriggerChange::Entered(TriggerCause::Condition))
        );
        trigger
    }

    #[test]
    fn a_mode_is_entered_and_left_only_after_the_condition_lasts() {
        let t0 = Instant::now();
        let mut trigger = Trigger::new(POLICY);
        assert_eq!((trigger.update(true, t0), trigger.update(true, t0 + s(4))), (None, None));
        assert!(!trigger.in_force);
        assert_eq!(
            trigger.update(true, t0 + s(5)),
            Some(TriggerChange::Entered(TriggerCause::Condition))
        );
        assert_eq!(
            (trigger.update(false, t0 + s(6)), trigger.update(false, t0 + s(35))),
            (None, None)
        );
        assert!(trigger.in_force);
        assert_eq!(
            trigger.update(false, t0 + s(36)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    #[test]
    fn an_interruption_restarts_the_count() {
        let t0 = Instant::now();
        let mut trigger = Trigger::new(POLICY);
        for (at, holds) in [(0, true), (4, false), (5, true), (9, true)] {
            assert_eq!(trigger.update(holds, t0 + s(at)), None);
        }
        assert!(trigger.update(true, t0 + s(10)).is_some());
        for (at, holds) in [(11, false), (40, true), (41, false), (70, false)] {
            assert_eq!(trigger.update(holds, t0 + s(at)), None);
        }
        assert!(trigger.update(false, t0 + s(71)).is_some());
    }

    #[test]
    fn with_zero_lengths_it_follows_the_condition() {
        let now = Instant::now();
        let at_once = TriggerPolicy { hold: Duration::ZERO, recover_after: Duration::ZERO };
        let mut trigger = Trigger::new(at_once);
        assert_eq!(
            trigger.update(true, now),
            Some(TriggerChange::Entered(TriggerCause::Condition))
        );
        assert_eq!(trigger.update(false, now), Some(TriggerChange::Left(TriggerCause::Condition)));
    }

    #[test]
    fn an_override_takes_precedence_until_it_expires() {
        let t0 = Instant::now();
        let mut trigger = Trigger::new(POLICY);
        let on = TriggerOverride { active: true, until: Some(t0 + s(60)) };
        assert_eq!(
            trigger.set_override(Some(on)),
            Some(TriggerChange::Entered(TriggerCause::Override))
        );
        assert_eq!(trigger.update(false, t0 + s(59)), None);
        assert_eq!(trigger.earliest_end(t0 + s(59)), s(1));
        assert_eq!(
            trigger.update(false, t0 + s(60)),
            Some(TriggerChange::Left(TriggerCause::Override))
        );
        assert_eq!(trigger.active_override(t0 + s(60)), None);
    }

    #[test]
    fn the_condition_is_followed_during_an_override() {
        let t0 = Instant::now();
        let mut trigger = entered(t0);
        let off = TriggerOverride { active: false, until: None };
        assert_eq!(
            trigger.set_override(Some(off)),
            Some(TriggerChange::Left(TriggerCause::Override))
        );
        assert_eq!(trigger.update(true, t0 + s(600)), None);
        assert_eq!(
            trigger.set_override(None),
            Some(TriggerChange::Entered(TriggerCause::Override))
        );
        assert_eq!(trigger.update(false, t0 + s(601)), None);
        assert_eq!(
            trigger.update(false, t0 + s(631)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    #[test]
    fn retuning_keeps_the_state() {
        let t0 = Instant::now();
        let mut trigger = entered(t0);
        trigger.retune(TriggerPolicy { hold: s(50), recover_after: s(2) });
        assert!(trigger.in_force);
        assert_eq!(trigger.earliest_end(t0 + s(6)), s(2));
        assert_eq!(trigger.update(false, t0 + s(6)), None);
        assert_eq!(trigger.earliest_end(t0 + s(7)), s(1));
        assert_eq!(
            trigger.update(false, t0 + s(8)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    proptest! {
        /// Sampled every 100 ms, as the process does.
        #[test]
        fn a_flapping_condition_does_not_flap_the_mode(
            runs in prop::collection::vec(1u64..60, 1..200),
            first in any::<bool>(),
        ) {
            let policy = TriggerPolicy {
                hold: Duration::from_secs(1),
                recover_after: Duration::from_secs(4),
            };
            let (mut now, mut trigger, mut holds) = (Instant::now(), Trigger::new(policy), first);
            // Times of the changes.
            let mut changes = Vec::new();
            let (mut calm, mut rough) = (false, false);
            for length in runs {
                for step in 0..length {
                    let so_far = Duration::from_millis(100 * step);
                    match trigger.update(holds, now) {
                        Some(TriggerChange::Entered(_)) => {
                            prop_assert!(holds && so_far >= policy.hold);
                            changes.push(now);
                        }
                        Some(TriggerChange::Left(_)) => {
                            prop_assert!(!holds && so_far >= policy.recover_after);
                            changes.push(now);
                        }
                        None => {}
                    }
                    rough |= holds && so_far >= policy.hold;
                    calm |= !holds && so_far >= policy.recover_after;
                    now += Duration::from_millis(100);
                }
                holds = !holds;
            }
            // Without a whole `recover_after` of calm it is entered at most once.
            prop_assert!(calm || changes.len() <= 1);
            prop_assert!(rough || changes.is_empty());
            let shortest = policy.hold + policy.recover_after;
            for pair in changes.windows(3) {
                prop_assert!(pair[2] - pair[0] >= shortest);
            }
        }

        #[test]
        fn each_change_is_returned_once_and_matches_the_state(
            steps in prop::collection::vec((0u64..20, 0u8..6), 0..200),
        ) {
            let (mut now, mut trigger, mut reported) = (Instant::now(), Trigger::new(POLICY), false);
            for (seconds, what) in steps {
                now += s(seconds);
                let until = (what % 2 == 0).then_some(now + s(10));
                let change = match what {
                    0 | 1 => trigger.update(what == 0, now),
                    2 | 3 => trigger.set_override(Some(TriggerOverride { active: true, until })),
                    4 => trigger.set_override(Some(TriggerOverride { active: false, until })),
                    _ => trigger.set_override(None),
                };
                match change {
                    Some(TriggerChange::Entered(_)) => prop_assert!(!std::mem::replace(&mut reported, true)),
                    Some(TriggerChange::Left(_)) => prop_assert!(std::mem::replace(&mut reported, false)),
                    None => {}
                }
                prop_assert_eq!(reported, trigger.in_force);
                prop_assert!(trigger.in_force || trigger.earliest_end(now) <= POLICY.recover_after);
            }
        }
    }
}
