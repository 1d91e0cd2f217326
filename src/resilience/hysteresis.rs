//! When a mode is entered, and when it is left again: hysteresis over a condition, and a hand above it.
//!
//! - Out: the condition holds for `hold` without a gap → In.
//! - In:  the condition is gone for `recover_after` without a gap → Out.
//!
//! A gap begins the count anew, so a condition that dances faster than both changes nothing: a mode
//! that flaps is worse than one that comes late. The condition is looked at now and then, and counts
//! between two looks as it was found at the first of them.
//!
//! An operator's hand stands above that for as long as it is on: what the condition says is followed
//! beneath it, and counts again the moment it is off.

use std::time::{Duration, Instant};

/// How long a condition holds before it counts, and how long it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerPolicy {
    pub hold: Duration,
    pub recover_after: Duration,
}

/// What the condition came to so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Out,
    /// It holds, not yet for long enough.
    Rising {
        since: Instant,
    },
    In,
    /// It is gone, not yet for long enough.
    Falling {
        since: Instant,
    },
}

/// A hand on a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerOverride {
    /// In force, or not in force.
    pub on: bool,
    /// `None`: until it is taken off.
    pub until: Option<Instant>,
}

/// What a change was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerCause {
    Condition,
    /// A hand was put on, taken off, or its time is over.
    Hand,
}

/// A mode changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerChange {
    Entered(TriggerCause),
    Left(TriggerCause),
}

#[derive(Clone, Debug)]
pub struct Trigger {
    policy: TriggerPolicy,
    state: State,
    hand: Option<TriggerOverride>,
    in_force: bool,
}

// === impl State ===

impl State {
    /// What the condition alone puts in force.
    pub fn is_in(self) -> bool {
        matches!(self, State::In | State::Falling { .. })
    }

    fn after(self, holds: bool, policy: &TriggerPolicy, now: Instant) -> State {
        let for_long = |since, length| now.saturating_duration_since(since) >= length;
        match (self, holds) {
            (State::Out, false) | (State::In, true) => self,
            (State::Out, true) if policy.hold.is_zero() => State::In,
            (State::Out, true) => State::Rising { since: now },
            (State::Rising { since }, true) if for_long(since, policy.hold) => State::In,
            (State::Falling { since }, false) if for_long(since, policy.recover_after) => {
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

// === impl Trigger ===

impl Trigger {
    pub fn new(policy: TriggerPolicy) -> Self {
        Trigger { policy, state: State::Out, hand: None, in_force: false }
    }

    /// Takes other lengths; what was counted so far stays.
    pub fn retune(&mut self, policy: TriggerPolicy) {
        self.policy = policy;
    }

    /// The condition was looked at.
    pub fn update(&mut self, holds: bool, now: Instant) -> Option<TriggerChange> {
        let ended = self.expire_override(now);
        self.state = self.state.after(holds, &self.policy, now);
        self.apply(if ended { TriggerCause::Hand } else { TriggerCause::Condition })
    }

    /// Puts a hand on, or takes it off.
    pub fn set_override(&mut self, hand: Option<TriggerOverride>) -> Option<TriggerChange> {
        self.hand = hand;
        self.apply(TriggerCause::Hand)
    }

    pub fn is_in_force(&self) -> bool {
        self.in_force
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn policy(&self) -> TriggerPolicy {
        self.policy
    }

    /// The hand that is on.
    pub fn hand(&self, now: Instant) -> Option<TriggerOverride> {
        self.hand.filter(|hand| hand.until.is_none_or(|until| now < until))
    }

    /// How long a mode in force stays so at least, if the condition is gone from now on.
    pub fn earliest_end(&self, now: Instant) -> Duration {
        let by_itself = match self.state {
            State::Out | State::Rising { .. } => Duration::ZERO,
            State::In => self.policy.recover_after,
            State::Falling { since } => {
                self.policy.recover_after.saturating_sub(now.saturating_duration_since(since))
            }
        };
        match self.hand(now) {
            // Off at any moment, if without an end.
            Some(TriggerOverride { on: true, until }) => {
                let hand = until.map(|until| until.saturating_duration_since(now));
                by_itself.max(hand.unwrap_or_default())
            }
            _ => by_itself,
        }
    }

    fn expire_override(&mut self, now: Instant) -> bool {
        let over = self.hand.is_some() && self.hand(now).is_none();
        if over {
            self.hand = None;
        }
        over
    }

    fn apply(&mut self, cause: TriggerCause) -> Option<TriggerChange> {
        let in_force = self.hand.map_or(self.state.is_in(), |hand| hand.on);
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
    fn a_condition_counts_once_it_held_and_until_it_is_gone_for_long_enough() {
        let t0 = Instant::now();
        let mut trigger = Trigger::new(POLICY);
        assert_eq!((trigger.update(true, t0), trigger.update(true, t0 + s(4))), (None, None));
        assert!(!trigger.is_in_force());
        assert_eq!(
            trigger.update(true, t0 + s(5)),
            Some(TriggerChange::Entered(TriggerCause::Condition))
        );
        assert_eq!(
            (trigger.update(false, t0 + s(6)), trigger.update(false, t0 + s(35))),
            (None, None)
        );
        assert!(trigger.is_in_force());
        assert_eq!(
            trigger.update(false, t0 + s(36)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    #[test]
    fn a_gap_begins_anew() {
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
    fn without_lengths_it_follows_the_condition() {
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
    fn a_hand_stands_above_the_condition_and_ends() {
        let t0 = Instant::now();
        let mut trigger = Trigger::new(POLICY);
        let on = TriggerOverride { on: true, until: Some(t0 + s(60)) };
        assert_eq!(
            trigger.set_override(Some(on)),
            Some(TriggerChange::Entered(TriggerCause::Hand))
        );
        assert_eq!(trigger.update(false, t0 + s(59)), None);
        assert_eq!(trigger.earliest_end(t0 + s(59)), s(1));
        assert_eq!(
            trigger.update(false, t0 + s(60)),
            Some(TriggerChange::Left(TriggerCause::Hand))
        );
        assert_eq!(trigger.hand(t0 + s(60)), None);
    }

    #[test]
    fn what_the_condition_says_is_followed_beneath_a_hand() {
        let t0 = Instant::now();
        let mut trigger = entered(t0);
        let off = TriggerOverride { on: false, until: None };
        assert_eq!(trigger.set_override(Some(off)), Some(TriggerChange::Left(TriggerCause::Hand)));
        assert_eq!(trigger.update(true, t0 + s(600)), None);
        assert_eq!(trigger.set_override(None), Some(TriggerChange::Entered(TriggerCause::Hand)));
        assert_eq!(trigger.update(false, t0 + s(601)), None);
        assert_eq!(
            trigger.update(false, t0 + s(631)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    #[test]
    fn other_lengths_forget_nothing() {
        let t0 = Instant::now();
        let mut trigger = entered(t0);
        trigger.retune(TriggerPolicy { hold: s(50), recover_after: s(2) });
        assert!(trigger.is_in_force());
        assert_eq!(trigger.earliest_end(t0 + s(6)), s(2));
        assert_eq!(trigger.update(false, t0 + s(6)), None);
        assert_eq!(trigger.earliest_end(t0 + s(7)), s(1));
        assert_eq!(
            trigger.update(false, t0 + s(8)),
            Some(TriggerChange::Left(TriggerCause::Condition))
        );
    }

    proptest! {
        /// Looked at every 100 ms, as the process does.
        #[test]
        fn a_condition_that_dances_does_not_flap(
            runs in prop::collection::vec(1u64..60, 1..200),
            first in any::<bool>(),
        ) {
            let policy = TriggerPolicy {
                hold: Duration::from_secs(1),
                recover_after: Duration::from_secs(4),
            };
            let (mut now, mut trigger, mut holds) = (Instant::now(), Trigger::new(policy), first);
            // For how long it has been as it is, and how often it changed.
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
        fn a_change_is_told_once_and_says_what_is_in_force(
            steps in prop::collection::vec((0u64..20, 0u8..6), 0..200),
        ) {
            let (mut now, mut trigger, mut told) = (Instant::now(), Trigger::new(POLICY), false);
            for (seconds, what) in steps {
                now += s(seconds);
                let until = (what % 2 == 0).then_some(now + s(10));
                let change = match what {
                    0 | 1 => trigger.update(what == 0, now),
                    2 | 3 => trigger.set_override(Some(TriggerOverride { on: true, until })),
                    4 => trigger.set_override(Some(TriggerOverride { on: false, until })),
                    _ => trigger.set_override(None),
                };
                match change {
                    Some(TriggerChange::Entered(_)) => prop_assert!(!std::mem::replace(&mut told, true)),
                    Some(TriggerChange::Left(_)) => prop_assert!(std::mem::replace(&mut told, false)),
                    None => {}
                }
                prop_assert_eq!(told, trigger.is_in_force());
                prop_assert!(trigger.in_force || trigger.earliest_end(now) <= POLICY.recover_after);
            }
        }
    }
}
