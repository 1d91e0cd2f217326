//! Log lines, events, metrics and records of regressions.

use std::time::{Duration, SystemTime};

use super::changes::{ChangedMeasure, DetectedChange};
use crate::clock;
use crate::live::Live;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::detector::Regression;
use crate::resilience::baseline::measure::{Measure, ROLL_UP_SECONDS};
use crate::telemetry::events::NewEvent;
use crate::telemetry::events::rfc3339;
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
    /// An operator made it normal.
    Accepted,
}

/// An alarm of an earlier process stands: it was reported then.
pub fn restored(live: &Live, key: &AlarmKey) {
    live.metrics.regression_active.with(&labels(key)).set(1);
}

/// A measure of a series became worse.
pub fn started(live: &Live, key: &AlarmKey, regression: &Regression) -> DetectedChange {
    let labels = labels(key);
    live.metrics.regression_active.with(&labels).set(1);
    live.metrics.regressions.with(&labels).inc();
    let (series, measure) = (key.series.path(), key.measure.as_str());
    let before = figure(key.measure, regression.before);
    let current = figure(key.measure, regression.current);
    tracing::warn!(series, measure, before, current, "worse than its baseline");
    let detail = format!("{measure}: worse than its baseline: {before} before, {current} now");
    let event = NewEvent::new(KIND, &series, detail).state("worse").cause(measure);
    live.events.push(clock::wall(), event);
    record("regression", Some((key, regression)))
}

/// The alarm of a measure is not reported any longer.
pub fn ended(
    live: &Live,
    key: &AlarmKey,
    regression: &Regression,
    end: AlarmEnd,
) -> Option<DetectedChange> {
    live.metrics.regression_active.with(&labels(key)).set(0);
    let (change, state) = match end {
        AlarmEnd::Recovered => ("recovery", "no longer worse than its baseline"),
        AlarmEnd::NoCalls => {
            ("too_few_calls", "too few calls to say whether it is still worse than its baseline")
        }
        AlarmEnd::Accepted => ("accepted", "accepted as the baseline"),
        AlarmEnd::Host => return None,
    };
    let (series, measure) = (key.series.path(), key.measure.as_str());
    let before = figure(key.measure, regression.before);
    let current = figure(key.measure, regression.current);
    tracing::info!(series, measure, before, current, "{state}");
    let detail = format!("{measure}: {state}: {before} before, {current} last");
    let event = NewEvent::new(KIND, &series, detail).state(change).cause(measure);
    live.events.push(clock::wall(), event);
    Some(record(change, Some((key, regression))))
}

/// Most series became worse together, or no longer are.
pub fn host(live: &Live, is_worse: bool, alarms: usize) -> DetectedChange {
    live.metrics.host_regression.set(i64::from(is_worse));
    let detail = if is_worse {
        tracing::warn!(alarms, "most series are worse than their baselines: this host is slow");
        "most series are worse than their baselines: this host or its network is the likely cause"
    } else {
        tracing::info!(alarms, "most series are no longer worse than their baselines");
        "most series are no longer worse than their baselines"
    };
    let event = NewEvent::new(KIND, HOST, detail.to_owned());
    let state = if is_worse { "worse" } else { "recovery" };
    live.events.push(clock::wall(), event.state(state));
    record(if is_worse { "host_regression" } else { "host_recovery" }, None)
}

fn record(change: &'static str, of: Option<(&AlarmKey, &Regression)>) -> DetectedChange {
    let of = of.map(|(AlarmKey { series, measure }, regression)| {
        let SeriesKey { route, provider, model } = series.clone();
        let since = Duration::from_secs(regression.since * ROLL_UP_SECONDS);
        ChangedMeasure {
            route,
            provider,
            model,
            measure: measure.as_str().into(),
            before: regression.before,
            current: regression.current,
            since: rfc3339(SystemTime::UNIX_EPOCH + since),
        }
    });
    DetectedChange { at: rfc3339(clock::wall()), change: change.into(), of }
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
