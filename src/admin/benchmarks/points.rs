//! `/api/benchmarks/series/points`: the figures of a series over time, for charts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::clock;
use crate::policy::yaml::units::{duration, show_duration};
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::{CallFigure, Calls};
use crate::resilience::outcome::AttemptClass;
use crate::store::{Resolution, RollUpQuery};
use crate::telemetry::events::rfc3339;

const MAX_POINTS: u64 = 1500;
const HOUR: u64 = 3600;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesPoints {
    pub route: String,
    pub provider: String,
    pub model: String,
    /// `latency`, `first_content` or `token_gap` (seconds), `tokens_per_second`, or `cost` (of a
    /// call).
    pub measure: String,
    /// The time that a point covers.
    pub step_seconds: u64,
    /// In order; a time without calls has no point.
    pub points: Vec<SeriesPoint>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeriesPoint {
    /// Start of its time (RFC 3339).
    pub at: String,
    pub calls: u32,
    /// How many of them failed.
    pub failed: u32,
    /// Attempts by class.
    pub outcomes: BTreeMap<String, u32>,
    /// The number of calls that the percentiles are of.
    pub values: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Cost of all calls, in the currency of the provider's `price`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct PointsQuery {
    /// The route of the series.
    route: String,
    /// Its provider.
    provider: String,
    /// Its model; `-` is unknown.
    model: String,
    /// `latency` (by default), `first_content`, `token_gap`, `tokens_per_second` or `cost`.
    measure: Option<String>,
    /// RFC 3339, or how long ago, such as `6h`; an hour before `to` by default.
    from: Option<String>,
    /// Like `from`; now by default.
    to: Option<String>,
    /// The time that a point covers, such as `5m`; the finest that fits by default.
    step: Option<String>,
}

/// The resolution and the times of the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PointsPlan {
    resolution: Resolution,
    step: u64,
    from: u64,
    to: u64,
}

pub fn routes() -> ApiRoutes {
    let routes = ApiRoutes::default().get::<SeriesPoints, _>(
        "/api/benchmarks/series/points",
        "Reports the figures of a series over time, at most 1,500 points. Points of 10 s are kept for a day, of 1 min for a week, of 1 h for 90 days; \
         without a store, those of the last hour.",
        points,
    );
    routes.query::<PointsQuery>().errors(&[ApiErrorKind::StoreUnavailable])
}

async fn points(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<PointsQuery>,
) -> Result<ApiJson<SeriesPoints>, ApiError> {
    let figure = figure(query.measure.as_deref())?;
    let now = unix(clock::wall());
    let to = query.to.as_deref().map(|text| time(text, now)).transpose()?.unwrap_or(now);
    let from = query.from.as_deref().map(|text| time(text, now)).transpose()?;
    let from = from.unwrap_or_else(|| to.saturating_sub(HOUR));
    let step = query.step.as_deref().map(seconds).transpose()?;
    let plan = PointsPlan::new(from, to, step, now, admin.store.is_some())?;
    let PointsQuery { route, provider, model, .. } = query;
    let series = SeriesKey { route, provider, model };
    let point = move |at: u64, calls: &Calls| SeriesPoint::new(at, calls, figure);
    let points = match &admin.store {
        Some(store) => {
            let PointsPlan { resolution, step, from, to } = plan;
            let query = RollUpQuery { series: series.clone(), resolution, step, from, to };
            let read = store.roll_ups(query, point).await;
            read.map_err(|error| ApiError::new(ApiErrorKind::StoreUnavailable, error.to_string()))?
        }
        None => admin.tracker.lock().recent.points(&series, plan.from..plan.to, plan.step, point),
    };
    let SeriesKey { route, provider, model } = series;
    let (measure, step_seconds) = (figure.as_str().to_owned(), plan.step);
    Ok(ApiJson(SeriesPoints { route, provider, model, measure, step_seconds, points }))
}

impl PointsPlan {
    fn new(
        from: u64,
        to: u64,
        step: Option<u64>,
        now: u64,
        has_store: bool,
    ) -> Result<PointsPlan, ApiError> {
        if from >= to {
            return Err(invalid("`from` is not before `to` (expected an earlier time)".to_owned()));
        }
        let is_kept = |one: &Resolution| now.saturating_sub(from) <= one.kept();
        let kept = Resolution::ALL.into_iter().find(is_kept).unwrap_or(Resolution::Hour);
        let kept = if has_store { kept } else { Resolution::TenSeconds };
        let fits = |one: &Resolution| (to - from) / one.seconds() <= MAX_POINTS;
        let of_step = |step: u64| {
            let mut coarsest_first = Resolution::ALL.into_iter().rev();
            coarsest_first.find(|one| one.seconds() <= step).unwrap_or(Resolution::TenSeconds)
        };
        let wanted = match step {
            Some(step) => of_step(step),
            None => Resolution::ALL.into_iter().find(fits).unwrap_or(Resolution::Hour),
        };
        let resolution = if has_store { wanted.max(kept) } else { Resolution::TenSeconds };
        let least = (to - from).div_ceil(MAX_POINTS);
        let unit = resolution.seconds();
        let step = step.unwrap_or(least).div_ceil(unit).max(1) * unit;
        let (from, to) = (from / step * step, to.div_ceil(step) * step);
        let count = (to - from) / step;
        // The ends are rounded.
        if count > MAX_POINTS + 1 {
            let least = show_duration(Duration::from_secs(least.div_ceil(unit) * unit));
            return Err(invalid(format!(
                "{count} points (expected at most {MAX_POINTS}: set `step` to at least {least}, or \
                 a shorter time)"
            )));
        }
        Ok(PointsPlan { resolution, step, from, to })
    }
}

impl SeriesPoint {
    fn new(at: u64, calls: &Calls, figure: CallFigure) -> SeriesPoint {
        let quantile = |q| calls.quantile(figure, q, 1);
        let counted = AttemptClass::ALL.into_iter().filter(|class| calls.outcome(*class) > 0);
        SeriesPoint {
            at: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            calls: calls.calls(),
            failed: calls.failed(),
            outcomes: counted
                .map(|class| (class.as_str().to_owned(), calls.outcome(class)))
                .collect(),
            values: calls.values(figure),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            cost: Some(calls.cost()).filter(|_| calls.values(CallFigure::Cost) > 0),
        }
    }
}

fn figure(measure: Option<&str>) -> Result<CallFigure, ApiError> {
    let Some(word) = measure else { return Ok(CallFigure::Latency) };
    CallFigure::from_word(word).ok_or_else(|| {
        let known = CallFigure::ALL.map(CallFigure::as_str).join(", ");
        invalid(format!("`measure` is `{word}` (expected one of {known})"))
    })
}

/// A time in seconds: RFC 3339, or how long ago.
fn time(text: &str, now: u64) -> Result<u64, ApiError> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(unix(SystemTime::from(moment)));
    }
    let ago = duration(text).map_err(|_| {
        let expected = "a time such as 2026-03-01T12:00:00Z, or how long ago, such as 6h";
        invalid(format!("`{text}` is no time (expected {expected})"))
    })?;
    Ok(now.saturating_sub(ago.as_secs()))
}

fn seconds(text: &str) -> Result<u64, ApiError> {
    let step = duration(text).map_err(|error| invalid(format!("`step`: {error}")))?;
    if (10..=90 * 86_400).contains(&step.as_secs()) {
        return Ok(step.as_secs());
    }
    Err(invalid(format!("`step` is `{text}` (expected at least 10s and at most 90d)")))
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_006_400;
    const DAY: u64 = 86_400;

    fn plan(age: u64, step: Option<u64>) -> (Resolution, u64) {
        let plan = PointsPlan::new(NOW - age, NOW, step, NOW, true).expect("a plan");
        (plan.resolution, plan.step)
    }

    #[test]
    fn the_finest_resolution_that_is_kept_and_fits_is_taken() {
        assert_eq!(plan(HOUR, None), (Resolution::TenSeconds, 10));
        assert_eq!(plan(DAY, None), (Resolution::Minute, 60));
        assert_eq!(plan(7 * DAY, None), (Resolution::Hour, 3_600));
        assert_eq!(plan(90 * DAY, None), (Resolution::Hour, 7_200));
        assert_eq!(plan(DAY, Some(600)), (Resolution::Minute, 600));
        assert_eq!(plan(HOUR, Some(15)), (Resolution::TenSeconds, 20));
        assert_eq!(plan(30 * DAY, Some(7_000)), (Resolution::Hour, 7_200));
    }

    #[test]
    fn too_many_points_name_the_step_that_fits() {
        let error = PointsPlan::new(NOW - 7 * DAY, NOW, Some(60), NOW, true).expect_err("too many");
        let text = format!("{error:?}");
        assert!(text.contains("10080 points") && text.contains("at least 7m"), "{text}");
        assert!(PointsPlan::new(NOW, NOW, None, NOW, true).is_err());
    }

    proptest! {
        #[test]
        fn points_are_bounded(
            age in 1..400 * DAY, length in 1..400 * DAY, step in prop::option::of(10..90 * DAY),
            has_store in any::<bool>(),
        ) {
            let from = NOW - age;
            if let Ok(plan) = PointsPlan::new(from, from + length, step, NOW, has_store) {
                prop_assert!((plan.to - plan.from) / plan.step <= MAX_POINTS + 1);
                prop_assert!(plan.from <= from && plan.step.is_multiple_of(plan.resolution.seconds()));
            }
        }
    }
}
