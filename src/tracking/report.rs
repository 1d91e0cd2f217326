//! Log lines, events and metrics of regressions.

use std::time::Duration;

use crate::clock;
use crate::live::Live;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::detector::Regression;
use crate::resilience::baseline::measure::Measure;
use crate::telemetry::metrics::RegressionLabels;

/// The kind of the events.
const KIND: &str = "regression";
/// The key of events about this host.
const HOST: &str = "host";

/// A measure of a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmKey {
    pub series: SeriesKey,
    pub measure: Measure,
}

/// Why an alarm is not reported any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmEnd {
    Recovered,
    /// The series has too few calls, or the policy no longer has it.
    NoCalls,
    /// It is attributed to this host.
    Host,
}

/// A measure of a series became worse.
pub fn started(live: &Live, key: &AlarmKey, regression: &Regression) {
    let labels = labels(key);
    live.metrics.regression_active.with(&labels).set(1);
    live.metrics.regressions.with(&labels).inc();
    let (series, measure) = (key.series.path(), key.measure.as_str());
    let before = figure(key.measure, regression.before);
    let current = figure(key.measure, regression.current);
    tracing::warn!(series, measure, before, current, "worse than its baseline");
    let detail = format!("{measure}: worse than its baseline: {before} before, {current} now");
    live.events.push(clock::wall(), KIND, &series, detail);
}

/// The alarm of a measure is not reported any longer.
pub fn ended(live: &Live, key: &AlarmKey, regression: &Regression, end: AlarmEnd) {
    live.metrics.regression_active.with(&labels(key)).set(0);
    let state = match end {
        AlarmEnd::Recovered => "no longer worse than its baseline",
        AlarmEnd::NoCalls => "too few calls to say whether it is still worse than its baseline",
        AlarmEnd::Host => return,
    };
    let (series, measure) = (key.series.path(), key.measure.as_str());
    let before = figure(key.measure, regression.before);
    let current = figure(key.measure, regression.current);
    tracing::info!(series, measure, before, current, "{state}");
    let detail = format!("{measure}: {state}: {before} before, {current} last");
    live.events.push(clock::wall(), KIND, &series, detail);
}

/// Most series became worse together, or no longer are.
pub fn host(live: &Live, is_worse: bool, alarms: usize) {
    live.metrics.host_regression.set(i64::from(is_worse));
    let detail = if is_worse {
        tracing::warn!(alarms, "most series are worse than their baselines: this host is slow");
        "most series are worse than their baselines: this host or its network is the likely cause"
    } else {
        tracing::info!(alarms, "most series are no longer worse than their baselines");
        "most series are no longer worse than their baselines"
    };
    live.events.push(clock::wall(), KIND, HOST, detail.to_owned());
}

fn labels(key: &AlarmKey) -> RegressionLabels {
    let SeriesKey { route, provider, model } = key.series.clone();
    RegressionLabels { route, provider, model, measure: key.measure.as_str() }
}

/// A figure with its unit.
fn figure(measure: Measure, value: f64) -> String {
    match measure {
        Measure::P50 | Measure::P95 | Measure::FirstContent => {
            let time = Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX);
            format!("{time:.1?}")
        }
        Measure::TokensPerSecond => format!("{value:.1} tokens/s"),
        Measure::ErrorRate => format!("{:.1} %", value * 100.0),
    }
}
