//! `/api/benchmarks/runs` and below: stored runs, baselines, comparisons and trends.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::runner::OF_STORE;
use crate::admin::change::{Change, PathName, read_json, unreadable_body};
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiQuery, ApiRoutes};
use crate::admin::state::AdminState;
use crate::benchmark::history::HistoryError;
use crate::benchmark::history::trend::TrendMeasure;
use crate::benchmark::report::{
    BenchmarkBaseline, BenchmarkTrend, RunComparison, RunList, RunState,
};
use crate::store::benchmark_runs::RunFilter;

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 1000;
const BASELINE_PATH: &str = "/api/benchmarks/{name}/baseline";
/// Instead of a run's id: the baseline of its benchmark.
const BASELINE: &str = "baseline";

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RunQuery {
    /// Only runs of this benchmark.
    benchmark: Option<String>,
    /// Only runs in this state: `running`, `done`, `aborted` or `failed`.
    state: Option<String>,
    /// The `next` of the previous page.
    before: Option<String>,
    /// Runs of a page: 50 by default, at most 1,000.
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ComparisonQuery {
    /// The id of the other run, or `baseline`, which is the default.
    with: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct TrendQuery {
    /// `p50`, `p90`, `p95` (by default), `p99`, `first_byte`, `first_content`, `tokens_per_second`,
    /// `throughput`, `error_rate` or `cost`.
    measure: Option<String>,
}

/// The body that sets a baseline.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineRequest {
    /// The id of a run that is done.
    pub run: String,
    /// The operator's name, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<RunList, _>(
            "/api/benchmarks/runs",
            "Lists runs of benchmarks, the newest first.",
            list,
        )
        .query::<RunQuery>()
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::InvalidState])
        .get::<RunComparison, _>(
            "/api/benchmarks/runs/{id}/comparison",
            "Compares a run with another: p50, p95, p99, throughput and error rate. 409 \
             when a run is not done.",
            compare,
        )
        .in_path("id", "The id of a run.")
        .query::<ComparisonQuery>()
        .errors(&OF_STORE)
        .errors(&[
            ApiErrorKind::UnknownRun,
            ApiErrorKind::NoBaseline,
            ApiErrorKind::RunState,
            ApiErrorKind::InvalidBaseline,
        ])
        .get::<BenchmarkTrend, _>(
            "/api/benchmarks/{name}/trend",
            "Reports a figure over the stored runs of a benchmark, and its changes.",
            trend,
        )
        .in_path("name", "The name of a benchmark.")
        .query::<TrendQuery>()
        .errors(&OF_STORE)
        .merge(baseline_routes())
}

fn baseline_routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<BenchmarkBaseline, _>(BASELINE_PATH, "Reports the baseline of a benchmark.", show)
        .in_path("name", "The name of a benchmark.")
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::UnknownRun])
        .put::<BenchmarkBaseline, _>(
            BASELINE_PATH,
            "Sets the baseline: the run with which each further run is compared when it ends.",
            set,
        )
        .in_path("name", "The name of a benchmark.")
        .body::<BaselineRequest>()
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::UnknownRun, ApiErrorKind::RunState, ApiErrorKind::InvalidBaseline])
        .delete::<BenchmarkBaseline, _>(
            BASELINE_PATH,
            "Removes the baseline of a benchmark.",
            clear,
        )
        .in_path("name", "The name of a benchmark.")
        .change()
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::UnknownRun])
}

async fn list(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<RunQuery>,
) -> Result<ApiJson<RunList>, ApiError> {
    let state = query.state.as_deref().map(parse_state).transpose()?;
    let filter = RunFilter {
        benchmark: query.benchmark,
        state: state.map(|state| state.as_str().to_owned()),
        before: query.before,
        limit: query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE),
    };
    Ok(ApiJson(admin.runs.list(filter).await?))
}

async fn compare(
    State(admin): State<Arc<AdminState>>,
    PathName(id): PathName,
    ApiQuery(query): ApiQuery<ComparisonQuery>,
) -> Result<ApiJson<RunComparison>, ApiError> {
    let with = match query.with.filter(|with| with != BASELINE) {
        Some(with) => with,
        None => admin.runs.baseline_of_run(&id).await?,
    };
    Ok(ApiJson(admin.runs.compare(&with, &id).await?))
}

async fn trend(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    ApiQuery(query): ApiQuery<TrendQuery>,
) -> Result<ApiJson<BenchmarkTrend>, ApiError> {
    let word = query.measure.as_deref().unwrap_or(TrendMeasure::P95.as_str());
    let measure = TrendMeasure::from_word(word).ok_or_else(|| {
        let known = TrendMeasure::ALL.map(TrendMeasure::as_str).join(", ");
        let detail = format!("unknown measure `{word}` (expected {known})");
        ApiError::new(ApiErrorKind::InvalidQuery, detail)
    })?;
    Ok(ApiJson(admin.runs.trend(&name, measure).await?))
}

async fn show(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
) -> Result<ApiJson<BenchmarkBaseline>, ApiError> {
    baseline(&admin, name).await
}

async fn set(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<ApiJson<BenchmarkBaseline>, ApiError> {
    let body = body.map_err(|rejection| unreadable_body(&rejection))?;
    let request: BaselineRequest = read_json(&headers, &body, r#"{"run": "..."}"#)?;
    let change = Change::by(request.by, request.reason);
    admin.runs.set_baseline(&name, &request.run).await?;
    admin.audit("benchmark_baseline_set", &name, &change);
    baseline(&admin, name).await
}

async fn clear(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    change: Change,
) -> Result<ApiJson<BenchmarkBaseline>, ApiError> {
    change.without_end("a baseline is removed for good")?;
    change.on_this_host()?;
    if admin.runs.clear_baseline(&name).await? {
        admin.audit("benchmark_baseline_clear", &name, &change);
    }
    baseline(&admin, name).await
}

async fn baseline(
    admin: &AdminState,
    benchmark: String,
) -> Result<ApiJson<BenchmarkBaseline>, ApiError> {
    let run = match admin.runs.baseline(&benchmark).await? {
        Some(id) => Some(admin.runs.run(&id).await?.without_details()),
        None => None,
    };
    Ok(ApiJson(BenchmarkBaseline { benchmark, run }))
}

fn parse_state(text: &str) -> Result<RunState, ApiError> {
    let states = [RunState::Running, RunState::Done, RunState::Aborted, RunState::Failed];
    states.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let known = states.map(RunState::as_str).join(", ");
        let detail = format!("unknown state `{text}` of a run (expected {known})");
        ApiError::new(ApiErrorKind::InvalidState, detail)
    })
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> ApiError {
        let kind = match error {
            HistoryError::Store(_) | HistoryError::Ended => ApiErrorKind::StoreUnavailable,
            HistoryError::UnknownRun(_) => ApiErrorKind::UnknownRun,
            HistoryError::NoBaseline(_) => ApiErrorKind::NoBaseline,
            HistoryError::NotDone(..) | HistoryError::NoCalls(_) => ApiErrorKind::RunState,
            HistoryError::OtherBenchmark(..) | HistoryError::TooManyBaselines(_) => {
                ApiErrorKind::InvalidBaseline
            }
            HistoryError::Damaged { .. } => ApiErrorKind::DamagedRun,
        };
        ApiError::new(kind, error.to_string())
    }
}
