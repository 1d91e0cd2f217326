//! Comparisons of runs, as the API shows them.

use crate::benchmark::report::{
    ChangeInterval, Environment, MeasureComparison, RunComparison, RunFigures, RunReport,
};
use crate::resilience::comparison::{Comparison, Difference, RunMeasure};

/// Memory that differs by less than this share is the same.
const SAME_MEMORY: f64 = 0.05;

/// One side of a comparison.
#[derive(Clone, Debug)]
pub struct ComparedRun {
    /// The run's id, or its target.
    pub name: String,
    pub figures: RunFigures,
}

impl ComparedRun {
    /// The first arm of a run.
    pub fn of(report: &RunReport) -> ComparedRun {
        let figures = report.arms.first().map(|arm| arm.figures.clone());
        ComparedRun { name: report.id.clone(), figures: figures.unwrap_or_default() }
    }
}

/// Describes the comparison of `b` with `a`.
pub fn describe(
    a: &ComparedRun,
    b: &ComparedRun,
    comparison: &Comparison,
    warnings: Vec<String>,
) -> RunComparison {
    let measure = |measure: RunMeasure| {
        let difference = comparison.differences[measure as usize];
        MeasureComparison {
            measure: measure.as_str().to_owned(),
            a: figure(measure, &a.figures),
            b: figure(measure, &b.figures),
            change: change(measure, difference),
            verdict: difference.verdict.as_str().to_owned(),
            more_calls: difference.more_calls,
        }
    };
    RunComparison {
        a: a.name.clone(),
        b: b.name.clone(),
        verdict: comparison.verdict.as_str().to_owned(),
        more_calls: comparison.more_calls,
        measures: RunMeasure::ALL.map(measure).into(),
        warnings,
    }
}

fn figure(measure: RunMeasure, figures: &RunFigures) -> Option<f64> {
    let latency = figures.latency.as_ref();
    match measure {
        RunMeasure::P50 => latency.map(|latency| latency.p50),
        RunMeasure::P95 => latency.map(|latency| latency.p95),
        RunMeasure::P99 => latency.map(|latency| latency.p99),
        RunMeasure::Throughput => figures.throughput,
        RunMeasure::ErrorRate => figures.error_rate,
    }
}

/// The relative change, or the difference of error rates. `None` if its error is not known.
fn change(measure: RunMeasure, difference: Difference) -> Option<ChangeInterval> {
    let Difference { estimate, error, .. } = difference;
    let found = estimate.filter(|_| error.is_finite())?;
    let bounds = [found, found - error, found + error];
    let [estimate, low, high] = match measure {
        RunMeasure::P50 | RunMeasure::P95 | RunMeasure::P99 => bounds.map(f64::exp_m1),
        RunMeasure::Throughput => {
            let [estimate, low, high] = bounds.map(|bound| (-bound).exp_m1());
            [estimate, high, low]
        }
        RunMeasure::ErrorRate => bounds,
    };
    let change = ChangeInterval { estimate, low, high };
    [estimate, low, high].iter().all(|bound| bound.is_finite()).then_some(change)
}

/// The differences that make two runs hard to compare.
pub fn warnings(a: &RunReport, b: &RunReport) -> Vec<String> {
    let (on_a, on_b) = (&a.environment, &b.environment);
    let same_memory = {
        let (x, y) = (on_a.memory_bytes as f64, on_b.memory_bytes as f64);
        (x - y).abs() <= SAME_MEMORY * x.max(y)
    };
    let same_machine = (&on_a.system, on_a.cpus) == (&on_b.system, on_b.cpus) && same_memory;
    let mut found = Vec::new();
    let mut differ = |what: &str, a: &str, b: &str| {
        found.push(format!("the {what} differ: {a} and {b}"));
    };
    if !same_machine {
        differ("machines", &machine(on_a), &machine(on_b));
    }
    for (what, of_a, of_b) in [
        ("hosts", &on_a.host, &on_b.host),
        ("versions", &on_a.version, &on_b.version),
        ("loads", &a.load, &b.load),
    ] {
        if of_a != of_b {
            differ(what, of_a, of_b);
        }
    }
    if a.requests != b.requests {
        found.push("the requests differ".to_owned());
    }
    found
}

fn machine(environment: &Environment) -> String {
    let Environment { system, cpus, memory_bytes, .. } = environment;
    let gib = *memory_bytes as f64 / f64::from(1 << 30);
    format!("{system} with {cpus} CPUs and {gib:.1} GiB")
}

/// The measures that are worse, in words: `p95 1.20 s instead of 0.80 s (+50 %)`.
pub fn worse_measures(comparison: &RunComparison) -> String {
    let worse = comparison.measures.iter().filter(|measure| measure.verdict == "worse");
    worse.map(in_words).collect::<Vec<_>>().join(", ")
}

fn in_words(measure: &MeasureComparison) -> String {
    let percent = |value: f64| format!("{:.2} %", value * 100.0);
    let value = |value: Option<f64>| match (value, measure.measure.as_str()) {
        (None, _) => "unknown".to_owned(),
        (Some(value), "error_rate") => percent(value),
        (Some(value), "throughput") => format!("{value:.2}/s"),
        (Some(value), _) => format!("{:.1} ms", value * 1e3),
    };
    let change = measure.change.filter(|_| measure.measure != "error_rate");
    let change = change.map(|change| format!(" ({:+.1} %)", change.estimate * 100.0));
    let (now, before) = (value(measure.b), value(measure.a));
    format!("{} {now} instead of {before}{}", measure.measure, change.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::comparison::Verdict;

    fn difference(estimate: f64, error: f64) -> Difference {
        Difference { estimate: Some(estimate), error, verdict: Verdict::Worse, more_calls: 0 }
    }

    #[test]
    fn a_change_is_relative_to_the_first_run_and_in_order() {
        let slower = change(RunMeasure::P95, difference(1.5_f64.ln(), 0.1)).expect("a change");
        assert!((slower.estimate - 0.5).abs() < 1e-9, "{slower:?}");
        assert!(slower.low < 0.5 && 0.5 < slower.high, "{slower:?}");
        let fewer = change(RunMeasure::Throughput, difference(2_f64.ln(), 0.1)).expect("a change");
        assert!((fewer.estimate + 0.5).abs() < 1e-9, "{fewer:?}");
        assert!(fewer.low < -0.5 && -0.5 < fewer.high, "{fewer:?}");
        let errors = change(RunMeasure::ErrorRate, difference(0.04, 0.01)).expect("a change");
        assert!((errors.low - 0.03).abs() < 1e-9 && (errors.high - 0.05).abs() < 1e-9);
        assert_eq!(change(RunMeasure::P50, difference(0.1, f64::INFINITY)), None);
    }
}
