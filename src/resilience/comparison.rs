//! Compares two benchmark runs: better, worse, the same, or too few calls to tell.
//!
//! A run is a list of blocks: spans of time of equal length, some 10 s each. Calls of one block
//! depend on each other (a slow second slows all of its calls), so the error of a figure is found
//! by resampling whole blocks with replacement (block bootstrap: Künsch 1989; Efron and
//! Tibshirani, *An Introduction to the Bootstrap*, 1993). The interval of a difference is its
//! estimate plus and minus 2.58 bootstrap standard deviations, 99 %.
//!
//! A difference within a margin does not matter: 5 % for p50, p95 and throughput, 10 % for p99,
//! one percentage point for the error rate. The verdict needs the whole interval on one side
//! (equivalence testing: Schuirmann 1987): inside the margins the runs are the same, beyond one
//! of them `b` is better or worse. Otherwise more calls are needed, and their number follows from
//! the error, which shrinks with the square root of the calls.
//!
//! A paired comparison takes blocks that were measured alternately. Each pair of blocks is
//! divided by its common median latency, and pairs are resampled together, so a drift of the
//! machine or of the time of day cancels out. The order within the pairs should alternate.
//!
//! The work is bounded: 500 resamples of at most 500,000 latencies a run, about two seconds.

use crate::resilience::medians::{median, rank};
use crate::resilience::words::words;

const RESAMPLES: usize = 500;
const MOST_LATENCIES: usize = 500_000;
/// With fewer blocks the bootstrap underestimates the error.
const LEAST_BLOCKS: usize = 10;
/// Half the width of the interval of 99 %, in standard deviations.
const HALF_WIDTH: f64 = 2.576;
/// The share of the distance to the margin that the interval should have after more calls.
const SETTLED_SHARE: f64 = 0.6;
/// The least distance to the margin that more calls are to resolve, as a share of the margin.
const LEAST_DISTANCE: f64 = 0.2;
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

words! {
    /// A figure of a run.
    pub enum RunMeasure {
        P50 = "p50",
        P95 = "p95",
        P99 = "p99",
        Throughput = "throughput",
        ErrorRate = "error_rate",
    }

    /// The second run compared with the first.
    pub enum Verdict {
        Better = "better",
        Worse = "worse",
        Same = "same",
        Undecided = "cannot tell",
    }
}

const MEASURES: usize = RunMeasure::ALL.len();

/// Calls of a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunBlock {
    /// Of the successful calls, in seconds.
    pub latencies: Vec<f32>,
    pub failed: u32,
    pub seconds: f64,
}

/// The comparison of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Higher is worse: `ln(b / a)` of latencies, `ln(a / b)` of throughput, `b - a` of error
    /// rates. None if a run has no such figure.
    pub estimate: Option<f64>,
    /// Half the width of the interval of 99 %.
    pub error: f64,
    pub verdict: Verdict,
    /// Calls of each run that should settle it, beyond those measured.
    pub more_calls: u64,
}

/// The comparison of two runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// In the order of [`RunMeasure::ALL`].
    pub differences: [Difference; MEASURES],
    /// Worse if a figure is; better if one is and none may be worse; the same if all are.
    pub verdict: Verdict,
    pub more_calls: u64,
}

/// The latencies of a run in order, each with its block.
struct SortedRun<'a> {
    blocks: &'a [RunBlock],
    latencies: Vec<(f32, u32)>,
}

/// The figures of a run.
type Figures = [Option<f64>; MEASURES];

impl RunMeasure {
    /// The largest difference that does not matter.
    pub fn margin(self) -> f64 {
        match self {
            RunMeasure::P50 | RunMeasure::P95 | RunMeasure::Throughput => 1.05_f64.ln(),
            RunMeasure::P99 => 1.1_f64.ln(),
            RunMeasure::ErrorRate => 0.01,
        }
    }

    fn difference(self, a: f64, b: f64) -> f64 {
        match self {
            RunMeasure::P50 | RunMeasure::P95 | RunMeasure::P99 => (b / a).ln(),
            RunMeasure::Throughput => (a / b).ln(),
            RunMeasure::ErrorRate => b - a,
        }
    }
}

/// Compares two runs that were measured one after the other. `draw` is in [0, 1).
pub fn compare(a: &[RunBlock], b: &[RunBlock], mut draw: impl FnMut() -> f64) -> Comparison {
    let runs = [SortedRun::new(a, &[]), SortedRun::new(b, &[])];
    compare_runs(&runs, |weights| {
        weights.iter_mut().for_each(|weights| resample(weights, &mut draw));
    })
}

/// Compares runs whose blocks were measured alternately: block `i` of one with block `i` of the
/// other. Blocks without a partner are left out. `draw` is in [0, 1).
pub fn compare_paired(a: &[RunBlock], b: &[RunBlock], mut draw: impl FnMut() -> f64) -> Comparison {
    let count = a.len().min(b.len());
    let (a, b) = (&a[..count], &b[..count]);
    let common = |pair: (&RunBlock, &RunBlock)| {
        let mut all = [pair.0.latencies.as_slice(), &pair.1.latencies].concat();
        median(&mut all).filter(|middle| *middle > 0.0).unwrap_or(1.0)
    };
    let divisors: Vec<_> = a.iter().zip(b).map(common).collect();
    let runs = [SortedRun::new(a, &divisors), SortedRun::new(b, &divisors)];
    compare_runs(&runs, |weights| {
        let [first, second] = weights;
        resample(first, &mut draw);
        second.copy_from_slice(first);
    })
}

/// Draws as many blocks as there are, with replacement.
fn resample(weights: &mut [u32], draw: &mut impl FnMut() -> f64) {
    weights.fill(0);
    for _ in 0..weights.len() {
        let block = (draw() * weights.len() as f64) as usize;
        weights[block.min(weights.len() - 1)] += 1;
    }
}

fn compare_runs(
    runs: &[SortedRun<'_>; 2],
    mut resample: impl FnMut(&mut [Vec<u32>; 2]),
) -> Comparison {
    let mut weights = [0, 1].map(|run: usize| vec![1; runs[run].blocks.len()]);
    let estimates = differences(runs, &weights);
    let mut spreads = [Spread::default(); MEASURES];
    for _ in 0..RESAMPLES {
        resample(&mut weights);
        let resampled = differences(runs, &weights);
        spreads.iter_mut().zip(resampled).for_each(|(spread, found)| spread.add(found));
    }
    let calls = runs[0].calls().min(runs[1].calls());
    let blocks = runs[0].blocks.len().min(runs[1].blocks.len());
    let differences = RunMeasure::ALL.map(|measure| {
        let (estimate, spread) = (estimates[measure as usize], spreads[measure as usize]);
        judge(measure, estimate, HALF_WIDTH * spread.deviation(), calls, blocks)
    });
    let has = |verdict| differences.iter().any(|difference| difference.verdict == verdict);
    let may_be_worse = RunMeasure::ALL.into_iter().zip(&differences).any(|(measure, found)| {
        found.estimate.is_none_or(|estimate| estimate + found.error > measure.margin())
    });
    let verdict = match () {
        () if has(Verdict::Worse) => Verdict::Worse,
        () if has(Verdict::Better) && !may_be_worse => Verdict::Better,
        () if has(Verdict::Better) || has(Verdict::Undecided) => Verdict::Undecided,
        () => Verdict::Same,
    };
    let more_calls = differences.iter().map(|d| d.more_calls).max().unwrap_or_default();
    let more_calls = if verdict == Verdict::Undecided { more_calls } else { 0 };
    Comparison { differences, verdict, more_calls }
}

/// The verdict on one figure.
fn judge(
    measure: RunMeasure,
    estimate: Option<f64>,
    error: f64,
    calls: u64,
    blocks: usize,
) -> Difference {
    let margin = measure.margin();
    let doubled = calls.max(100);
    let Some(found) = estimate.filter(|_| blocks >= LEAST_BLOCKS && error.is_finite()) else {
        return Difference { estimate, error, verdict: Verdict::Undecided, more_calls: doubled };
    };
    let verdict = match found.abs() {
        size if size + error < margin => Verdict::Same,
        size if size - error <= margin => Verdict::Undecided,
        _ if found > 0.0 => Verdict::Worse,
        _ => Verdict::Better,
    };
    let distance = (found.abs() - margin).abs().max(LEAST_DISTANCE * margin);
    let factor = (error / (SETTLED_SHARE * distance)).powi(2).clamp(1.1, 10.0);
    let more = ((factor - 1.0) * calls as f64) as u64;
    let more_calls = if verdict == Verdict::Undecided { more.max(1) } else { 0 };
    Difference { estimate, error, verdict, more_calls }
}

/// The differences of the figures that both runs have.
fn differences(runs: &[SortedRun<'_>; 2], weights: &[Vec<u32>; 2]) -> Figures {
    let [a, b] = [0, 1].map(|run: usize| runs[run].figures(&weights[run]));
    RunMeasure::ALL.map(|measure| {
        let difference = measure.difference(a[measure as usize]?, b[measure as usize]?);
        Some(difference).filter(|difference| difference.is_finite())
    })
}

impl<'a> SortedRun<'a> {
    /// Divides the latencies of each block by its divisor, if it has one.
    fn new(blocks: &'a [RunBlock], divisors: &[f32]) -> Self {
        let count: usize = blocks.iter().map(|block| block.latencies.len()).sum();
        let each = blocks.iter().enumerate().flat_map(|(at, block)| {
            let divisor = divisors.get(at).copied().unwrap_or(1.0);
            block.latencies.iter().map(move |latency| (latency / divisor, at as u32))
        });
        let finite = each.step_by(count.div_ceil(MOST_LATENCIES).max(1));
        let mut latencies: Vec<_> = finite.filter(|(latency, _)| latency.is_finite()).collect();
        latencies.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        Self { blocks, latencies }
    }

    fn calls(&self) -> u64 {
        self.blocks.iter().map(|b| b.latencies.len() as u64 + u64::from(b.failed)).sum()
    }

    /// The figures, with each block counted as often as its weight says.
    fn figures(&self, weights: &[u32]) -> Figures {
        let (mut succeeded, mut failed, mut seconds) = (0.0, 0.0, 0.0);
        for (block, weight) in self.blocks.iter().zip(weights) {
            let weight = f64::from(*weight);
            succeeded += weight * block.latencies.len() as f64;
            failed += weight * f64::from(block.failed);
            seconds += weight * block.seconds;
        }
        let [p50, p95, p99] = self.quantiles(weights);
        let throughput = Some(succeeded / seconds).filter(|_| seconds > 0.0 && succeeded > 0.0);
        let calls = succeeded + failed;
        [p50, p95, p99, throughput, Some(failed / calls).filter(|_| calls > 0.0)]
    }

    fn quantiles(&self, weights: &[u32]) -> [Option<f64>; 3] {
        let weight = |latency: &(f32, u32)| weights[latency.1 as usize] as usize;
        let total: usize = self.latencies.iter().map(weight).sum();
        let (mut found, mut passed, mut next) = ([None; 3], 0, 0);
        for latency in &self.latencies {
            passed += weight(latency);
            while next < QUANTILES.len() && passed > rank(QUANTILES[next], total) {
                found[next] = Some(f64::from(latency.0)).filter(|latency| *latency > 0.0);
                next += 1;
            }
            if next == QUANTILES.len() {
                break;
            }
        }
        found
    }
}

/// Mean and variance of differences (Welford 1962).
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, difference: Option<f64>) {
        let Some(difference) = difference else { return };
        self.count += 1.0;
        let before = difference - self.mean;
        self.mean += before / self.count;
        self.squares += before * (difference - self.mean);
    }

    /// Infinite if too few resamples had the figure.
    fn deviation(&self) -> f64 {
        let is_known = self.count >= RESAMPLES as f64 / 2.0;
        if is_known { (self.squares / (self.count - 1.0)).sqrt() } else { f64::INFINITY }
    }
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
