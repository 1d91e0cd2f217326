//! The state that a fleet shares for one breaker, and its order.
//!
//! Scripts in Redis write the state as a whole, one transition at a time. States of one key
//! are ordered by `(epoch, writer)`: a new epoch is greater than the stored one, than the one
//! the writer had seen, and than Redis' clock, so the order survives a store that lost its
//! data. A host keeps the greatest state it has seen and never goes back
//! (`docs/design/fleet.md` "The shared state").
//!
//! In Redis it is one line with fields separated by `|`:
//! `epoch|writer|state|until|trips|permits|needed|ok|closed_at`, times in microseconds of
//! Redis' clock.

use super::StateKind;
use std::fmt;
use std::str::FromStr;

/// Longest host name that is accepted.
const WRITER: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedState {
    pub epoch: u64,
    /// The host that began the epoch.
    pub writer: String,
    pub state: StateKind,
    /// Open: the end, by Redis' clock; else 0.
    pub until: u64,
    /// Consecutive trips.
    pub trips: u32,
    /// Concurrent probes while half-open.
    pub permits: u32,
    /// Successful probes needed to close.
    pub required: u32,
    /// Successful probes so far.
    pub succeeded: u32,
    /// When it last closed, by Redis' clock.
    pub closed_at: u64,
}

impl SharedState {
    /// The initial state: closed, and older than any other.
    pub fn initial() -> Self {
        SharedState {
            epoch: 0,
            writer: String::new(),
            state: StateKind::Closed,
            until: 0,
            trips: 0,
            permits: 0,
            required: 0,
            succeeded: 0,
            closed_at: 0,
        }
    }

    /// Whether it replaces the other.
    pub fn supersedes(&self, other: &SharedState) -> bool {
        (self.epoch, &self.writer) > (other.epoch, &other.writer)
    }
}

impl fmt::Display for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SharedState { epoch, writer, until, trips, permits, .. } = self;
        let SharedState { required, succeeded, closed_at, .. } = self;
        let state = match self.state {
            StateKind::Closed => 'C',
            StateKind::Open => 'O',
            StateKind::HalfOpen => 'H',
        };
        write!(f, "{epoch}|{writer}|{state}|{until}|{trips}|{permits}|")?;
        write!(f, "{required}|{succeeded}|{closed_at}")
    }
}

impl FromStr for SharedState {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let invalid = || {
            let start: String = line.chars().take(80).collect();
            format!("invalid shared breaker state: `{}`", start.escape_debug())
        };
        let fields: Vec<&str> = line.split('|').collect();
        let [epoch, writer, state, until, trips, permits, needed, ok, closed_at] = fields[..]
        else {
            return Err(invalid());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| invalid());
        let small = |text: &str| text.parse::<u32>().map_err(|_| invalid());
        let state = match state {
            "C" => StateKind::Closed,
            "O" => StateKind::Open,
            "H" => StateKind::HalfOpen,
            _ => return Err(invalid()),
        };
        if writer.len() > WRITER {
            return Err(invalid());
        }
        Ok(SharedState {
            epoch: number(epoch)?,
            writer: writer.to_owned(),
            state,
            until: number(until)?,
            trips: small(trips)?,
            permits: small(permits)?,
            required: small(needed)?,
            succeeded: small(ok)?,
            closed_at: number(closed_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = SharedState> {
        let state =
            prop_oneof![Just(StateKind::Closed), Just(StateKind::Open), Just(StateKind::HalfOpen)];
        (0u64..6, "[ab]{0,2}", state, any::<u64>(), any::<[u32; 4]>(), any::<u64>()).prop_map(
            |(epoch, writer, state, until, [trips, permits, needed, ok], closed_at)| SharedState {
                epoch,
                writer,
                state,
                until,
                trips,
                permits,
                required: needed,
                succeeded: ok,
                closed_at,
            },
        )
    }

    #[test]
    fn any_state_supersedes_the_initial_one() {
        let line = "1|a|O|5|1|0|0|0|0";
        assert!(line.parse::<SharedState>().unwrap().supersedes(&SharedState::initial()));
    }

    #[test]
    fn an_invalid_line_is_an_error() {
        let long = format!("1|{}|C|0|0|0|0|0|0", "x".repeat(WRITER + 1));
        for line in ["", "1|a|X|0|0|0|0|0|0", "1|a|C|0|0|0|0|0", "-1|a|C|0|0|0|0|0|0", &long] {
            assert!(line.parse::<SharedState>().is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_state_survives_display_and_parse(state in any_state()) {
            prop_assert_eq!(state.to_string().parse::<SharedState>(), Ok(state));
        }

        #[test]
        fn parsing_never_panics(line in ".{0,60}") {
            let _ = line.parse::<SharedState>();
        }

        #[test]
        fn merging_is_independent_of_order(seen in prop::collection::vec(any_state(), 1..6)) {
            let merge = |all: Vec<SharedState>| {
                let greater = |a: SharedState, b: SharedState| if b.supersedes(&a) { b } else { a };
                let last = all.into_iter().fold(SharedState::initial(), greater);
                (last.epoch, last.writer)
            };
            let mut backwards = seen.clone();
            backwards.reverse();
            let greatest = seen.iter().map(|r| (r.epoch, r.writer.clone())).max().unwrap();
            let none = (0, String::new());
            prop_assert_eq!(merge(seen), greatest.clone().max(none.clone()));
            prop_assert_eq!(merge(backwards), greatest.max(none));
        }
    }
}
