//! Whether the thresholds of a benchmark hold, and when a run may end early because one cannot.
//!
//! The verdict against another run or the baseline is decided in `resilience/comparison.rs`.

use crate::benchmark::report::{Quantiles, RunFigures, ThresholdResult};
use crate::policy::section::{Percentile, Threshold, ThresholdMeasure, TimedFigure};

/// Calls after which a broken threshold ends a run with `abort_on_fail`.
const LEAST_CALLS: u64 = 100;

/// The results in the order of the policy. A threshold without a figure does not hold.
pub fn results(thresholds: &[Threshold], figures: &RunFigures) -> Vec<ThresholdResult> {
    let result = |threshold: &Threshold| {
        let value = value(threshold.measure, figures);
        ThresholdResult {
            threshold: threshold.text.clone(),
            value: value.map(|value| threshold.show(value)),
            holds: value.is_some_and(|value| threshold.holds(value)),
        }
    };
    thresholds.iter().map(result).collect()
}

/// The first threshold that cannot hold any more, or that is broken after enough calls. `planned`:
/// the calls of the whole run, if that is known.
pub fn broken_early<'t>(
    thresholds: &'t [Threshold],
    figures: &RunFigures,
    planned: Option<u64>,
) -> Option<&'t Threshold> {
    thresholds.iter().find(|threshold| {
        let lost = match threshold.measure {
            // Neither can become less.
            ThresholdMeasure::Cost => figures.cost.as_ref().map(|cost| cost.amount),
            ThresholdMeasure::ErrorRate => {
                planned.map(|planned| figures.failed as f64 / planned.max(1) as f64)
            }
            _ => None,
        };
        if threshold.is_upper() && lost.is_some_and(|lost| !threshold.holds(lost)) {
            return true;
        }
        let found = value(threshold.measure, figures);
        figures.calls >= LEAST_CALLS && found.is_some_and(|value| !threshold.holds(value))
    })
}

fn value(measure: ThresholdMeasure, figures: &RunFigures) -> Option<f64> {
    match measure {
        ThresholdMeasure::Time(figure, percentile) => {
            let quantiles = match figure {
                TimedFigure::Latency => figures.latency,
                TimedFigure::FirstByte => figures.first_byte,
                TimedFigure::FirstContent => figures.first_content,
                TimedFigure::TokenGap => figures.token_gap,
            };
            quantiles.map(|quantiles| at(&quantiles, percentile))
        }
        ThresholdMeasure::ErrorRate => figures.error_rate,
        ThresholdMeasure::Cost => figures.cost.as_ref().map(|cost| cost.amount),
        ThresholdMeasure::TokensPerSecond => figures.tokens_per_second,
        ThresholdMeasure::Throughput => figures.throughput,
    }
}

fn at(quantiles: &Quantiles, percentile: Percentile) -> f64 {
    match percentile {
        Percentile::P50 => quantiles.p50,
        Percentile::P90 => quantiles.p90,
        Percentile::P95 => quantiles.p95,
        Percentile::P99 => quantiles.p99,
        Percentile::Max => quantiles.max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::report::RunCost;

    fn thresholds(texts: &[&str]) -> Vec<Threshold> {
        texts.iter().map(|text| Threshold::parse(text).unwrap()).collect()
    }

    fn figures(calls: u64, failed: u64, p95: f64) -> RunFigures {
        let latency = Quantiles { p50: p95 / 2.0, p90: p95, p95, p99: p95, max: p95 };
        RunFigures {
            calls,
            failed,
            error_rate: Some(failed as f64 / calls as f64),
            latency: Some(latency),
            ..RunFigures::default()
        }
    }

    #[test]
    fn a_threshold_without_a_figure_does_not_hold() {
        let all = thresholds(&["p95 < 2s", "error_rate < 1%", "tokens_per_second > 40"]);
        let found = results(&all, &figures(200, 4, 1.5));
        assert_eq!(found.iter().map(|one| one.holds).collect::<Vec<_>>(), [true, false, false]);
        let values: Vec<_> = found.iter().map(|one| one.value.as_deref()).collect();
        assert_eq!(values, [Some("1.50s"), Some("2.00%"), None]);
    }

    #[test]
    fn a_run_ends_early_only_when_that_is_certain_or_after_enough_calls() {
        let all = thresholds(&["p95 < 1s", "error_rate < 1%"]);
        let broken = |figures| broken_early(&all, &figures, Some(1000)).map(|one| one.text.clone());
        assert_eq!(broken(figures(99, 0, 3.0)), None);
        assert_eq!(broken(figures(100, 0, 3.0)), Some("p95 < 1s".to_owned()));
        assert_eq!(broken(figures(20, 9, 0.5)), None);
        // Ten failures of 1,000 calls are 1 % in any case.
        assert_eq!(broken(figures(20, 10, 0.5)), Some("error_rate < 1%".to_owned()));
    }

    #[test]
    fn a_cost_never_shrinks() {
        let all = thresholds(&["cost < 1 USD"]);
        let cost = RunCost { amount: 1.0, currency: "USD".to_owned() };
        let figures = RunFigures { calls: 1, cost: Some(cost), ..RunFigures::default() };
        assert!(broken_early(&all, &figures, None).is_some());
    }
}
