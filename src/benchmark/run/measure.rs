//! The measurements of one target, and the figures that follow from them.
//!
//! Every latency is kept (four bytes each, one million at most), so that the percentiles at the end
//! are exact. Figures of a run that goes on are taken from a sample of its latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::load::Spans;
use crate::benchmark::report::{
    Arm, HistogramBin, Quantiles, RunCost, RunFigures, TimelinePoint, TokenTotals,
};
use crate::proxy::detached::CallResult;
use crate::resilience::comparison::RunBlock;

/// Latencies of which the figures of a run that goes on are computed.
const SAMPLE: usize = 10_000;
/// The width of a bin of the histogram.
const BIN: f64 = 1.008;

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub result: CallResult,
    /// From its intended start to the end of the response.
    pub latency: Duration,
    /// The part of the latency before it was made.
    pub late: Duration,
    /// How late this machine made it, timers included.
    pub lateness: Duration,
}

/// The calls of one target that count.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    pub blocks: Vec<RunBlock>,
    /// When each block began, in seconds from the end of the warm-up.
    starts: Vec<f64>,
    outcomes: BTreeMap<&'static str, u64>,
    first_byte: Vec<f32>,
    first_content: Vec<f32>,
    token_gap: Vec<f32>,
    tokens_per_second: Vec<f32>,
    lateness: Vec<f32>,
    tokens: Option<TokenTotals>,
    cost: Option<f64>,
}

impl Measurements {
    /// Measurements in blocks of equal length, each so long after the one before.
    pub fn new(spans: &Spans, first: Duration, distance: Duration) -> Measurements {
        let seconds = spans.block_length().as_secs_f64();
        let start = |block: usize| first.as_secs_f64() + block as f64 * distance.as_secs_f64();
        let block = RunBlock { seconds, ..RunBlock::default() };
        Measurements {
            blocks: vec![block; spans.blocks],
            starts: (0..spans.blocks).map(start).collect(),
            ..Measurements::default()
        }
    }

    pub fn record(&mut self, block: usize, call: &Measured) {
        let Measured { result, latency, late, lateness } = call;
        let Some(block) = self.blocks.get_mut(block) else { return };
        *self.outcomes.entry(result.outcome).or_default() += 1;
        self.lateness.push(lateness.as_secs_f32());
        if let Some((input, output)) = result.tokens {
            let tokens = self.tokens.get_or_insert_default();
            tokens.input += input;
            tokens.output += output;
        }
        if let Some(cost) = result.cost {
            *self.cost.get_or_insert_default() += cost;
        }
        if !result.succeeded {
            block.failed += 1;
            return;
        }
        block.latencies.push(latency.as_secs_f32());
        // The time before the call was made is part of each time.
        self.first_byte.push((result.first_byte + *late).as_secs_f32());
        let Some(stream) = result.stream else { return };
        self.first_content.push((stream.first_content + *late).as_secs_f32());
        let rest = stream.rest.as_secs_f32();
        let tokens = stream.output_tokens.filter(|tokens| *tokens > 0 && rest > 0.0);
        self.tokens_per_second.extend(tokens.map(|tokens| tokens as f32 / rest));
        let gaps = tokens.or_else(|| stream.content_events.checked_sub(1)).filter(|gaps| *gaps > 0);
        self.token_gap.extend(gaps.map(|gaps| rest / gaps as f32));
    }

    pub fn failed(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.failed)).sum()
    }

    pub fn calls(&self) -> u64 {
        self.failed() + self.blocks.iter().map(|block| block.latencies.len() as u64).sum::<u64>()
    }

    /// The figures after this many seconds that count; `is_final`: of all calls, not of a sample.
    pub fn figures(&self, seconds: f64, currency: Option<&str>, is_final: bool) -> RunFigures {
        let most = if is_final { usize::MAX } else { SAMPLE };
        let quantiles = |values: &[f32]| quantiles_of(sample(values.iter(), values.len(), most));
        let (calls, failed) = (self.calls(), self.failed());
        let good = (calls - failed) as usize;
        let latencies = self.blocks.iter().flat_map(|block| &block.latencies);
        let per_second = (calls - failed) as f64 / seconds;
        let cost = self.cost.zip(currency);
        RunFigures {
            calls,
            failed,
            outcomes: self.outcomes.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect(),
            error_rate: (calls > 0).then(|| failed as f64 / calls as f64),
            throughput: Some(per_second).filter(|rate| calls > 0 && rate.is_finite()),
            latency: quantiles_of(sample(latencies, good, most)),
            first_byte: quantiles(&self.first_byte),
            first_content: quantiles(&self.first_content),
            token_gap: quantiles(&self.token_gap),
            tokens_per_second: quantiles(&self.tokens_per_second).map(|rates| rates.p50),
            tokens: self.tokens,
            cost: cost.map(|(amount, code)| RunCost { amount, currency: code.to_owned() }),
            lateness: quantiles(&self.lateness).map(|late| late.p99),
        }
    }

    /// The arm of the report at the end of a run.
    pub fn arm(&self, target: &str, seconds: f64, currency: Option<&str>) -> Arm {
        Arm {
            target: target.to_owned(),
            figures: self.figures(seconds, currency, true),
            timeline: self.timeline(),
            histogram: self.histogram(),
        }
    }

    fn timeline(&self) -> Vec<TimelinePoint> {
        let points = self.blocks.iter().zip(&self.starts).map(|(block, at)| {
            let figures = quantiles_of(block.latencies.clone());
            TimelinePoint {
                at: *at,
                calls: block.latencies.len() as u64 + u64::from(block.failed),
                failed: u64::from(block.failed),
                p50: figures.map(|figures| figures.p50),
                p95: figures.map(|figures| figures.p95),
            }
        });
        points.collect()
    }

    fn histogram(&self) -> Vec<HistogramBin> {
        let mut bins: BTreeMap<i32, u64> = BTreeMap::new();
        for latency in self.blocks.iter().flat_map(|block| &block.latencies) {
            let latency = f64::from(*latency).max(1e-6);
            *bins.entry((latency.ln() / BIN.ln()).floor() as i32).or_default() += 1;
        }
        let bin = |(bin, calls): (i32, u64)| HistogramBin { below: BIN.powi(bin + 1), calls };
        bins.into_iter().map(bin).collect()
    }
}

/// At most `most` of these values, at equal distances.
fn sample<'v>(values: impl Iterator<Item = &'v f32>, count: usize, most: usize) -> Vec<f32> {
    values.step_by(count.div_ceil(most).max(1)).copied().collect()
}

/// The least value that a share of the values does not exceed.
fn quantiles_of(mut values: Vec<f32>) -> Option<Quantiles> {
    values.sort_unstable_by(f32::total_cmp);
    let max = f64::from(*values.last()?);
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        f64::from(values[rank.clamp(1, values.len()) - 1])
    };
    Some(Quantiles { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(millis: u64, succeeded: bool) -> Measured {
        let result = CallResult { succeeded, outcome: "success", ..CallResult::default() };
        Measured {
            result,
            latency: Duration::from_millis(millis),
            late: Duration::ZERO,
            lateness: Duration::ZERO,
        }
    }

    #[test]
    fn percentiles_are_those_of_successful_calls() {
        let spans = Spans { lead: Duration::ZERO, length: Duration::from_secs(20), blocks: 20 };
        let mut all = Measurements::new(&spans, Duration::ZERO, spans.block_length());
        (1..=100).for_each(|n| all.record(n as usize % 20, &call(n * 10, true)));
        all.record(0, &call(99_000, false));
        let figures = all.figures(20.0, None, true);
        let latency = figures.latency.unwrap();
        let millis = [latency.p50, latency.p95, latency.p99, latency.max].map(|s| (s * 1e3) as u64);
        assert_eq!(millis, [500, 949, 990, 1000]);
        assert_eq!((figures.calls, figures.failed, figures.throughput), (101, 1, Some(5.0)));
        let arm = all.arm("route a", 20.0, None);
        assert_eq!(arm.histogram.iter().map(|bin| bin.calls).sum::<u64>(), 100);
        assert!(arm.histogram.is_sorted_by(|a, b| a.below < b.below));
        assert_eq!((arm.timeline.len(), arm.timeline[3].at), (20, 3.0));
    }
}
