//! A figure over the stored runs of a benchmark, and the runs since which it changed.

use crate::benchmark::report::{BenchmarkTrend, RunReport, TrendChange, TrendPoint};
use crate::clock;
use crate::resilience::change_points::change_points;
use crate::resilience::comparison::RunMeasure;
use crate::resilience::medians::median;
use crate::resilience::words::words;

words! {
    /// A figure of the first arm of a run.
    pub enum TrendMeasure {
        P50 = "p50",
        P90 = "p90",
        P95 = "p95",
        P99 = "p99",
        FirstByte = "first_byte",
        FirstContent = "first_content",
        TokensPerSecond = "tokens_per_second",
        Throughput = "throughput",
        ErrorRate = "error_rate",
        Cost = "cost",
    }
}

impl TrendMeasure {
    fn value(self, run: &RunReport) -> Option<f64> {
        let figures = &run.arms.first()?.figures;
        let latency = figures.latency.as_ref();
        match self {
            TrendMeasure::P50 => latency.map(|latency| latency.p50),
            TrendMeasure::P90 => latency.map(|latency| latency.p90),
            TrendMeasure::P95 => latency.map(|latency| latency.p95),
            TrendMeasure::P99 => latency.map(|latency| latency.p99),
            TrendMeasure::FirstByte => figures.first_byte.as_ref().map(|first| first.p50),
            TrendMeasure::FirstContent => figures.first_content.as_ref().map(|first| first.p50),
            TrendMeasure::TokensPerSecond => figures.tokens_per_second,
            TrendMeasure::Throughput => figures.throughput,
            TrendMeasure::ErrorRate => figures.error_rate,
            TrendMeasure::Cost => figures.cost.as_ref().map(|cost| cost.amount),
        }
    }

    /// Whether the change from one level to another matters.
    fn matters(self, before: f64, after: f64) -> bool {
        match self {
            TrendMeasure::ErrorRate => (after - before).abs() > RunMeasure::ErrorRate.margin(),
            TrendMeasure::P99 => is_beyond(before, after, RunMeasure::P99.margin()),
            _ => is_beyond(before, after, RunMeasure::P50.margin()),
        }
    }

    fn is_worse(self, before: f64, after: f64) -> bool {
        match self {
            TrendMeasure::TokensPerSecond | TrendMeasure::Throughput => after < before,
            _ => after > before,
        }
    }
}

fn is_beyond(before: f64, after: f64, margin: f64) -> bool {
    let change = (after / before).ln().abs();
    before != after && (change.is_nan() || change > margin)
}

/// The trend over runs, which are given the newest first.
pub fn trend(benchmark: String, measure: TrendMeasure, runs: &[RunReport]) -> BenchmarkTrend {
    let point = |run: &RunReport| {
        let value = measure.value(run).filter(|value| value.is_finite())?;
        Some(TrendPoint { run: run.id.clone(), began: run.began.clone(), value })
    };
    let points: Vec<TrendPoint> = runs.iter().rev().filter_map(point).collect();
    let values: Vec<f64> = points.iter().map(|point| point.value).collect();
    let mut found = change_points(&values, clock::draw);
    found.push(values.len());
    let (mut changes, mut from) = (Vec::new(), 0);
    for pair in found.windows(2) {
        let (before, after) = (level(&values[from..pair[0]]), level(&values[pair[0]..pair[1]]));
        from = pair[0];
        if measure.matters(before, after) {
            let first = &points[pair[0]];
            changes.push(TrendChange {
                run: first.run.clone(),
                began: first.began.clone(),
                before,
                after,
                worse: measure.is_worse(before, after),
            });
        }
    }
    BenchmarkTrend { benchmark, measure: measure.as_str().to_owned(), points, changes }
}

/// The median of a level.
fn level(values: &[f64]) -> f64 {
    let mut values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    median(&mut values).map_or(0.0, f64::from)
}
