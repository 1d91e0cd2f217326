//! The baselines of all series, and which of them alarm.

use std::collections::BTreeMap;
use std::time::Duration;

use super::changes::DetectedChanges;
use super::recent::RecentRollUps;
use super::report::{self, AlarmEnd, AlarmKey};
use crate::live::Live;
use crate::live::tracking::call_recorder::CallRecorder;
use crate::live::tracking::regressions::SlowSeries;
use crate::resilience::baseline::calls::Calls;
use crate::resilience::baseline::detector::{DetectorStatus, Regression};
use crate::resilience::baseline::measure::{Measure, ROLL_UP_SECONDS};
use crate::resilience::baseline::{
    AlarmScope, LEARNING_BLOCKS, SeriesBaseline, SeriesKey, alarm_scope,
};
use crate::resilience::outcome::AttemptClass;
use crate::store::{BASELINE_KEPT, StoredBaseline, TrackingBatch};

/// A calibration takes about a millisecond, and each detector needs one in an hour.
const CALIBRATIONS_AT_ONCE: usize = 4;

/// Roll-ups between two saves of a baseline: an hour.
const SAVE_INTERVAL: u64 = 3600 / ROLL_UP_SECONDS;
/// A baseline has up to 80 KiB.
const SAVES_AT_ONCE: usize = 4;
/// A stored baseline whose last reading is later than this many roll-ups from now is of a clock
/// that was set back.
const CLOCK_TOLERANCE: u64 = 6;

/// Standing alarms, ordered by their series.
type Alarms = BTreeMap<AlarmKey, Regression>;

#[derive(Debug)]
pub struct Tracker {
    learning_blocks: u32,
    series: BTreeMap<SeriesKey, TrackedSeries>,
    /// The last roll-up.
    number: u64,
    /// The alarms that are attributed to providers; none while the host is the likely cause.
    reported: Alarms,
    is_host: bool,
    pub changes: DetectedChanges,
    pub recent: RecentRollUps,
}

/// One series.
#[derive(Debug)]
pub struct TrackedSeries {
    pub baseline: SeriesBaseline,
    /// Attempts so far, by class.
    pub outcomes: [u64; AttemptClass::ALL.len()],
    /// Cost so far.
    pub cost: f64,
    /// The roll-up at which it was last saved.
    saved: u64,
}

impl Default for Tracker {
    fn default() -> Self {
        Tracker::new(LEARNING_BLOCKS)
    }
}

impl Tracker {
    /// `learning_blocks`: the blocks of 10 minutes to learn before there are alarms.
    pub fn new(learning_blocks: u32) -> Self {
        Tracker {
            learning_blocks,
            series: BTreeMap::new(),
            number: 0,
            reported: Alarms::new(),
            is_host: false,
            changes: DetectedChanges::default(),
            recent: RecentRollUps::default(),
        }
    }

    /// Continues from stored baselines. One that is damaged, old or of the future is dropped.
    pub fn restore(&mut self, live: &Live, stored: Vec<StoredBaseline>, number: u64) {
        self.number = number;
        let oldest = number.saturating_sub(BASELINE_KEPT / ROLL_UP_SECONDS);
        let newest = number + CLOCK_TOLERANCE;
        let mut dropped = Vec::new();
        for StoredBaseline { series, state } in stored {
            match SeriesBaseline::decode(self.learning_blocks, &state) {
                Ok(baseline) if baseline.last().is_some_and(|l| (oldest..=newest).contains(&l)) => {
                    self.series.insert(series, TrackedSeries::new(baseline, number));
                }
                Ok(_) => dropped.push((series, "its last call is not of the last week".to_owned())),
                Err(error) => dropped.push((series, error.to_string())),
            }
        }
        if let Some((series, reason)) = dropped.first() {
            let (count, series) = (dropped.len(), series.path());
            tracing::warn!(count, series, reason, "stored baselines dropped: learning again");
        }
        let alarms = self.alarms();
        if !self.is_about_host(&alarms) {
            alarms.keys().for_each(|key| report::restored(live, key));
            self.reported = alarms;
            self.publish(live);
        }
        if !self.series.is_empty() {
            let (series, alarms) = (self.series.len(), self.reported.len());
            tracing::info!(series, alarms, "baselines restored");
        }
    }

    /// Takes the calls since the last roll-up, and reports the alarms that start or end. `draw` is
    /// in [0, 1). Returns what is to be stored.
    pub fn roll_up(&mut self, live: &Live, number: u64, draw: impl Fn() -> f64) -> TrackingBatch {
        self.number = number;
        let recorders = live.call_recorders();
        let is_recorded = |key: &SeriesKey| {
            recorders.iter().any(|one| one.route == key.route && one.provider == key.provider)
        };
        self.series.retain(|key, _| is_recorded(key));
        let calls = recorders.iter().flat_map(|recorder| self.observe(recorder)).collect();
        self.report(live);
        self.calibrate(draw);
        recorders.iter().for_each(|recorder| self.set_usual_p95(recorder));
        let at = number * ROLL_UP_SECONDS;
        let (baselines, regressions) = (self.due_baselines(), self.changes.take_unsaved());
        TrackingBatch { at, calls, baselines, regressions }
    }

    /// Everything that is to be stored at the end of the process.
    pub fn last_batch(&mut self) -> TrackingBatch {
        let save =
            |(key, series): (&SeriesKey, &TrackedSeries)| (key.clone(), series.baseline.encode());
        let learned = self.series.iter().filter(|(_, series)| series.baseline.last().is_some());
        let baselines = learned.map(save).collect();
        let regressions = self.changes.take_unsaved();
        TrackingBatch { baselines, regressions, ..TrackingBatch::default() }
    }

    /// Makes the present level of a measure normal, or of every measure that alarms. Returns those
    /// that were; none if the series is unknown.
    pub fn accept(
        &mut self,
        live: &Live,
        key: &SeriesKey,
        measure: Option<Measure>,
    ) -> Option<Vec<Measure>> {
        let number = self.number;
        let series = self.series.get_mut(key)?;
        let mut accepted = Vec::new();
        for of in Measure::ALL {
            let regression = series.baseline.detector(of).regression();
            let is_meant = measure.map_or(regression.is_some(), |measure| measure == of);
            if !is_meant || !series.baseline.accept(of) {
                continue;
            }
            accepted.push(of);
            let key = AlarmKey { series: key.clone(), measure: of };
            if let Some(regression) = self.reported.remove(&key) {
                let change = report::ended(live, &key, &regression, AlarmEnd::Accepted);
                change.into_iter().for_each(|change| self.changes.push(change));
            }
        }
        // The next roll-up saves it.
        series.saved = number.saturating_sub(SAVE_INTERVAL);
        self.publish(live);
        Some(accepted)
    }

    /// Every series, in order.
    pub fn series(&self) -> impl Iterator<Item = (&SeriesKey, &TrackedSeries)> {
        self.series.iter()
    }

    /// The last roll-up.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Most series are worse than their baselines.
    pub fn is_host(&self) -> bool {
        self.is_host
    }

    /// Takes the calls of a recorder; returns their stored form.
    fn observe(&mut self, recorder: &CallRecorder) -> Vec<(SeriesKey, Vec<u8>)> {
        let mut stored = Vec::new();
        for (model, calls) in recorder.take() {
            let (route, provider) = (recorder.route.clone(), recorder.provider.clone());
            let key = SeriesKey { route, provider, model };
            let mut bytes = Vec::new();
            calls.encode(&mut bytes);
            stored.push((key.clone(), bytes));
            let new = || TrackedSeries::new(SeriesBaseline::new(self.learning_blocks), self.number);
            let series = self.series.entry(key).or_insert_with(new);
            series.add(&calls);
            let _ = series.baseline.observe(&calls.roll_up(self.number));
        }
        stored
    }

    fn report(&mut self, live: &Live) {
        let alarms = self.alarms();
        let is_host = self.is_about_host(&alarms);
        if std::mem::replace(&mut self.is_host, is_host) != is_host {
            self.changes.push(report::host(live, is_host, alarms.len()));
        }
        let attributed = if is_host { Alarms::new() } else { alarms };
        let reported = std::mem::replace(&mut self.reported, attributed);
        for (key, regression) in &self.reported {
            if !reported.contains_key(key) {
                self.changes.push(report::started(live, key, regression));
            }
        }
        for (key, regression) in &reported {
            if !self.reported.contains_key(key) {
                let change = report::ended(live, key, regression, self.end_of(key));
                change.into_iter().for_each(|change| self.changes.push(change));
            }
        }
        self.publish(live);
    }

    /// Publishes the slow series to the degradation modes.
    fn publish(&self, live: &Live) {
        let slow = self.reported.iter().filter_map(|(AlarmKey { series, measure }, regression)| {
            let slowdown = regression.slowdown(*measure)?;
            Some(SlowSeries { key: series.clone(), measure: *measure, slowdown })
        });
        live.regressions.replace(slow.collect());
    }

    /// The stored form of a few baselines that were not saved for an hour.
    fn due_baselines(&mut self) -> Vec<(SeriesKey, Vec<u8>)> {
        let number = self.number;
        let due =
            self.series.iter_mut().filter(|(_, series)| series.saved + SAVE_INTERVAL <= number);
        let save = |(key, series): (&SeriesKey, &mut TrackedSeries)| {
            series.saved = number;
            (key.clone(), series.baseline.encode())
        };
        due.take(SAVES_AT_ONCE).map(save).collect()
    }

    /// Why an alarm is not reported any longer.
    fn end_of(&self, key: &AlarmKey) -> AlarmEnd {
        let detector =
            self.series.get(&key.series).map(|series| series.baseline.detector(key.measure));
        match detector {
            _ if self.is_host => AlarmEnd::Host,
            Some(detector) if detector.regression().is_none() => AlarmEnd::Recovered,
            _ => AlarmEnd::NoCalls,
        }
    }

    /// The standing alarms. An alarm without calls does not count: a degradation mode may have moved
    /// the calls elsewhere, and only calls show whether the regression is over.
    fn alarms(&self) -> Alarms {
        let mut alarms = Alarms::new();
        for (series, tracked) in &self.series {
            for measure in Measure::ALL {
                let detector = tracked.baseline.detector(measure);
                if detector.status(self.number) == DetectorStatus::Alarm
                    && let Some(regression) = detector.regression()
                {
                    alarms.insert(AlarmKey { series: series.clone(), measure }, regression);
                }
            }
        }
        alarms
    }

    /// Whether most series alarm. Those of a single provider accuse the provider, even if there are
    /// no others.
    fn is_about_host(&self, alarms: &Alarms) -> bool {
        let mut providers = alarms.keys().map(|key| &key.series.provider);
        let first = providers.next();
        let several = providers.any(|provider| Some(provider) != first);
        let statuses = self.series.values().map(|series| series.baseline.status(self.number));
        several && alarm_scope(statuses) == AlarmScope::Host
    }

    /// Sets the usual p95 of a recorder, for the breakers.
    fn set_usual_p95(&self, recorder: &CallRecorder) {
        recorder.set_usual_p95(|model| {
            let (route, provider) = (recorder.route.clone(), recorder.provider.clone());
            let key = SeriesKey { route, provider, model: model.to_owned() };
            let usual = self.series.get(&key)?.baseline.detector(Measure::P95).usual()?;
            Duration::try_from_secs_f64(usual).ok()
        });
    }

    fn calibrate(&mut self, draw: impl Fn() -> f64) {
        let mut left = CALIBRATIONS_AT_ONCE;
        for series in self.series.values_mut() {
            while left > 0 && series.baseline.calibrate(&draw) {
                left -= 1;
            }
        }
    }
}

impl TrackedSeries {
    fn new(baseline: SeriesBaseline, number: u64) -> Self {
        let outcomes = [0; AttemptClass::ALL.len()];
        TrackedSeries { baseline, outcomes, cost: 0.0, saved: number }
    }

    fn add(&mut self, calls: &Calls) {
        for class in AttemptClass::ALL {
            self.outcomes[class.index()] += u64::from(calls.outcome(class));
        }
        self.cost += calls.cost();
    }

    /// The attempts of some classes so far.
    pub fn count(&self, of: fn(AttemptClass) -> bool) -> u64 {
        let classes = AttemptClass::ALL.into_iter().filter(|class| of(*class));
        classes.map(|class| self.outcomes[class.index()]).sum()
    }
}
