//! `/api/series`: the figures of a metric over time, for charts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time_plan::{TimePlan, TimeQuery};
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::history::metric_list::{SAMPLED, kind_of, labels_of};
use crate::history::series::{SeriesError, SeriesQuery};

/// Points where the request sets no step.
const USUAL_POINTS: u64 = 360;
const HALF_AN_HOUR: u64 = 1800;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricHistorySeries {
    pub metric: String,
    /// `rate`: events per second of a counter; `level`: the last value of a gauge in each step;
    /// `quantile`: seconds, of a histogram.
    pub kind: String,
    /// The time that a value covers.
    pub step_seconds: u64,
    /// Start of each step (Unix time in seconds).
    pub at: Vec<u64>,
    pub series: Vec<LabelledValues>,
}

/// The values of one set of labels.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct LabelledValues {
    /// Those of the metric that `by` keeps, and `quantile` (`0.5`, `0.95`, `0.99` or `mean`) of a
    /// histogram.
    pub labels: BTreeMap<String, String>,
    /// One for each step; null where nothing is known.
    pub values: Vec<Option<f64>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct MetricSeriesQuery {
    /// As in the list of metrics, without `outrigger_` and `_total`.
    metric: String,
    /// Labels to keep, separated by commas: series that differ in the others are summed. All by
    /// default.
    by: Option<String>,
    /// Only series with these labels: `label:value`, several separated by commas.
    #[serde(rename = "where")]
    conditions: Option<String>,
    /// RFC 3339, or how long ago, such as `6h`; the last 30 min by default.
    from: Option<String>,
    /// RFC 3339, or how long ago.
    to: Option<String>,
    /// Such as `5m`; by default the finest with at most 360 points. At most 1,500 points.
    step: Option<String>,
}

pub fn routes() -> ApiRoutes {
    let routes = ApiRoutes::default().get::<MetricHistorySeries, _>(
        "/api/series",
        "Reports a metric over time, sampled every 10 s. Samples of 10 s are kept for a day, of 1 min \
         for a week, of 1 h for 90 days; without a store, those of the last hour.",
        series,
    );
    routes.query::<MetricSeriesQuery>().errors(&[ApiErrorKind::StoreUnavailable])
}

async fn series(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<MetricSeriesQuery>,
) -> Result<ApiJson<MetricHistorySeries>, ApiError> {
    let metric = SAMPLED.iter().find(|name| **name == query.metric).copied();
    let Some(metric) = metric else {
        let (found, known) = (&query.metric, SAMPLED.join(", "));
        return Err(invalid(format!("`metric` is `{found}` (expected one of {known})")));
    };
    let wanted = query.wanted()?;
    let by = query.labels(metric, &wanted)?;
    let MetricSeriesQuery { from, to, step, .. } = query;
    let times = TimeQuery { from: from.as_deref(), to: to.as_deref(), step: step.as_deref() };
    let plan = times.plan(HALF_AN_HOUR, USUAL_POINTS, admin.store.is_some())?;
    let TimePlan { resolution, step, from, to } = plan;
    let query = SeriesQuery { metric, resolution, by, wanted, from, to, step };
    let found = admin.history.series(query, admin.store.as_ref()).await.map_err(failed)?;
    let series = found.into_iter().map(|one| LabelledValues {
        labels: one.labels.0.into_iter().collect(),
        values: one.values,
    });
    let series = series.collect();
    let (metric, kind) = (metric.to_owned(), kind_of(metric).as_str().to_owned());
    let at = (from..to).step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect();
    Ok(ApiJson(MetricHistorySeries { metric, kind, step_seconds: step, at, series }))
}

impl MetricSeriesQuery {
    /// The values of `where`, by label.
    fn wanted(&self) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
        let mut wanted = BTreeMap::<String, Vec<String>>::new();
        for condition in list(self.conditions.as_deref().unwrap_or_default()) {
            let (label, value) = condition.split_once(':').ok_or_else(|| {
                invalid(format!("`where` has `{condition}` (expected label:value)"))
            })?;
            wanted.entry(label.to_owned()).or_default().push(value.to_owned());
        }
        Ok(wanted)
    }

    /// The labels to keep. Each that is named must be one of the metric.
    fn labels(
        &self,
        metric: &str,
        wanted: &BTreeMap<String, Vec<String>>,
    ) -> Result<Vec<String>, ApiError> {
        let known = labels_of(metric);
        let by: Option<Vec<_>> = self.by.as_deref().map(|by| list(by).collect());
        let named = by.iter().flatten().copied().chain(wanted.keys().map(String::as_str));
        for label in named {
            if !known.contains(&label) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("`{metric}` has no label `{label}` (expected one of {known})");
                return Err(invalid(detail));
            }
        }
        let kept = by.unwrap_or_else(|| known.to_vec());
        Ok(kept.into_iter().map(str::to_owned).collect())
    }
}

/// The parts of a list separated by commas.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn failed(error: SeriesError) -> ApiError {
    match error {
        SeriesError::TooMany(_) => {
            invalid(format!("{error}: set `by`, `where` or a longer `step`"))
        }
        SeriesError::Store(error) => {
            ApiError::new(ApiErrorKind::StoreUnavailable, error.to_string())
        }
    }
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(ApiErrorKind::InvalidQuery, detail)
}
