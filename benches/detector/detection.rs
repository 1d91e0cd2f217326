//! The detector: false alarms in series without a change, and delays in series with one.

use std::f64::consts::TAU;
use std::time::Instant;

use outrigger::resilience::baseline::LEARNING_BLOCKS;
use outrigger::resilience::baseline::detector::{Detector, DetectorEvent, DetectorStatus};
use outrigger::resilience::baseline::measure::{Measure, Reading, RollUp};

use crate::Targets;
use crate::noise::Noise;

const DAY: u64 = 8_640;
/// A Monday at midnight, UTC.
const START: u64 = 1_735_516_800 / 10;
const SERIES: u64 = 28 * DAY;
const LEARNED: u64 = 9 * DAY;
/// One false alarm for each 100 series and week.
const ROLL_UPS_PER_FALSE_ALARM: f64 = 100.0 * 7.0 * DAY as f64;
/// Standard deviation of log p95 from 200 calls of log-normal latency with sigma 0.5.
const NOISE: f64 = 0.075;
const RUNS: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Normal,
    HeavyTails,
    Correlated,
    CorrelatedHeavyTails,
    DailyCycle,
    WeeklyCycle,
    Bursts,
    Gaps,
    Errors,
    FewErrors,
}

const KINDS: [(Kind, &str); 10] = [
    (Kind::Normal, "normal"),
    (Kind::HeavyTails, "t4"),
    (Kind::Correlated, "autocorrelated 0.6"),
    (Kind::CorrelatedHeavyTails, "t4, autocorrelated 0.6"),
    (Kind::DailyCycle, "daily cycle of 25 %"),
    (Kind::WeeklyCycle, "daily 25 %, weekend 10 %"),
    (Kind::Bursts, "bursts of 50 %"),
    (Kind::Gaps, "gaps, few calls"),
    (Kind::Errors, "1 % errors of 200 calls"),
    (Kind::FewErrors, "1 % errors of 30 calls"),
];

impl Kind {
    fn measure(self) -> Measure {
        match self {
            Kind::Errors | Kind::FewErrors => Measure::ErrorRate,
            _ => Measure::P95,
        }
    }

    fn reading(self, noise: &mut Noise, number: u64) -> Option<Reading> {
        let cycle = 0.25 * (TAU * (number % DAY) as f64 / DAY as f64).sin();
        let log = |value: f64| Some(Reading { value: -0.3 + value, calls: 200 });
        match self {
            Kind::Normal => log(NOISE * noise.normal()),
            Kind::HeavyTails => log(NOISE * noise.t4()),
            Kind::Correlated => {
                let innovation = noise.normal();
                log(NOISE * noise.correlated(innovation))
            }
            Kind::CorrelatedHeavyTails => {
                let innovation = noise.t4();
                log(NOISE * noise.correlated(innovation))
            }
            Kind::DailyCycle => log(cycle + NOISE * noise.normal()),
            Kind::WeeklyCycle => {
                let is_weekend = (number - START) / DAY % 7 >= 5;
                log(cycle + if is_weekend { 0.095 } else { 0.0 } + NOISE * noise.normal())
            }
            Kind::Bursts => {
                // One in 4 hours, of 30 s on average.
                let starts = noise.burst == 0 && noise.uniform() < 1.0 / 1_440.0;
                noise.burst = match noise.burst {
                    0 if starts => 1 + (noise.uniform().ln() / (2.0_f64 / 3.0).ln()) as u32,
                    burst => burst.saturating_sub(1),
                };
                let burst = if noise.burst > 0 { 1.5_f64.ln() } else { 0.0 };
                log(burst + NOISE * noise.normal())
            }
            Kind::Gaps => {
                // Silent for 7 hours a day, and for a third of the rest.
                let is_night = number % DAY > 17 * 360;
                let is_silent = is_night || noise.uniform() < 0.33;
                log(NOISE * 2.0 * noise.normal()).filter(|_| !is_silent)
            }
            Kind::Errors | Kind::FewErrors => {
                let calls = if self == Kind::Errors { 200 } else { 30 };
                let failed = noise.failures(calls, 0.01);
                Measure::ErrorRate.reading(&RollUp { calls, failed, ..RollUp::default() })
            }
        }
    }
}

fn observe(
    detector: &mut Detector,
    noise: &mut Noise,
    number: u64,
    reading: Option<Reading>,
) -> Option<DetectorEvent> {
    let event = detector.observe(number, reading);
    if detector.is_calibration_due() {
        detector.calibrate(|| noise.uniform());
    }
    event
}

/// False alarms and the last threshold of one series.
fn false_alarms(kind: Kind, seed: u64) -> (u64, f64) {
    let mut noise = Noise::new(seed);
    let mut detector = Detector::new(kind.measure(), LEARNING_BLOCKS);
    let mut alarms = 0;
    for number in START..START + SERIES {
        let reading = kind.reading(&mut noise, number);
        if let Some(DetectorEvent::Started(found)) =
            observe(&mut detector, &mut noise, number, reading)
        {
            alarms += 1;
            let day = (number - START) as f64 / DAY as f64;
            eprintln!("\n{kind:?}: false alarm on day {day:.2}: {found:?}");
        }
    }
    (alarms, detector.state().calibration.map_or(f64::NAN, |found| found.threshold))
}

/// Series without a change: whether there are no more alarms than the rate predicts.
pub fn without_change(roll_ups: u64, targets: &mut Targets) {
    let series = roll_ups.div_ceil(SERIES).max(KINDS.len() as u64);
    let (mut alarms, started) = (vec![0; KINDS.len()], Instant::now());
    let mut counts = vec![0; KINDS.len()];
    let mut thresholds = vec![0.0; KINDS.len()];
    for seed in 0..series {
        let kind = seed as usize % KINDS.len();
        let (found, threshold) = false_alarms(KINDS[kind].0, seed + 10_001);
        alarms[kind] += found;
        counts[kind] += 1;
        thresholds[kind] = threshold;
        eprint!("\rA/A: {} of {series} series, {:.0?}   ", seed + 1, started.elapsed());
    }
    eprintln!();
    println!(
        "{:<28}{:>12}{:>14}{:>12}",
        "series without a change", "roll-ups", "false alarms", "threshold"
    );
    for (kind, (_, name)) in KINDS.iter().enumerate() {
        let (roll_ups, threshold) = (counts[kind] * SERIES, thresholds[kind]);
        println!("{name:<28}{roll_ups:>12}{:>14}{threshold:>12.1}", alarms[kind]);
    }
    println!();
    let (total, found) = (series * SERIES, alarms.iter().sum::<u64>());
    let predicted = total as f64 / ROLL_UPS_PER_FALSE_ALARM;
    // A short run predicts less than one alarm.
    let bar = predicted.max(1.0);
    let name = format!("false alarms in {total} roll-ups");
    targets.add(&name, format!("<= {predicted:.1}"), found.to_string(), found as f64 <= bar);
    let cost = started.elapsed().as_nanos() as f64 / total as f64;
    println!("{cost:.0} ns for each roll-up, calibration and noise included\n");
}

/// A change of the figures of sampled calls.
struct Change {
    name: &'static str,
    measure: Measure,
    /// The reading before (0) and after (1) the change.
    sample: fn(&mut Noise, u64, bool) -> RollUp,
    calls: u32,
    median: u64,
    most: u64,
}

fn latencies(noise: &mut Noise, changed: bool, calls: u32, scale: f64) -> RollUp {
    let slower = if changed { 1.3 } else { 1.0 };
    let p95 = Some(scale * slower * noise.quantile(calls, 0.5, 0.95));
    RollUp { calls, timed: calls, p95, ..RollUp::default() }
}

const CHANGES: [Change; 6] = [
    Change {
        name: "p95 +30 %, 20 calls/s",
        measure: Measure::P95,
        sample: |noise, _, changed| latencies(noise, changed, 200, 0.8),
        calls: 200,
        median: 60,
        most: 120,
    },
    Change {
        name: "the same, on a daily cycle",
        measure: Measure::P95,
        sample: |noise, number, changed| {
            let cycle = 0.25 * (TAU * (number % DAY) as f64 / DAY as f64).sin();
            latencies(noise, changed, 200, 0.8 * cycle.exp())
        },
        calls: 200,
        median: 60,
        most: 120,
    },
    Change {
        name: "first content +2 s, 3 streams/s",
        measure: Measure::FirstContent,
        sample: |noise, _, changed| {
            let first = 0.9 * noise.quantile(30, 0.6, 0.5) + if changed { 2.0 } else { 0.0 };
            RollUp { streamed: 30, first_content: Some(first), ..RollUp::default() }
        },
        calls: 30,
        median: 120,
        most: 120,
    },
    Change {
        name: "tokens/s -30 %, 3 streams/s",
        measure: Measure::TokensPerSecond,
        sample: |noise, _, changed| {
            let speed = 50.0 * if changed { 0.7 } else { 1.0 };
            let speed = Some(speed * noise.quantile(30, 0.4, 0.5));
            RollUp { streamed: 30, tokens_per_second: speed, ..RollUp::default() }
        },
        calls: 30,
        median: 120,
        most: 120,
    },
    Change {
        name: "errors 1 % -> 5 %, 20 calls/s",
        measure: Measure::ErrorRate,
        sample: |noise, _, changed| {
            let failed = noise.failures(200, if changed { 0.05 } else { 0.01 });
            RollUp { calls: 200, failed, ..RollUp::default() }
        },
        calls: 200,
        median: 120,
        most: 120,
    },
    Change {
        name: "errors 1 % -> 5 %, 5 calls/s",
        measure: Measure::ErrorRate,
        sample: |noise, _, changed| {
            let failed = noise.failures(50, if changed { 0.05 } else { 0.01 });
            RollUp { calls: 50, failed, ..RollUp::default() }
        },
        calls: 50,
        median: 300,
        most: 600,
    },
];

/// Feeds roll-ups until an event that `ends`; the seconds until it, at most `most` of them.
fn seconds_until(
    change: &Change,
    detector: &mut Detector,
    noise: &mut Noise,
    at: &mut u64,
    changed: bool,
    most: u64,
) -> Option<u64> {
    for step in 1..=most / 10 {
        *at += 1;
        let roll_up = (change.sample)(noise, *at, changed);
        let event = observe(detector, noise, *at, change.measure.reading(&roll_up));
        let is_end = matches!(event, Some(DetectorEvent::Ended(_)));
        if event.is_some() && is_end != changed {
            return Some(step * 10);
        }
    }
    None
}

/// Trains detectors, then measures each change on copies of them.
fn with_change(change: &Change, targets: &mut Targets, trainings: usize) {
    let (mut delays, mut recoveries, mut expected) = (Vec::new(), Vec::new(), None);
    for training in 0..trainings {
        let mut noise = Noise::new(training as u64 + 1_000);
        let mut detector = Detector::new(change.measure, LEARNING_BLOCKS);
        let mut at = START;
        seconds_until(change, &mut detector, &mut noise, &mut at, false, LEARNED * 10);
        let is_rate = change.measure == Measure::ErrorRate;
        let size = if is_rate { 0.04 } else { 1.3_f64.ln() };
        expected = detector.roll_ups_to_detect(size, change.calls);
        for run in 0..RUNS / trainings {
            let (mut copy, mut at) = (detector.clone(), at);
            let calm = 600 + run as u64 * 8_000;
            seconds_until(change, &mut copy, &mut noise, &mut at, false, calm);
            delays.push(seconds_until(change, &mut copy, &mut noise, &mut at, true, 7_200));
            recoveries.push(seconds_until(change, &mut copy, &mut noise, &mut at, false, 7_200));
        }
        eprint!("\r{}: {} of {trainings} detectors   ", change.name, training + 1);
    }
    eprintln!();
    let never = |times: &[Option<u64>]| -> Vec<u64> {
        let mut times: Vec<_> = times.iter().map(|time| time.unwrap_or(u64::MAX)).collect();
        times.sort_unstable();
        times
    };
    let (delays, recoveries) = (never(&delays), never(&recoveries));
    let (middle, last) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    let target = format!("median {} s, most {} s", change.median, change.most);
    let is_met = middle <= change.median && last <= change.most;
    targets.add(change.name, target, format!("median {middle} s, most {last} s"), is_met);
    // Noise confirms the change once more in about one of a hundred recoveries.
    let (most, slowest) = (recoveries[RUNS * 98 / 100 - 1], recoveries[recoveries.len() - 1]);
    let seen = format!("98 % {most} s, most {slowest} s");
    targets.add("  its end", "98 % within 180 s".to_owned(), seen, most <= 180);
    let expected = expected.map_or("never".to_owned(), |roll_ups| format!("{} s", roll_ups * 10));
    println!(
        "{:<36}a change by 30 % (error rate: 4 points) is expected to take {expected}",
        change.name
    );
}

/// A regression of two days is still an alarm, and ends when it is over.
pub fn two_days(targets: &mut Targets) {
    let change = &CHANGES[1];
    let (mut noise, mut at) = (Noise::new(77), START);
    let mut detector = Detector::new(change.measure, LEARNING_BLOCKS);
    seconds_until(change, &mut detector, &mut noise, &mut at, false, LEARNED * 10);
    seconds_until(change, &mut detector, &mut noise, &mut at, true, 7_200);
    let ended = seconds_until(change, &mut detector, &mut noise, &mut at, true, 20 * DAY);
    let still = ended.is_none() && detector.status(at) == DetectorStatus::Alarm;
    let seen = if still { "alarm" } else { "no alarm" };
    targets.add("p95 +30 % for two days", "alarm".to_owned(), seen.to_owned(), still);
    let end = seconds_until(change, &mut detector, &mut noise, &mut at, false, 7_200);
    let seen = end.map_or("never".to_owned(), |end| format!("{end} s"));
    targets.add("  its end", "most 180 s".to_owned(), seen, end.is_some_and(|end| end <= 180));
}

pub fn with_changes(targets: &mut Targets, trainings: usize) {
    CHANGES.iter().for_each(|change| with_change(change, targets, trainings));
    println!();
}
