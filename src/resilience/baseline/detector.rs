//! Detects that one measure of one series has become worse than its baseline.
//!
//! Each reading is standardised by the expected level and spread of its time, clipped, whitened
//! and added to a CUSUM with the series' own threshold ([`super::calibration`]). An alarm needs
//! both: the sum is above the threshold, and the change is confirmed, that is at least four of the
//! last six readings are past the level by the larger of two MAD and the measure's least change.
//! It is over after twelve readings at which the change was not confirmed; a reading at which it
//! was takes back two of them, so that a single burst does not keep an alarm for minutes.
//!
//! While an alarm stands nothing is learned: neither its readings, nor the rest of the 10 minutes
//! in which it began and ended. So a regression never becomes the baseline, however long it
//! lasts. Only [`Detector::accept`] makes it so.
//!
//! A roll-up without a reading changes nothing. After 10 minutes without one, the sum and the
//! last readings are forgotten.

use std::collections::VecDeque;

use super::calibration::{
    ALLOWANCE, CLIP, Calibration, Cusum, MISSING, calibrate, pack, roll_ups_to_pass,
};
use super::measure::{Measure, Reading};
use super::profile::{BLOCK, BlockSummary, DAY, Expectation, Profile};
use crate::resilience::medians::median;
use crate::resilience::words::words;

/// Readings that a confirmation looks at, and how many of them must be past the bound.
const CONFIRMED_OF: usize = 6;
const CONFIRMED_BY: u32 = 4;
/// Readings without confirmation that end an alarm, and how many of them a confirmed one takes back.
const GOOD_READINGS: u32 = 12;
const TAKEN_BACK: u32 = 2;
/// A MAD of normal readings is this share of their standard deviation.
const NORMAL_MAD: f64 = 0.6745;
/// A block with fewer readings is not learned.
const LEAST_READINGS: usize = 5;
/// Learned blocks between two calibrations: an hour.
const CALIBRATION_BLOCKS: u32 = 6;
/// The share of its last threshold that a calibration keeps at least: a burst is remembered for
/// days.
const THRESHOLD_KEPT: f64 = 0.99;
/// Differences of such values are exact enough, and never infinite.
const MOST_VALUE: f64 = 1e6;
const HISTORY: usize = DAY * BLOCK as usize;

words! {
    /// The state of a detector that a caller can see.
    pub enum DetectorStatus {
        /// No reading in the last 10 minutes. It says nothing else, not even that an alarm is over.
        NotEnoughData = "not_enough_data",
        /// The baseline is not complete yet, so there are no alarms.
        Learning = "learning",
        Normal = "normal",
        Alarm = "alarm",
    }
}

/// A regression, as figures that a person knows: seconds, tokens per second, a share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regression {
    /// The first roll-up that was worse, by the CUSUM.
    pub since: u64,
    /// The baseline when it began.
    pub before: f64,
    /// The median of the last six readings.
    pub current: f64,
}

/// The start or the end of an alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DetectorEvent {
    Started(Regression),
    /// The readings are those at the end.
    Ended(Regression),
}

/// A standing alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StandingAlarm {
    pub since: u64,
    /// The level when it began.
    pub level: f64,
    /// Readings without confirmation, less those that confirmed ones took back.
    pub good: u32,
}

/// The readings of the current block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenBlock {
    pub number: u64,
    pub values: Vec<f32>,
    /// Standardised, one byte for each roll-up.
    pub standardised: Vec<i8>,
    /// An alarm stood during the block, so it is not learned.
    pub has_alarm: bool,
    pub expectation: Option<Expectation>,
}

/// Everything that a detector has learned and its present state: plain data for a store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DetectorState {
    pub profile: Profile,
    /// Standardised readings of the last learned day, a byte each; at most 8,640.
    pub history: VecDeque<i8>,
    pub calibration: Option<Calibration>,
    pub blocks_learned: u32,
    pub blocks_at_calibration: u32,
    pub open: OpenBlock,
    pub cusum: Cusum,
    /// The roll-up after the sum was last 0.
    pub rising_since: u64,
    /// The last six readings, the newest last.
    pub recent: VecDeque<f32>,
    /// Whether each of them is past the bound, the newest in the lowest bit.
    pub past: u8,
    pub last: Option<u64>,
    pub alarm: Option<StandingAlarm>,
}

/// The detector of one measure of one series.
#[derive(Clone, Debug)]
pub struct Detector {
    measure: Measure,
    /// Blocks to learn before there are alarms.
    learning_blocks: u32,
    state: DetectorState,
}

impl Regression {
    /// The current figure as a multiple of the baseline; none if that is 0.
    pub fn ratio(&self) -> Option<f64> {
        (self.before > 0.0).then(|| self.current / self.before)
    }

    /// How many times as slow as the baseline; none for an error rate.
    pub fn slowdown(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::P50 | Measure::P95 | Measure::FirstContent => self.ratio(),
            Measure::TokensPerSecond => self.ratio().filter(|r| *r > 0.0).map(f64::recip),
            Measure::ErrorRate => None,
        }
    }
}

impl Detector {
    /// `learning_blocks`: the blocks of 10 minutes to learn before there are alarms.
    pub fn new(measure: Measure, learning_blocks: u32) -> Self {
        Self { measure, learning_blocks, state: DetectorState::default() }
    }

    /// Accepts the reading of a roll-up. Roll-ups come in order; one that is not later than the
    /// last is left out.
    pub fn observe(&mut self, number: u64, reading: Option<Reading>) -> Option<DetectorEvent> {
        let state = &mut self.state;
        if state.last.is_some_and(|last| number <= last) {
            return None;
        }
        self.open_block(number / BLOCK);
        let Reading { value, calls } = reading.filter(|reading| is_value(reading.value))?;
        let state = &mut self.state;
        let missed = state.last.map_or(0, |last| number - last - 1);
        state.last = Some(number);
        if missed > 0 {
            state.cusum.previous = None;
        }
        if missed >= BLOCK {
            (state.cusum, state.past) = (Cusum::default(), 0);
            state.recent.clear();
        }
        state.open.values.push(value as f32);
        let expectation = state.open.expectation?;
        self.compare(number, value, expectation, calls)
    }

    /// Whether [`Detector::calibrate`] is due: once an hour, while nothing is suspicious.
    pub fn is_calibration_due(&self) -> bool {
        let state = &self.state;
        let is_calm = state.calibration.is_none_or(|c| state.cusum.sum < c.threshold / 2.0);
        let learned = state.blocks_learned - state.blocks_at_calibration;
        let is_due = state.calibration.is_none() || learned >= CALIBRATION_BLOCKS;
        state.alarm.is_none() && is_calm && self.has_learned() && is_due
    }

    /// Sets the threshold by the history. It takes about a millisecond. `draw` is in [0, 1).
    pub fn calibrate(&mut self, draw: impl FnMut() -> f64) {
        let state = &mut self.state;
        state.blocks_at_calibration = state.blocks_learned;
        let found = calibrate(state.history.make_contiguous(), draw);
        let kept = state.calibration.map_or(0.0, |c| c.threshold * THRESHOLD_KEPT);
        state.calibration = found.map(|c| Calibration { threshold: c.threshold.max(kept), ..c });
    }

    /// Makes the current level normal, and ends an alarm. Returns false without a reading or a
    /// baseline.
    pub fn accept(&mut self) -> bool {
        let state = &mut self.state;
        let current = median(state.recent.make_contiguous());
        let (Some(current), Some(last)) = (current, state.last) else { return false };
        state.profile.rebase(current.into(), last / BLOCK);
        state.open.expectation = state.profile.expectation(last / BLOCK);
        state.alarm = None;
        self.restart();
        true
    }

    pub fn status(&self, number: u64) -> DetectorStatus {
        let state = &self.state;
        let silent = state.last.is_none_or(|last| number.saturating_sub(last) >= BLOCK);
        match state.alarm {
            _ if silent => DetectorStatus::NotEnoughData,
            Some(_) => DetectorStatus::Alarm,
            None if state.calibration.is_none() => DetectorStatus::Learning,
            None => DetectorStatus::Normal,
        }
    }

    /// The standing regression.
    pub fn regression(&self) -> Option<Regression> {
        let StandingAlarm { since, level, .. } = self.state.alarm?;
        Some(self.figures(since, level))
    }

    /// The level that readings are compared with now, as a figure; none while there is none.
    pub fn baseline(&self) -> Option<f64> {
        self.state.open.expectation.map(|expected| self.measure.figure(expected.level))
    }

    /// As `baseline`; none before the baseline is complete.
    pub fn usual(&self) -> Option<f64> {
        self.state.calibration.and_then(|_| self.baseline())
    }

    /// The median of the last six readings, as a figure; none while there is no baseline.
    pub fn current(&self) -> Option<f64> {
        let mut recent: Vec<_> = self.state.recent.iter().copied().collect();
        median(&mut recent).map(|current| self.measure.figure(current.into()))
    }

    /// The roll-ups from a lasting change to the alarm, as expected from the series' noise: the
    /// change is a difference of logarithms, or of error rates. None: it would not be found.
    pub fn roll_ups_to_detect(&self, change: f64, calls: u32) -> Option<u32> {
        let (calibration, expected) = (self.state.calibration?, self.state.open.expectation?);
        let slack = if expected.is_young { self.measure.young_slack() } else { 0.0 };
        let scale = self.scale(expected, calls);
        let is_confirmed = change - slack > self.bound(expected);
        let passes = roll_ups_to_pass(&calibration, (change - slack) / scale);
        passes.filter(|_| is_confirmed).map(|passes| passes.max(CONFIRMED_BY))
    }

    pub fn state(&self) -> &DetectorState {
        &self.state
    }

    /// Continues from a stored state; none if it breaks a bound or has a number that is not
    /// finite.
    pub fn restore(measure: Measure, learning_blocks: u32, state: DetectorState) -> Option<Self> {
        state.is_valid().then_some(Self { measure, learning_blocks, state })
    }

    fn has_learned(&self) -> bool {
        self.state.blocks_learned >= self.learning_blocks.max(1)
    }

    fn compare(
        &mut self,
        number: u64,
        value: f64,
        expected: Expectation,
        calls: u32,
    ) -> Option<DetectorEvent> {
        let scale = self.scale(expected, calls);
        let bound = self.bound(expected);
        let state = &mut self.state;
        let difference = value - expected.level;
        state.open.standardised.resize((number % BLOCK) as usize, MISSING);
        state.open.standardised.push(pack(difference / scale));
        let slack = if expected.is_young { self.measure.young_slack() } else { 0.0 };
        if state.recent.len() == CONFIRMED_OF {
            state.recent.pop_front();
        }
        state.recent.push_back(value as f32);
        let is_past = difference > slack + bound;
        state.past = (state.past << 1 | u8::from(is_past)) & ((1 << CONFIRMED_OF) - 1);
        let calibration = state.calibration?;
        if state.cusum.sum == 0.0 {
            state.rising_since = number;
        }
        let standardised = ((difference - slack) / scale).clamp(-CLIP, CLIP);
        state.cusum.add(standardised, calibration.correlation);
        // A sum without a bound would take as long to fall as it rose.
        state.cusum.sum = state.cusum.sum.min(calibration.threshold + CLIP);
        let is_confirmed = state.past.count_ones() >= CONFIRMED_BY;
        if state.alarm.is_some() {
            return self.count_good(is_confirmed && is_past);
        }
        (is_confirmed && state.cusum.sum > calibration.threshold)
            .then(|| self.start_alarm(expected.level))
    }

    fn start_alarm(&mut self, level: f64) -> DetectorEvent {
        let since = self.state.rising_since;
        self.state.alarm = Some(StandingAlarm { since, level, good: 0 });
        self.state.open.has_alarm = true;
        DetectorEvent::Started(self.figures(since, level))
    }

    fn count_good(&mut self, is_bad: bool) -> Option<DetectorEvent> {
        let alarm = self.state.alarm.as_mut()?;
        alarm.good = match is_bad {
            true => alarm.good.saturating_sub(TAKEN_BACK),
            false => alarm.good.saturating_add(1),
        };
        if alarm.good < GOOD_READINGS {
            return None;
        }
        let StandingAlarm { since, level, .. } = *alarm;
        let regression = self.figures(since, level);
        self.state.alarm = None;
        self.restart();
        Some(DetectorEvent::Ended(regression))
    }

    fn figures(&self, since: u64, level: f64) -> Regression {
        let before = self.measure.figure(level);
        let current = self.current().unwrap_or(before);
        Regression { since, before, current }
    }

    /// Forgets the sum and the last readings.
    fn restart(&mut self) {
        (self.state.cusum, self.state.past) = (Cusum::default(), 0);
        self.state.recent.clear();
    }

    fn scale(&self, expected: Expectation, calls: u32) -> f64 {
        let least = self.measure.least_scale(expected.level, calls);
        (expected.spread / NORMAL_MAD).max(least)
    }

    /// The difference from the level that counts as worse.
    fn bound(&self, expected: Expectation) -> f64 {
        (2.0 * expected.spread).max(self.measure.least_change())
    }

    /// Learns the open block if it is over, and opens the next.
    fn open_block(&mut self, number: u64) {
        if number == self.state.open.number && self.state.last.is_some() {
            return;
        }
        self.learn_block();
        let state = &mut self.state;
        state.open.number = number;
        state.open.values.clear();
        state.open.standardised.clear();
        state.open.has_alarm = state.alarm.is_some();
        state.open.expectation = state.profile.expectation(number);
    }

    fn learn_block(&mut self) {
        let (state, measure) = (&mut self.state, self.measure);
        let open = &mut state.open;
        if open.has_alarm || open.values.len() < LEAST_READINGS {
            return;
        }
        let count = open.values.len() as f32;
        let mean = open.values.iter().sum::<f32>() / count;
        let Some(middle) = median(&mut open.values) else { return };
        let level = if measure.is_mean() { mean } else { middle };
        let expected = open.expectation.map_or(level, |expected| expected.level as f32);
        open.values.iter_mut().for_each(|value| *value = (*value - expected).abs());
        let spread = median(&mut open.values).unwrap_or(0.0);
        state.profile.learn(BlockSummary { number: open.number, level, spread });
        if !open.standardised.is_empty() {
            open.standardised.resize(BLOCK as usize, MISSING);
            let excess = (state.history.len() + open.standardised.len()).saturating_sub(HISTORY);
            state.history.drain(..excess);
            // All at once: growth by doubling would keep twice as much.
            state.history.reserve_exact(HISTORY - state.history.len());
            state.history.extend(&open.standardised);
        }
        state.blocks_learned = state.blocks_learned.saturating_add(1);
    }
}

impl DetectorState {
    fn is_valid(&self) -> bool {
        let profile = &self.profile;
        let block = |b: &BlockSummary| is_value(b.level.into()) && is_spread(b.spread.into());
        let hours = profile.hours.iter().flatten();
        let calibration = self.calibration.is_none_or(|c| {
            (0.0..1.0).contains(&c.correlation) && c.threshold >= ALLOWANCE && is_value(c.threshold)
        });
        let expectation =
            self.open.expectation.is_none_or(|e| is_value(e.level) && is_spread(e.spread));
        profile.blocks.len() <= DAY
            && profile.blocks.iter().all(block)
            && [0, 168].contains(&profile.hours.len())
            && hours
                .into_iter()
                .all(|hour| is_value(hour.level.into()) && is_spread(hour.spread.into()))
            && self.history.len() <= HISTORY
            && calibration
            && self.blocks_at_calibration <= self.blocks_learned
            && self.open.values.len() <= BLOCK as usize
            && self.open.standardised.len() <= BLOCK as usize
            && self.open.values.iter().all(|value| is_value((*value).into()))
            && expectation
            && is_spread(self.cusum.sum)
            && self.cusum.previous.is_none_or(is_value)
            && self.recent.len() <= CONFIRMED_OF
            && self.recent.iter().all(|value| is_value((*value).into()))
            && self.alarm.is_none_or(|alarm| is_value(alarm.level))
    }
}

/// Whether a number may be a logarithm, a share or a difference of them.
fn is_value(value: f64) -> bool {
    value.abs() <= MOST_VALUE
}

fn is_spread(spread: f64) -> bool {
    (0.0..=2.0 * MOST_VALUE).contains(&spread)
}
