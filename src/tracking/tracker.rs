//! The baselines of all series, and which of them alarm.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{self, AlarmEnd, AlarmKey};
use crate::live::Live;
use crate::live::tracking::call_recorder::CallRecorder;
use crate::live::tracking::regressions::SlowSeries;
use crate::resilience::baseline::detector::{DetectorStatus, Regression};
use crate::resilience::baseline::measure::Measure;
use crate::resilience::baseline::{
    AlarmScope, LEARNING_BLOCKS, SeriesBaseline, SeriesKey, alarm_scope,
};

/// A calibration takes about a millisecond, and each detector needs one in an hour.
const CALIBRATIONS_AT_ONCE: usize = 4;

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
}

/// One series.
#[derive(Debug)]
pub struct TrackedSeries {
    pub baseline: SeriesBaseline,
    /// Calls so far.
    pub calls: u64,
    pub failed: u64,
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
        }
    }

    /// Takes the calls since the last roll-up, and reports the alarms that start or end. `draw` is
    /// in [0, 1).
    pub fn roll_up(&mut self, live: &Live, number: u64, draw: impl Fn() -> f64) {
        self.number = number;
        let recorders = live.call_recorders();
        let is_recorded = |key: &SeriesKey| {
            recorders.iter().any(|one| one.route == key.route && one.provider == key.provider)
        };
        self.series.retain(|key, _| is_recorded(key));
        recorders.iter().for_each(|recorder| self.observe(recorder));
        self.report(live);
        self.calibrate(draw);
        recorders.iter().for_each(|recorder| self.set_usual_p95(recorder));
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

    fn observe(&mut self, recorder: &CallRecorder) {
        for (model, calls) in recorder.take() {
            let (route, provider) = (recorder.route.clone(), recorder.provider.clone());
            let key = SeriesKey { route, provider, model };
            let new = || TrackedSeries {
                baseline: SeriesBaseline::new(self.learning_blocks),
                calls: 0,
                failed: 0,
            };
            let (series, roll_up) =
                (self.series.entry(key).or_insert_with(new), calls.roll_up(self.number));
            series.calls += u64::from(roll_up.calls);
            series.failed += u64::from(roll_up.failed);
            let _ = series.baseline.observe(&roll_up);
        }
    }

    fn report(&mut self, live: &Live) {
        let alarms = self.alarms();
        let is_host = self.is_about_host(&alarms);
        if std::mem::replace(&mut self.is_host, is_host) != is_host {
            report::host(live, is_host, alarms.len());
        }
        let attributed = if is_host { Alarms::new() } else { alarms };
        let reported = std::mem::replace(&mut self.reported, attributed);
        for (key, regression) in &self.reported {
            if !reported.contains_key(key) {
                report::started(live, key, regression);
            }
        }
        for (key, regression) in &reported {
            if !self.reported.contains_key(key) {
                report::ended(live, key, regression, self.end_of(key));
            }
        }
        let slow = self.reported.iter().filter_map(|(AlarmKey { series, measure }, regression)| {
            let slowdown = regression.slowdown(*measure)?;
            Some(SlowSeries { key: series.clone(), measure: *measure, slowdown })
        });
        live.regressions.replace(slow.collect());
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

    /// The standing alarms. One without calls does not count: a degradation mode may have taken
    /// them away, and only calls can tell whether it is over.
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

    /// Tells a recorder what is usual, for the breakers.
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
