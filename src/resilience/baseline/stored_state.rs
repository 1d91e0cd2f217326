//! The stored form of a series' baseline: a format byte, then the state of each detector.

use std::fmt::{self, Display, Formatter};

use super::SeriesBaseline;
use super::calibration::{Calibration, Cusum};
use super::detector::{DetectorState, OpenBlock, StandingAlarm};
use super::measure::Measure;
use super::profile::{BlockSummary, Expectation, HourSummary, Profile};
use crate::resilience::stored_bytes::{BytesError, StoredForm, stored_fields};

/// Raised when the states or their meaning change.
const FORMAT: u8 = 1;

/// Why a stored baseline cannot be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// It was written by another version.
    Format(u8),
    Bytes(BytesError),
    TrailingBytes(usize),
    /// The state of this measure breaks a bound.
    Invalid(Measure),
}

stored_fields! {
    BlockSummary { number, level, spread }
    HourSummary { level, spread }
    Expectation { level, spread, is_young }
    Profile { blocks, hours }
    Calibration { correlation, threshold }
    Cusum { sum, previous }
    OpenBlock { number, values, standardised, has_alarm, expectation }
    StandingAlarm { since, level, good }
    DetectorState {
        profile, history, calibration, blocks_learned, blocks_at_calibration, open, cusum,
        rising_since, recent, past, last, alarm,
    }
}

impl SeriesBaseline {
    /// The stored form; at most 80 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        self.states().iter().for_each(|state| state.put(&mut bytes));
        bytes
    }

    /// Continues from the stored form.
    ///
    /// # Errors
    /// If it is of another version, damaged, or breaks a bound.
    pub fn decode(learning_blocks: u32, mut bytes: &[u8]) -> Result<Self, StateError> {
        let format = u8::take(&mut bytes)?;
        if format != FORMAT {
            return Err(StateError::Format(format));
        }
        let mut states = [const { None }; Measure::ALL.len()];
        for state in &mut states {
            *state = Some(DetectorState::take(&mut bytes)?);
        }
        if !bytes.is_empty() {
            return Err(StateError::TrailingBytes(bytes.len()));
        }
        Self::restore(learning_blocks, states.map(Option::unwrap_or_default))
            .map_err(StateError::Invalid)
    }
}

impl From<BytesError> for StateError {
    fn from(error: BytesError) -> Self {
        StateError::Bytes(error)
    }
}

impl Display for StateError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Format(found) => {
                write!(f, "the stored baseline has format {found}, expected {FORMAT}")
            }
            StateError::Bytes(BytesError::Truncated) => {
                write!(f, "the stored baseline ends too early")
            }
            StateError::Bytes(BytesError::OutOfRange) => {
                write!(f, "the stored baseline has a number out of range")
            }
            StateError::TrailingBytes(count) => {
                write!(f, "the stored baseline is followed by {count} bytes, expected none")
            }
            StateError::Invalid(measure) => {
                write!(f, "the stored baseline of {} breaks a bound", measure.as_str())
            }
        }
    }
}

impl std::error::Error for StateError {}
