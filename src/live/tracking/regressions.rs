//! The series that are worse than their baselines now, for the conditions of degradation modes.

use parking_lot::Mutex;

/// The calls that a baseline is learned from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesKey {
    pub route: String,
    pub provider: String,
    pub model: String,
}

/// A series that is slower than its baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowSeries {
    pub key: SeriesKey,
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

    /// How many times as slow as its baseline the slowest of these series is; none if none is
    /// slower.
    pub fn slowdown(&self, of: &SeriesOf) -> Option<f64> {
        let slow = self.0.lock();
        let of_interest = slow.iter().filter(|slow| of.includes(&slow.key));
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

impl SeriesKey {
    /// `route/provider/model`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.route, self.provider, self.model)
    }
}
