//! `/api/benchmarks`: the declared benchmarks, and starting, following and stopping a run.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::change::{Change, PathName, read_json, unreadable_body};
use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::routes::{ApiJson, ApiRoutes};
use crate::admin::state::AdminState;
use crate::benchmark::report::{BenchmarkList, BenchmarkStatus, RunReport, RunTrigger};
use crate::benchmark::run::plan::label;
use crate::benchmark::runner::{RunRefused, RunRequest};
use crate::policy::sections::model::{BenchmarkPolicy, Policy};
use crate::store::benchmark_runs::RunFilter;
use crate::telemetry::events::rfc3339;

/// The body of a start. Each field is optional.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunStart {
    /// With `b`, two targets like `provider:openai` or `route:chat` that are measured alternately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
    /// The operator's name, for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason, for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Errors of reading stored runs.
pub(super) const OF_STORE: [ApiErrorKind; 2] =
    [ApiErrorKind::StoreUnavailable, ApiErrorKind::DamagedRun];

const EXPECTED: &str = r#"{"a": "provider:x", "b": "provider:y"}, each field optional"#;

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<BenchmarkList, _>(
            "/api/benchmarks",
            "Lists the benchmarks of the policy, each with its last run.",
            list,
        )
        .errors(&OF_STORE)
        .post::<RunReport, _>(
            "/api/benchmarks/{name}/runs",
            "Starts a run (201). With `a` and `b` in the body, two targets like `provider:openai` \
             are measured alternately. 409 while another run is under way, or the target is \
             drained, on hold or its breaker open.",
            start,
        )
        .in_path("name", "The name of a benchmark.")
        .optional_body::<RunStart>()
        .status(StatusCode::CREATED)
        .errors(&[
            ApiErrorKind::UnknownBenchmark,
            ApiErrorKind::UnknownTarget,
            ApiErrorKind::BenchmarkRunning,
            ApiErrorKind::TargetUnavailable,
            ApiErrorKind::BenchmarkFailed,
        ])
        .get::<RunReport, _>(
            "/api/benchmarks/runs/{id}",
            "Returns a run, with its figures so far while it is under way.",
            one,
        )
        .in_path("id", "The id of a run.")
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::UnknownRun])
        .delete::<RunReport, _>(
            "/api/benchmarks/runs/{id}",
            "Stops a run that is under way; it ends as `aborted`.",
            stop,
        )
        .in_path("id", "The id of a run.")
        .change()
        .errors(&OF_STORE)
        .errors(&[ApiErrorKind::UnknownRun])
}

async fn list(State(admin): State<Arc<AdminState>>) -> Result<ApiJson<BenchmarkList>, ApiError> {
    let snapshot = admin.current.load_full();
    let policy = &snapshot.policy;
    let mut benchmarks = Vec::with_capacity(policy.benchmarks.len());
    for benchmark in &policy.benchmarks {
        benchmarks.push(status(&admin, policy, benchmark).await?);
    }
    Ok(ApiJson(BenchmarkList { benchmarks }))
}

async fn start(
    State(admin): State<Arc<AdminState>>,
    PathName(benchmark): PathName,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, ApiJson<RunReport>), ApiError> {
    let body = body.map_err(|rejection| unreadable_body(&rejection))?;
    let body: RunStart = match body.is_empty() {
        true => RunStart::default(),
        false => read_json(&headers, &body, EXPECTED)?,
    };
    let targets = match (body.a, body.b) {
        (Some(a), Some(b)) => Some([a, b]),
        (None, None) => None,
        _ => {
            let detail = "one target alone (send both `a` and `b`, or neither)";
            return Err(ApiError::new(ApiErrorKind::InvalidBody, detail));
        }
    };
    let request = RunRequest { benchmark, trigger: RunTrigger::Operator, targets };
    let report = admin.benchmarks.start(&request).map_err(|why| refusal(&admin, why))?;
    let change = Change::by(body.by, body.reason);
    admin.audit("benchmark_start", &request.benchmark, &change);
    Ok((StatusCode::CREATED, ApiJson(report)))
}

fn refusal(admin: &AdminState, why: RunRefused) -> ApiError {
    let kind = match &why {
        RunRefused::Unknown(_) => {
            let snapshot = admin.current.load();
            let known = snapshot.policy.benchmarks.iter().map(|one| one.name.clone());
            return ApiError::unknown(ApiErrorKind::UnknownBenchmark, &why.to_string(), known);
        }
        RunRefused::Target(_) => ApiErrorKind::UnknownTarget,
        RunRefused::Busy(_) => ApiErrorKind::BenchmarkRunning,
        RunRefused::Obstacle(_) => ApiErrorKind::TargetUnavailable,
        RunRefused::System(_) => ApiErrorKind::BenchmarkFailed,
    };
    ApiError::new(kind, why.to_string())
}

async fn one(
    State(admin): State<Arc<AdminState>>,
    PathName(id): PathName,
) -> Result<ApiJson<RunReport>, ApiError> {
    match admin.benchmarks.report(&id) {
        Some(report) => Ok(ApiJson(report)),
        None => Ok(ApiJson(admin.runs.run(&id).await?)),
    }
}

async fn stop(
    State(admin): State<Arc<AdminState>>,
    PathName(id): PathName,
    change: Change,
) -> Result<ApiJson<RunReport>, ApiError> {
    change.without_end("a stop is final")?;
    change.on_this_host()?;
    if let Some(report) = admin.benchmarks.stop(&id, "stopped by an operator") {
        admin.audit("benchmark_stop", &report.benchmark, &change);
        return Ok(ApiJson(report));
    }
    // It has ended already.
    one(State(admin), PathName(id)).await
}

async fn status(
    admin: &AdminState,
    policy: &Policy,
    benchmark: &BenchmarkPolicy,
) -> Result<BenchmarkStatus, ApiError> {
    let last = match admin.benchmarks.last(&benchmark.name) {
        Some(last) => Some(last),
        None => {
            let name = Some(benchmark.name.clone());
            let filter = RunFilter { benchmark: name, state: None, before: None, limit: 1 };
            admin.runs.list(filter).await?.runs.pop()
        }
    };
    let thresholds = benchmark.thresholds.iter();
    Ok(BenchmarkStatus {
        name: benchmark.name.clone(),
        target: label(policy, &benchmark.target),
        load: benchmark.load.text(),
        thresholds: thresholds.map(|threshold| threshold.text.clone()).collect(),
        every: benchmark.every.map(|every| every.as_secs_f64()),
        next: admin.schedule.due_at(&benchmark.name).map(rfc3339),
        location: benchmark.location.clone(),
        last,
        baseline: admin.runs.baseline(&benchmark.name).await?,
    })
}
