//! The threshold of a CUSUM, from the history of its own series.
//!
//! The CUSUM (Page, "Continuous inspection schemes", Biometrika 1954) adds up standardised
//! readings above an allowance and returns to 0 in between:
//! `S = max(0, S + w - ALLOWANCE)`. Its textbook run lengths (Hawkins and Olwell, *Cumulative
//! Sum Charts*, 1998) assume independent normal readings, and fail by orders of magnitude where
//! readings have heavy tails or depend on each other. So the threshold is taken from the readings
//! of the last day:
//!
//! 1. The lag-1 autocorrelation of the readings is removed (pre-whitening).
//! 2. The CUSUM runs over the history, and over resamples of it in blocks of 20 minutes (block
//!    bootstrap: Künsch, Annals of Statistics 1989), which keep the dependence that is left.
//! 3. Each excursion from 0 back to 0 is one independent cycle. Readings are clipped, so the
//!    maxima of the cycles have an exponential tail (Cramér-Lundberg; Asmussen, *Applied
//!    Probability and Queues*, 2003). The tail is fitted to the largest maxima (peaks over a
//!    threshold) and extended to the rate that is allowed, with one standard error of the fit
//!    as a margin. Two fits are made, the larger threshold counts.
//!
//! The work is bounded: 6 passes over at most 8,640 readings, and one sort of their maxima.

/// Readings are clipped to this number of standard deviations.
pub(crate) const CLIP: f64 = 4.0;
/// Standard deviations that each reading may be worse without adding to the sum: half of the
/// smallest shift that the detector is tuned for.
pub(crate) const ALLOWANCE: f64 = 1.0;
/// Steps of a stored reading in each standard deviation.
const STEPS: f64 = 31.0;
/// A roll-up without a reading.
pub(crate) const MISSING: i8 = i8::MIN;
/// One for each 100 series and week, shared by the five measures of a series.
const ROLL_UPS_PER_FALSE_ALARM: f64 = 100.0 * 7.0 * 8_640.0 * 5.0;
const RESAMPLES: usize = 5;
/// Roll-ups of a resampled block: 20 minutes.
const RESAMPLED_BLOCK: usize = 120;
/// Cycles in the tail, for each day of history.
const TAILS: [f64; 3] = [4.0, 16.0, 64.0];
const MOST_CORRELATION: f64 = 0.7;
const THRESHOLDS: std::ops::RangeInclusive<f64> = 4.0..=500.0;

/// The parameters of a detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Lag-1 autocorrelation, in [0, 0.7].
    pub correlation: f64,
    pub threshold: f64,
}

/// The CUSUM of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cusum {
    pub sum: f64,
    /// The last standardised reading, if the roll-up before had one.
    pub previous: Option<f64>,
}

impl Cusum {
    /// Adds a standardised reading.
    pub fn add(&mut self, reading: f64, correlation: f64) {
        let white = match self.previous {
            Some(previous) => {
                (reading - correlation * previous) / (1.0 - correlation * correlation).sqrt()
            }
            None => reading,
        };
        self.previous = Some(reading);
        self.sum = (self.sum + white.clamp(-CLIP, CLIP) - ALLOWANCE).max(0.0);
    }
}

/// A standardised reading in one byte.
pub(crate) fn pack(reading: f64) -> i8 {
    (reading.clamp(-CLIP, CLIP) * STEPS).round() as i8
}

fn unpack(packed: i8) -> Option<f64> {
    (packed != MISSING).then(|| f64::from(packed) / STEPS)
}

/// Calibrates a detector by its history; none if that has no reading. `draw` is in [0, 1).
pub(crate) fn calibrate(history: &[i8], mut draw: impl FnMut() -> f64) -> Option<Calibration> {
    let readings = history.iter().filter(|packed| **packed != MISSING).count();
    if readings == 0 {
        return None;
    }
    let correlation = correlation(history);
    let mut maxima = Vec::new();
    add_maxima(history, correlation, &mut maxima);
    let mut resample = Vec::with_capacity(history.len() + RESAMPLED_BLOCK);
    for _ in 0..RESAMPLES {
        resample.clear();
        while resample.len() < history.len() {
            let start = (draw() * history.len() as f64) as usize;
            let end = (start + RESAMPLED_BLOCK).min(history.len());
            resample.extend_from_slice(&history[start.min(end)..end]);
            resample.push(MISSING);
        }
        add_maxima(&resample, correlation, &mut maxima);
    }
    maxima.sort_unstable_by(|a, b| b.total_cmp(a));
    let fits = TAILS.map(|per_day| tail_threshold(&maxima, per_day, readings));
    let threshold = fits.into_iter().fold(*THRESHOLDS.start(), f64::max);
    Some(Calibration { correlation, threshold: threshold.min(*THRESHOLDS.end()) })
}

/// The threshold by the exponential tail of the largest maxima, which are sorted from the largest.
fn tail_threshold(maxima: &[f32], per_day: f64, readings: usize) -> f64 {
    let passes = RESAMPLES + 1;
    let cycles = (per_day * readings as f64 / 8_640.0).ceil().max(per_day / 2.0);
    let count = (cycles as usize * passes).min(maxima.len() / 2);
    if count == 0 {
        return 0.0;
    }
    let start = f64::from(maxima[count]);
    let excess = maxima[..count].iter().map(|m| f64::from(*m) - start).sum::<f64>() / count as f64;
    // The resamples hold no more cycles than the history does.
    let margin = if per_day > 4.0 { 1.0 + (passes as f64 / count as f64).sqrt() } else { 1.0 };
    let rate = count as f64 / (passes * readings) as f64;
    start + excess * margin * (rate * ROLL_UPS_PER_FALSE_ALARM).ln().max(0.0)
}

/// Adds the maximum of each excursion of the CUSUM.
fn add_maxima(history: &[i8], correlation: f64, maxima: &mut Vec<f32>) {
    let (mut cusum, mut highest) = (Cusum::default(), 0.0_f64);
    for reading in history.iter().map(|packed| unpack(*packed)) {
        let Some(reading) = reading else {
            cusum.previous = None;
            continue;
        };
        cusum.add(reading, correlation);
        if cusum.sum > 0.0 {
            highest = highest.max(cusum.sum);
        } else if highest > 0.0 {
            maxima.push(highest as f32);
            highest = 0.0;
        }
    }
    if highest > 0.0 {
        maxima.push(highest as f32);
    }
}

/// The lag-1 autocorrelation of consecutive readings.
fn correlation(history: &[i8]) -> f64 {
    let (sum, count) = history
        .iter()
        .filter_map(|packed| unpack(*packed))
        .fold((0.0, 0.0), |(sum, count), reading| (sum + reading, count + 1.0));
    let mean = sum / f64::max(count, 1.0);
    let (mut products, mut squares) = (0.0, 0.0);
    for pair in history.windows(2) {
        if let (Some(first), Some(second)) = (unpack(pair[0]), unpack(pair[1])) {
            products += (first - mean) * (second - mean);
            squares += ((first - mean).powi(2) + (second - mean).powi(2)) / 2.0;
        }
    }
    if squares > 0.0 { (products / squares).clamp(0.0, MOST_CORRELATION) } else { 0.0 }
}

/// The roll-ups that a lasting shift by `deviations` takes to pass the threshold; none if it
/// never does.
pub(crate) fn roll_ups_to_pass(calibration: &Calibration, deviations: f64) -> Option<u32> {
    let Calibration { correlation, threshold } = *calibration;
    let shift = deviations.clamp(0.0, CLIP);
    let first = (shift / (1.0 - correlation * correlation).sqrt()).min(CLIP) - ALLOWANCE;
    let later = shift * ((1.0 - correlation) / (1.0 + correlation)).sqrt() - ALLOWANCE;
    if first > threshold {
        return Some(1);
    }
    // The sum has to exceed the threshold.
    (later > 0.0).then(|| 2 + ((threshold - first.max(0.0)) / later) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_history_has_no_threshold() {
        assert_eq!(calibrate(&[], || 0.5), None);
        assert_eq!(calibrate(&[MISSING; 100], || 0.5), None);
    }

    #[test]
    fn a_quiet_history_has_the_least_threshold() {
        let calibration = calibrate(&[0; 8_640], || 0.5).unwrap();
        assert_eq!(calibration, Calibration { correlation: 0.0, threshold: *THRESHOLDS.start() });
    }
}
