use super::calibration::{Calibration, calibrate, pack};
use super::detector::{Detector, DetectorEvent, DetectorState, DetectorStatus, Regression};
use super::measure::{Measure, ROLL_UP_SECONDS, Reading, RollUp};
use super::profile::{BLOCK, BlockSummary, Profile};
use super::stored_state::StateError;
use super::*;
use crate::resilience::stored_bytes::BytesError;
use proptest::prelude::*;

/// Roll-ups of a day.
const ROLL_UPS: u64 = 86_400 / ROLL_UP_SECONDS;
const START: u64 = 20_000 * ROLL_UPS;
/// An hour is enough to learn a series of the tests.
const LEARNING: u32 = 6;
const SLOWER: f64 = 0.262;

/// A generator for tests (xorshift), nearly normal.
#[derive(Clone)]
struct Draws(u64);

impl Draws {
    fn new(seed: u64) -> Self {
        Draws(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A detector and the series that it watches.
#[derive(Clone)]
struct Watched {
    detector: Detector,
    draws: Draws,
    at: u64,
}

impl Watched {
    fn new(measure: Measure, seed: u64) -> Self {
        let detector = Detector::new(measure, LEARNING);
        Watched { detector, draws: Draws::new(seed), at: START }
    }

    /// A detector of p95 that has learned for hours from noise of 5 %.
    fn learned(hours: u64) -> Self {
        let mut watched = Self::new(Measure::P95, 7);
        assert_eq!(watched.noise(hours * 360, 0.0), []);
        watched
    }

    fn feed(&mut self, value: Option<f64>) -> Option<DetectorEvent> {
        let reading = value.map(|value| Reading { value, calls: 200 });
        let event = self.detector.observe(self.at, reading);
        self.at += 1;
        if self.detector.is_calibration_due() {
            self.detector.calibrate(|| self.draws.uniform());
        }
        event
    }

    /// Feeds noise around a level, and returns the events with the number of their roll-up.
    fn noise(&mut self, roll_ups: u64, level: f64) -> Vec<(u64, DetectorEvent)> {
        let mut events = Vec::new();
        for step in 1..=roll_ups {
            let value = level + 0.05 * self.draws.normal();
            events.extend(self.feed(Some(value)).map(|event| (step, event)));
        }
        events
    }

    fn status(&self) -> DetectorStatus {
        self.detector.status(self.at)
    }
}

fn started(events: &[(u64, DetectorEvent)]) -> (u64, Regression) {
    match events {
        [(step, DetectorEvent::Started(found))] => (*step, *found),
        other => panic!("one alarm expected, found {other:?}"),
    }
}

#[test]
fn a_series_without_calls_has_not_enough_data() {
    let mut series = SeriesBaseline::new(LEARNING);
    for number in START..START + 3_000 {
        assert_eq!(series.observe(&RollUp { number, ..RollUp::default() }), []);
    }
    assert_eq!(series.status(START + 3_000), DetectorStatus::NotEnoughData);
    assert!(!series.calibrate(|| 0.5));
    assert!(Measure::ALL.iter().all(|measure| !series.accept(*measure)));
}

#[test]
fn a_constant_series_never_alarms_and_a_change_of_it_does() {
    for measure in Measure::ALL {
        let mut watched = Watched::new(measure, 1);
        assert!((0..ROLL_UPS).all(|_| watched.feed(Some(0.01)).is_none()));
        assert_eq!(watched.status(), DetectorStatus::Normal);
        let event = (0..12).find_map(|_| watched.feed(Some(0.01 + SLOWER)));
        assert!(matches!(event, Some(DetectorEvent::Started(_))), "{measure:?}");
    }
}

#[test]
fn there_is_no_alarm_before_the_baseline_is_learned() {
    let mut watched = Watched::new(Measure::P95, 1);
    assert_eq!(watched.noise(300, 0.0), []);
    assert_eq!(watched.noise(50, 2.0), []);
    assert_eq!(watched.status(), DetectorStatus::Learning);
}

#[test]
fn a_slower_series_alarms_within_a_minute_with_its_figures() {
    let mut watched = Watched::learned(30);
    let began = watched.at;
    let (step, found) = started(&watched.noise(30, SLOWER));
    assert!(step <= 7, "{step}");
    assert!(found.since.abs_diff(began) <= 3, "{} {began}", found.since);
    assert!((found.before - 1.0).abs() < 0.02, "{found:?}");
    assert!(found.current > 1.12, "{found:?}");
    let standing = watched.detector.regression().unwrap();
    assert_eq!(standing.since, found.since);
    assert!((standing.ratio().unwrap() - 1.3).abs() < 0.1, "{standing:?}");
    assert_eq!(Regression { before: 0.0, ..standing }.ratio(), None);
}

#[test]
fn an_alarm_ends_after_twelve_good_roll_ups() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(30, SLOWER));
    assert!((0..6).all(|_| watched.feed(Some(SLOWER)).is_none()));
    // Three more are past until four of the last six no longer are.
    let ended: Vec<_> = (1..=30).filter(|_| watched.feed(Some(0.0)).is_some()).collect();
    assert_eq!(ended, [12]);
    assert_eq!(watched.status(), DetectorStatus::Normal);
}

#[test]
fn three_slow_roll_ups_are_a_burst_and_no_regression() {
    let mut watched = Watched::learned(30);
    for _ in 0..20 {
        assert!((0..3).all(|_| watched.feed(Some(3.0)).is_none()));
        assert!((0..9).all(|_| watched.feed(Some(0.0)).is_none()));
    }
}

#[test]
fn a_change_below_ten_percent_is_no_alarm() {
    let mut watched = Watched::new(Measure::P50, 1);
    assert!((0..3_000).all(|_| watched.feed(Some(0.0)).is_none()));
    assert!((0..600).all(|_| watched.feed(Some(0.09)).is_none()));
}

#[test]
fn a_regression_of_two_days_is_never_learned() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(30, SLOWER));
    let before = watched.detector.state().profile.clone();
    assert_eq!(watched.noise(2 * ROLL_UPS, SLOWER), []);
    assert_eq!(watched.status(), DetectorStatus::Alarm);
    assert_eq!(watched.detector.state().profile, before);
    let events = watched.noise(18, 0.0);
    assert!(matches!(events[..], [(_, DetectorEvent::Ended(_))]), "{events:?}");
}

#[test]
fn an_operator_makes_a_change_the_new_normal() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(60, SLOWER));
    assert!(watched.detector.accept());
    assert_eq!(watched.status(), DetectorStatus::Normal);
    assert_eq!(watched.noise(ROLL_UPS, SLOWER), []);
    let (_, found) = started(&watched.noise(30, 2.0 * SLOWER));
    assert!((found.before - 1.3).abs() < 0.05, "{found:?}");
}

#[test]
fn an_improvement_is_learned() {
    let mut watched = Watched::learned(30);
    for _ in 0..9 {
        assert_eq!(watched.noise(ROLL_UPS, -0.5), []);
        // Not better than it ever was: that would make an alarm of the new level.
        assert!(watched.detector.baseline().unwrap().ln() > -0.53);
    }
    assert!((watched.detector.baseline().unwrap().ln() + 0.5).abs() < 0.03);
}

#[test]
fn missing_roll_ups_change_nothing() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(30, SLOWER));
    for _ in 0..58 {
        assert_eq!(watched.feed(None), None);
    }
    assert_eq!(watched.status(), DetectorStatus::Alarm);
    assert_eq!(watched.feed(None), None);
    assert_eq!(watched.status(), DetectorStatus::NotEnoughData);
    assert_eq!(watched.noise(12, SLOWER), []);
    assert_eq!(watched.status(), DetectorStatus::Alarm);
}

#[test]
fn a_silence_forgets_the_readings_before_it() {
    let mut watched = Watched::learned(30);
    for _ in 0..3 {
        assert_eq!(watched.feed(Some(SLOWER)), None);
    }
    (0..60).for_each(|_| assert_eq!(watched.feed(None), None));
    for _ in 0..3 {
        assert_eq!(watched.feed(Some(SLOWER)), None);
    }
}

#[test]
fn a_roll_up_out_of_order_is_left_out() {
    let mut watched = Watched::learned(30);
    let before = watched.detector.state().clone();
    let old = Some(Reading { value: 9.0, calls: 200 });
    for number in [0, START, watched.at - 1] {
        assert_eq!(watched.detector.observe(number, old), None);
    }
    assert_eq!(*watched.detector.state(), before);
}

#[test]
fn a_daily_cycle_is_the_baseline_of_the_hour_from_the_second_day() {
    let cycle = |at: u64| 0.3 * (at as f64 / ROLL_UPS as f64 * std::f64::consts::TAU).sin();
    let mut watched = Watched::new(Measure::P95, 3);
    watched.detector = Detector::new(Measure::P95, LEARNING_BLOCKS);
    for _ in 0..5 * ROLL_UPS {
        let value = cycle(watched.at) + 0.05 * watched.draws.normal();
        assert_eq!(watched.feed(Some(value)), None);
    }
    let expected = watched.detector.state().open.expectation.unwrap();
    assert!((expected.level - cycle(watched.at)).abs() < 0.03, "{expected:?}");
    assert!(expected.spread < 0.05, "{expected:?}");
    let alarm = (0..20).find_map(|_| watched.feed(Some(cycle(watched.at) + 2.0 * SLOWER)));
    assert!(alarm.is_some());
}

#[test]
fn a_weekend_that_was_worse_is_expected_again() {
    let mut profile = Profile::default();
    let level = |block: u64| if block / 144 % 7 >= 5 { 0.2 } else { 0.0 };
    for number in 0..144 * 12 {
        profile.learn(BlockSummary { number, level: level(number), spread: 0.0 });
    }
    // Friday, Saturday and Monday of the second and third week.
    let expected = [11 * 144 + 70, 12 * 144 + 70, 14 * 144 + 70]
        .map(|block| profile.expectation(block).unwrap());
    assert!(expected[1].level > 0.19 && !expected[1].is_young, "{expected:?}");
    assert!(expected[0].level.abs() < 0.01 && expected[2].level.abs() < 0.01, "{expected:?}");
}

#[test]
fn noise_with_bursts_gets_a_higher_threshold_and_a_longer_delay() {
    let mut draws = Draws::new(5);
    let mut history = |burst: bool| -> Vec<i8> {
        let is_burst = |at: u64| burst && at % 500 < 5;
        (0..8_640).map(|at| pack(draws.normal() + if is_burst(at) { 4.0 } else { 0.0 })).collect()
    };
    let (calm, bursts) = (history(false), history(true));
    let [calm, bursts] = [&calm, &bursts].map(|h| calibrate(h, || draws.uniform()).unwrap());
    assert!((7.0..14.0).contains(&calm.threshold), "{calm:?}");
    assert!(bursts.threshold > 1.5 * calm.threshold, "{bursts:?}");
}

#[test]
fn autocorrelation_is_measured() {
    let (mut draws, mut value) = (Draws::new(5), 0.0);
    let mut history = Vec::new();
    for _ in 0..8_640 {
        value = 0.6 * value + 0.8 * draws.normal();
        history.push(pack(value));
    }
    let Calibration { correlation, .. } = calibrate(&history, || draws.uniform()).unwrap();
    assert!((correlation - 0.6).abs() < 0.05, "{correlation}");
}

#[test]
fn a_series_says_how_long_a_change_takes() {
    let watched = Watched::learned(30);
    let fast = watched.detector.roll_ups_to_detect(2.0, 200).unwrap();
    let slow = watched.detector.roll_ups_to_detect(2.0 * SLOWER, 200).unwrap();
    assert!(4 <= fast && fast <= slow && slow <= 12, "{fast} {slow}");
    assert_eq!(watched.detector.roll_ups_to_detect(0.05, 200), None);
    assert_eq!(Detector::new(Measure::P95, 1).roll_ups_to_detect(2.0, 200), None);
}

#[test]
fn a_restored_detector_continues_where_it_was() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(30, SLOWER));
    let mut copy = watched.clone();
    let state = watched.detector.state().clone();
    copy.detector = Detector::restore(Measure::P95, LEARNING, state).unwrap();
    assert_eq!(copy.noise(1_000, 0.0), watched.noise(1_000, 0.0));
    assert_eq!(copy.detector.state(), watched.detector.state());
}

#[test]
fn a_stored_state_that_is_not_valid_is_refused() {
    let good = Watched::learned(30).detector.state().clone();
    let is_refused = |change: fn(&mut DetectorState)| {
        let mut state = good.clone();
        change(&mut state);
        Detector::restore(Measure::P95, LEARNING, state).is_none()
    };
    assert!(!is_refused(|_| ()));
    assert!(is_refused(|state| state.cusum.sum = f64::NAN));
    assert!(is_refused(|state| state.profile.blocks[0].level = f32::INFINITY));
    assert!(is_refused(|state| state.profile.hours.truncate(3)));
    assert!(is_refused(|state| state.history.resize(8_641, 0)));
    assert!(is_refused(|state| state.blocks_at_calibration = u32::MAX));
    assert!(is_refused(|state| state.recent.resize(7, 0.0)));
    let states = || [const { 0 }; 5].map(|_| good.clone());
    let series = SeriesBaseline::restore(LEARNING, states()).unwrap();
    assert_eq!(series.states().map(|state| *state == good), [true; 5]);
    let mut bad = states();
    bad[3].cusum.sum = f64::INFINITY;
    assert_eq!(SeriesBaseline::restore(LEARNING, bad).unwrap_err(), Measure::TokensPerSecond);
}

#[test]
fn a_stored_baseline_is_read_back_and_damage_is_refused() {
    let mut watched = Watched::learned(30);
    started(&watched.noise(30, SLOWER));
    let state = watched.detector.state();
    let states = [const { 0 }; 5].map(|_| state.clone());
    let bytes = SeriesBaseline::restore(LEARNING, states).unwrap().encode();
    assert!(bytes.len() < 80 << 10, "{}", bytes.len());
    let read = SeriesBaseline::decode(LEARNING, &bytes).unwrap();
    assert_eq!(read.states().map(|read| read == state), [true; 5]);
    assert_eq!(read.last(), state.last);
    let refused = |bytes: &[u8]| SeriesBaseline::decode(LEARNING, bytes).unwrap_err();
    assert_eq!(refused(&[9]), StateError::Format(9));
    assert_eq!(refused(&[&bytes[..], &[0]].concat()), StateError::TrailingBytes(1));
    for cut in (0..bytes.len()).step_by(997) {
        assert_eq!(refused(&bytes[..cut]), StateError::Bytes(BytesError::Truncated), "{cut}");
    }
    // A damaged byte is refused, or gives another valid state.
    for at in (0..bytes.len()).step_by(131) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        let _ = SeriesBaseline::decode(LEARNING, &damaged);
    }
}

#[test]
fn alarms_of_most_series_are_about_the_host() {
    use DetectorStatus::{Alarm, Learning, Normal, NotEnoughData};
    assert_eq!(alarm_scope([]), AlarmScope::None);
    assert_eq!(alarm_scope([Normal, Learning]), AlarmScope::None);
    assert_eq!(alarm_scope([Alarm]), AlarmScope::Series);
    assert_eq!(alarm_scope([Alarm, Alarm]), AlarmScope::Series);
    assert_eq!(alarm_scope([Alarm, Alarm, Normal]), AlarmScope::Host);
    assert_eq!(alarm_scope([Alarm, Alarm, Normal, Normal]), AlarmScope::Series);
    assert_eq!(alarm_scope([Alarm, Alarm, Normal, NotEnoughData, Learning]), AlarmScope::Host);
}

/// Values of a series, some missing, and how far apart its roll-ups are.
fn any_series() -> impl Strategy<Value = Vec<(u64, Option<f64>)>> {
    let value = prop_oneof![
        8 => (-3.0..3.0f64).prop_map(Some),
        1 => prop::sample::select(vec![-1e30, -1e6, 0.0, 1e6, f64::NAN]).prop_map(Some),
        1 => Just(None),
    ];
    let gap = prop_oneof![20 => Just(1u64), 1 => 2u64..5_000];
    prop::collection::vec((gap, value), 500..1_500)
}

fn replay(series: &[(u64, Option<f64>)], shift: f64) -> (Watched, Vec<(u64, bool)>) {
    let mut watched = Watched::new(Measure::P50, 1);
    watched.detector = Detector::new(Measure::P50, 2);
    let mut events = Vec::new();
    for (gap, value) in series {
        watched.at += gap - 1;
        let event = watched.feed(value.map(|value| value + shift));
        events.extend(event.map(|e| (watched.at, matches!(e, DetectorEvent::Started(_)))));
    }
    (watched, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_is_bounded_and_every_state_is_valid(series in any_series()) {
        let (watched, events) = replay(&series, 0.0);
        let state = watched.detector.state();
        prop_assert!(state.profile.blocks.len() <= 144 && state.profile.hours.len() <= 168);
        prop_assert!(state.history.len() <= 8_640 && state.history.capacity() <= 8_640);
        prop_assert!(state.open.values.len() <= BLOCK as usize);
        prop_assert!(state.open.standardised.len() <= BLOCK as usize && state.recent.len() <= 6);
        prop_assert!(Detector::restore(Measure::P50, 2, state.clone()).is_some());
        // Alarms start and end in turn.
        prop_assert!(events.iter().enumerate().all(|(at, (_, starts))| *starts == (at % 2 == 0)));
    }

    #[test]
    fn the_unit_of_a_latency_does_not_matter(seed in any::<u64>(), shift in -8.0..8.0f64) {
        let mut draws = Draws::new(seed);
        let level = |at: usize| if at > 1_200 { 0.5 } else { 0.0 };
        // Multiples of 1/1,024 near 8 are exact as 32 bit floats, whatever the shift.
        let round = |value: f64| (value * 1_024.0).round() / 1_024.0;
        let noise = (0..1_300).map(|at| (1, Some(round(level(at) + 0.1 * draws.normal()))));
        let series: Vec<_> = noise.collect();
        let (_, events) = replay(&series, 0.0);
        prop_assert_eq!(&events, &replay(&series, round(shift)).1);
        prop_assert_eq!(events.len(), 1);
    }
}
