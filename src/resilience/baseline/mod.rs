//! Baselines: the usual figures of a series of calls, and whether it became worse.
//!
//! A series (the calls of a provider, route and model) is rolled up every 10 s. Each measure of it
//! has a [`detector::Detector`]. `docs/design/baselines.md` describes the method and its figures.
//!
//! A roll-up costs 50 ns for each measure. Every 10 minutes the expectation is recomputed
//! (about 15 us), and every hour the threshold (about a millisecond), in a call of its own, so
//! that a caller with many series can spread them. A series takes at most 80 KiB, whatever its
//! traffic.

pub mod calibration;
pub mod calls;
pub mod detector;
pub mod measure;
pub mod profile;
pub mod stored_state;

#[cfg(test)]
mod tests;

use detector::{Detector, DetectorEvent, DetectorState, DetectorStatus};
use measure::{Measure, RollUp};

/// Blocks of 10 minutes that are learned before there are alarms: a day.
pub const LEARNING_BLOCKS: u32 = profile::DAY as u32;
/// Fewer series than this never accuse the host.
const LEAST_SERIES: usize = 3;

/// The calls that a baseline is learned from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesKey {
    pub route: String,
    pub provider: String,
    pub model: String,
}

/// All detectors of a series.
#[derive(Clone, Debug)]
pub struct SeriesBaseline {
    detectors: [Detector; Measure::ALL.len()],
}

/// The scope of the alarms of all series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmScope {
    None,
    /// Some series: their providers are slower.
    Series,
    /// More than half of the series with enough data: this host or its network is slower.
    Host,
}

impl SeriesKey {
    /// `route/provider/model`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.route, self.provider, self.model)
    }
}

impl SeriesBaseline {
    /// `learning_blocks`: usually [`LEARNING_BLOCKS`].
    pub fn new(learning_blocks: u32) -> Self {
        Self { detectors: Measure::ALL.map(|measure| Detector::new(measure, learning_blocks)) }
    }

    /// Accepts a roll-up, and returns the alarms that start or end with it.
    pub fn observe(&mut self, roll_up: &RollUp) -> Vec<(Measure, DetectorEvent)> {
        let detectors = Measure::ALL.into_iter().zip(&mut self.detectors);
        let events = detectors.filter_map(|(measure, detector)| {
            Some((measure, detector.observe(roll_up.number, measure.reading(roll_up))?))
        });
        events.collect()
    }

    /// Calibrates one detector that is due; false if none is. `draw` is in [0, 1).
    pub fn calibrate(&mut self, draw: impl FnMut() -> f64) -> bool {
        let due = self.detectors.iter_mut().find(|detector| detector.is_calibration_due());
        due.map(|detector| detector.calibrate(draw)).is_some()
    }

    /// Makes the present level of a measure normal, and ends its alarm. Returns false without
    /// readings or a baseline.
    pub fn accept(&mut self, measure: Measure) -> bool {
        self.detectors[measure as usize].accept()
    }

    pub fn detector(&self, measure: Measure) -> &Detector {
        &self.detectors[measure as usize]
    }

    /// The worst state of its measures.
    pub fn status(&self, number: u64) -> DetectorStatus {
        let has = |status| self.detectors.iter().any(|d| d.status(number) == status);
        let order = [DetectorStatus::Alarm, DetectorStatus::Normal, DetectorStatus::Learning];
        order.into_iter().find(|status| has(*status)).unwrap_or(DetectorStatus::NotEnoughData)
    }

    /// The state of every detector, in the order of [`Measure::ALL`].
    pub fn states(&self) -> [&DetectorState; Measure::ALL.len()] {
        self.detectors.each_ref().map(Detector::state)
    }

    /// Continues from stored states.
    ///
    /// # Errors
    /// The first measure whose state is not valid.
    pub fn restore(
        learning_blocks: u32,
        states: [DetectorState; Measure::ALL.len()],
    ) -> Result<Self, Measure> {
        let mut restored = Self::new(learning_blocks);
        for (measure, state) in Measure::ALL.into_iter().zip(states) {
            let detector = Detector::restore(measure, learning_blocks, state);
            restored.detectors[measure as usize] = detector.ok_or(measure)?;
        }
        Ok(restored)
    }

    /// The last roll-up with a reading.
    pub fn last(&self) -> Option<u64> {
        self.states().iter().filter_map(|state| state.last).max()
    }
}

/// Decides whether alarms are about single series or about this host.
pub fn alarm_scope(series: impl IntoIterator<Item = DetectorStatus>) -> AlarmScope {
    let (mut measured, mut alarms) = (0, 0);
    for status in series {
        measured += usize::from(matches!(status, DetectorStatus::Normal | DetectorStatus::Alarm));
        alarms += usize::from(status == DetectorStatus::Alarm);
    }
    match alarms {
        0 => AlarmScope::None,
        _ if measured >= LEAST_SERIES && alarms * 2 > measured => AlarmScope::Host,
        _ => AlarmScope::Series,
    }
}
