//! `/api/benchmarks/series/points`: the figures of a series over time, for charts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::history::time_plan::{MAX_POINTS, TimePlan, TimeQuery};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::{CallFigure, Calls};
use crate::resilience::outcome::AttemptClass;
use crate::store::RollUpQuery;
use crate::telemetry::events::rfc3339;

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
    let times = TimeQuery {
        from: query.from.as_deref(),
        to: query.to.as_deref(),
        step: query.step.as_deref(),
    };
    let plan = times.plan(HOUR, MAX_POINTS, admin.store.is_some())?;
    let PointsQuery { route, provider, model, .. } = query;
    let series = SeriesKey { route, provider, model };
    let point = move |at: u64, calls: &Calls| SeriesPoint::new(at, calls, figure);
    let points = match &admin.store {
        Some(store) => {
            let TimePlan { resolution, step, from, to } = plan;
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

fn invalid(detail: String) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}
