//! The series that are worse than their baselines now, for the conditions of degradation modes.

use parking_lot::Mutex;

use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::measure::{Measure, Slowness};

/// A series that is slower than its baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowSeries {
    pub key: SeriesKey,
    pub measure: Measure,
    /// How many times as slow as the baseline.
    pub slowdown: f64,
}

/// The series that a condition watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeriesOf {
    Route(String),
    Provider(String),
}

/// Replaced with every roll-up.
#[derive(Debug, Default)]
pub struct Regressions(Mutex<Vec<SlowSeries>>);

impl Regressions {
    pub fn replace(&self, slow: Vec<SlowSeries>) {
        *self.0.lock() = slow;
    }

    /// All of them.
    pub fn all(&self) -> Vec<SlowSeries> {
        self.0.lock().clone()
    }

    /// How many times as slow as its baseline the slowest of these series is, by one kind of
    /// slowness or by any; none if none is slower.
    pub fn slowdown(&self, of: &SeriesOf, by: Option<Slowness>) -> Option<f64> {
        let slow = self.0.lock();
        let of_interest = slow
            .iter()
            .filter(|slow| of.includes(&slow.key) && by.is_none_or(|by| by.includes(slow.measure)));
        of_interest.map(|slow| slow.slowdown).reduce(f64::max)
    }
}

impl SeriesOf {
    fn includes(&self, key: &SeriesKey) -> bool {
        match self {
            SeriesOf::Route(route) => key.route == *route,
            SeriesOf::Provider(provider) => key.provider == *provider,
        }
    }
}
