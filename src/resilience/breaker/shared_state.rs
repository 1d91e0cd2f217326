//! The register that a fleet shares for one breaker, and which of two is the newer one.
//!
//! A register is written by scripts in Redis, whole, one transition at a time. Registers of one key
//! are ordered by `(epoch, writer)`: a new epoch is greater than what is stored, than what the
//! writer had seen, and than Redis' clock, so that the order survives a store that lost its data.
//! Whoever has seen several keeps the greatest, and never goes back (FLEET.md, "The shared register").
//!
//! In Redis it is one line, its fields parted by `|`:
//! `epoch|writer|state|until|trips|permits|needed|ok|closed_at`, times in Redis' microseconds.

use super::StateKind;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Longer names of hosts are no names.
const WRITER: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedState {
    pub epoch: u64,
    /// The host that began the epoch.
    pub writer: String,
    pub state: StateKind,
    /// Open: when it ends, by Redis' clock; else 0.
    pub until: u64,
    /// Trips in a row.
    pub trips: u32,
    /// Probes out at once, half-open.
    pub permits: u32,
    /// Probes that must succeed, half-open.
    pub required: u32,
    /// Probes that did.
    pub succeeded: u32,
    /// When it closed last, by Redis' clock.
    pub closed_at: u64,
}

/// What was found where a register was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSharedState(String);

// === impl Register ===

impl SharedState {
    /// Of whoever has seen none: closed, and older than any.
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

    /// Whether it takes the place of the other.
    pub fn supersedes(&self, other: &SharedState) -> bool {
        self.order(other) == Ordering::Greater
    }

    fn order(&self, other: &SharedState) -> Ordering {
        self.epoch.cmp(&other.epoch).then_with(|| self.writer.cmp(&other.writer))
    }

    /// The greater of both: the merge rule.
    #[must_use]
    pub fn merged(self, other: SharedState) -> SharedState {
        if other.supersedes(&self) { other } else { self }
    }
}

impl fmt::Display for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SharedState {
            epoch,
            writer,
            until,
            trips,
            permits,
            required: needed,
            succeeded: ok,
            closed_at,
            ..
        } = self;
        let state = match self.state {
            StateKind::Closed => 'C',
            StateKind::Open => 'O',
            StateKind::HalfOpen => 'H',
        };
        write!(f, "{epoch}|{writer}|{state}|{until}|{trips}|{permits}|{needed}|{ok}|{closed_at}")
    }
}

impl FromStr for SharedState {
    type Err = InvalidSharedState;

    fn from_str(line: &str) -> Result<Self, InvalidSharedState> {
        let none = || InvalidSharedState(line.chars().take(80).collect());
        let fields: Vec<&str> = line.split('|').collect();
        let [epoch, writer, state, until, trips, permits, needed, ok, closed_at] = fields[..]
        else {
            return Err(none());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| none());
        let small = |text: &str| text.parse::<u32>().map_err(|_| none());
        let state = match state {
            "C" => StateKind::Closed,
            "O" => StateKind::Open,
            "H" => StateKind::HalfOpen,
            _ => return Err(none()),
        };
        if writer.len() > WRITER {
            return Err(none());
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

impl fmt::Display for InvalidSharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no register of a breaker: `{}`", self.0.escape_debug())
    }
}

impl std::error::Error for InvalidSharedState {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn register() -> impl Strategy<Value = SharedState> {
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
    fn anything_outranks_none() {
        let line = "1|a|O|5|1|0|0|0|0";
        assert!(line.parse::<SharedState>().unwrap().supersedes(&SharedState::initial()));
    }

    #[test]
    fn a_line_that_is_no_register_is_refused() {
        let long = format!("1|{}|C|0|0|0|0|0|0", "x".repeat(WRITER + 1));
        for line in ["", "1|a|X|0|0|0|0|0|0", "1|a|C|0|0|0|0|0", "-1|a|C|0|0|0|0|0|0", &long] {
            assert!(line.parse::<SharedState>().is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_read_as_it_was_written(register in register()) {
            prop_assert_eq!(register.to_string().parse::<SharedState>(), Ok(register));
        }

        #[test]
        fn no_line_is_too_odd(line in ".{0,60}") {
            let _ = line.parse::<SharedState>();
        }

        #[test]
        fn the_order_of_merging_does_not_matter(seen in prop::collection::vec(register(), 1..6)) {
            let merge = |all: Vec<SharedState>| {
                let key = |r: SharedState| (r.epoch, r.writer);
                key(all.into_iter().fold(SharedState::initial(), SharedState::merged))
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
