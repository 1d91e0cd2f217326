//! Figures of runs with their units.

use jiff::Timestamp;

use crate::benchmark::report::{
    ChangeInterval, Environment, HistogramBin, MeasureComparison, RunCost, RunFigures, RunReport,
};
use crate::cli::output::{NONE, decimal, size};

/// `850µs`, `12.3ms`, `1.32s`: three digits.
pub fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{}s", digits(v)),
        v if v >= 0.001 => format!("{}ms", digits(v * 1e3)),
        v => format!("{}µs", decimal(v * 1e6, 0)),
    }
}

/// Three digits: `0.123`, `4.98`, `41.2`, `1240`.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    decimal(
        value,
        [(100.0, 0), (10.0, 1), (1.0, 2)].iter().find(|d| size >= d.0).map_or(3, |d| d.1),
    )
}

/// Of a share: `1.4%`.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    format!(
        "{}%",
        decimal(
            value,
            usize::from(value != 0.0 && value.abs() < 99.95)
                + usize::from(value != 0.0 && value.abs() < 0.1)
        )
    )
}

pub fn rate(per_second: f64) -> String {
    format!("{}/s", digits(per_second))
}

/// Two digits of whole amounts, three of smaller ones: `12.50 USD`, `0.432 USD`.
pub fn cost(cost: &RunCost) -> String {
    let places = match cost.amount {
        amount if amount >= 1.0 || amount <= 0.0 => 2,
        amount => (2.0 - amount.log10().floor()).min(9.0) as usize,
    };
    format!("{} {}", decimal(cost.amount, places), cost.currency)
}

/// `12,345`.
pub fn thousands(n: u64) -> String {
    let plain = n.to_string();
    let mut text = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One value of a comparison, in the unit of its measure.
pub fn measured(measure: &str, value: Option<f64>) -> String {
    let Some(value) = value else { return NONE.to_owned() };
    match measure {
        "throughput" => rate(value),
        "error_rate" => percent(value),
        _ => seconds(value),
    }
}

/// `+12.3%`; of error rates in percentage points: `+1.2pp`.
pub fn change(measure: &str, value: f64) -> String {
    let unit = if measure == "error_rate" { "pp" } else { "%" };
    signed(value) + unit
}

/// Of a share, in percent: `+12.3`.
fn signed(share: f64) -> String {
    let value = decimal(share * 100.0, 1);
    let value = value.strip_suffix(".0").unwrap_or(&value);
    let sign = if share > 0.0 && value != "0" { "+" } else { "" };
    format!("{sign}{value}")
}

/// `+12.3% (+8.1 to +16.4)`
pub fn interval(compared: &MeasureComparison) -> String {
    let text = |interval: &ChangeInterval| {
        let (low, high) = (signed(interval.low), signed(interval.high));
        format!("{} ({low} to {high})", change(&compared.measure, interval.estimate))
    };
    compared.change.as_ref().map_or_else(|| NONE.to_owned(), text)
}

/// The name of a measure for people.
pub fn measure_name(measure: &str) -> String {
    measure.replace('_', " ")
}

/// `linux/x86_64, 4 CPUs, 15.6 GiB`: the machine, the versions in front.
pub fn environment(environment: &Environment) -> String {
    let Environment { host, version, policy_hash, system, cpus, memory_bytes } = environment;
    let hash = policy_hash.get(..12).unwrap_or(policy_hash);
    let memory = size(*memory_bytes);
    format!("{host} ({system}, {cpus} CPUs, {memory}), outrigger {version}, policy {hash}")
}

/// Seconds from the start to the end; none while it runs.
pub fn run_seconds(run: &RunReport) -> Option<f64> {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let (began, ended) = (time(&run.began)?, time(run.ended.as_deref()?)?);
    Some(ended.duration_since(began).as_secs_f64())
}

/// Failed calls: `3 of 300 (1.0%): 2 timeout, 1 server_error`.
pub fn errors(figures: &RunFigures) -> String {
    if figures.failed == 0 {
        return format!("0 of {}", thousands(figures.calls));
    }
    let share = figures.error_rate.map(|share| format!(" ({})", percent(share)));
    let (failed, calls) = (thousands(figures.failed), thousands(figures.calls));
    format!("{failed} of {calls}{}", share.unwrap_or_default())
}

/// Calls with a latency from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyRange {
    pub from: f64,
    pub to: f64,
    pub calls: u64,
}

/// Joins bins into at most `count` ranges, each as wide as the others on a logarithmic scale.
pub fn ranges(histogram: &[HistogramBin], count: usize) -> Vec<LatencyRange> {
    /// The bins are this much wider than the bound below.
    const BIN: f64 = 1.008;
    let (Some(first), Some(last)) = (histogram.first(), histogram.last()) else {
        return Vec::new();
    };
    let (low, high) = (first.below / BIN, last.below);
    let count = count.min(((high / low).ln() / BIN.ln()).round() as usize).max(1);
    let step = (high / low).powf(1.0 / count as f64);
    let bound = |n: usize| low * step.powf(n as f64);
    let mut ranges: Vec<_> =
        (0..count).map(|n| LatencyRange { from: bound(n), to: bound(n + 1), calls: 0 }).collect();
    for bin in histogram {
        let middle = bin.below / BIN.sqrt();
        let at = ((middle / low).ln() / step.ln()).max(0.0) as usize;
        ranges[at.min(count - 1)].calls += bin.calls;
    }
    ranges
}

/// The latency that this share of the calls is below.
pub fn quantile(histogram: &[HistogramBin], share: f64) -> Option<f64> {
    let calls: u64 = histogram.iter().map(|bin| bin.calls).sum();
    let rank = (share * calls as f64).ceil().max(1.0) as u64;
    let mut below = 0;
    let found = histogram.iter().find(|bin| {
        below += bin.calls;
        below >= rank
    });
    found.map(|bin| bin.below)
}
