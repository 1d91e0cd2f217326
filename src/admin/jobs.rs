//! `/api/queue/jobs`: durable jobs in the store, and the changes that an operator makes to them.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Action, Change, PathName, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiQuery, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::store::{self, JobFilter, JobId, Millis, Store, StoreError};
use crate::telemetry::events::rfc3339;

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 1000;
const FINAL: &str = "a change of jobs is final";
const OF_JOB: [ApiErrorKind; 3] =
    [ApiErrorKind::NoStore, ApiErrorKind::UnknownJob, ApiErrorKind::StoreUnavailable];
const OF_SWEEP: [ApiErrorKind; 3] =
    [ApiErrorKind::NoStore, ApiErrorKind::UnknownQueue, ApiErrorKind::StoreUnavailable];

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobPage {
    /// Newest first.
    pub jobs: Vec<JobStatus>,
    /// The `before` of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobStatus {
    pub id: String,
    pub queue: String,
    pub route: String,
    pub class: String,
    /// `ready`, `retry_wait`, `leased` (running), `done`, `dead`, `expired` or `cancelled`.
    pub state: String,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Size of the request body.
    pub bytes: u64,
    /// Runs that failed.
    pub attempts: u32,
    /// Runs that started.
    pub deliveries: u32,
    /// RFC 3339, like the other times.
    pub accepted: String,
    pub age_ms: u64,
    /// Start of the next run, for a job that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    pub expires: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The error of the last run that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<JobCallbackStatus>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobCallbackStatus {
    /// Without the query.
    pub url: String,
    pub state: String,
    pub attempts: u32,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobsChanged {
    /// Number of jobs.
    pub changed: usize,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ListQuery {
    /// Only jobs of this queue.
    queue: Option<String>,
    /// Only jobs in this state.
    state: Option<String>,
    /// The `next` of the previous page.
    before: Option<i64>,
    /// Jobs of a page: 50 by default, at most 1,000.
    limit: Option<usize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct PurgeQuery {
    /// A final state; `dead` by default.
    state: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAction {
    Cancel,
    Retry,
}

/// A change of many jobs.
#[derive(Clone, Copy, Debug)]
enum Sweep {
    Requeue,
    Purge(store::JobState),
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<JobPage, _>(
            "/api/queue/jobs",
            "Lists jobs, newest first.",
            list,
        )
        .query::<ListQuery>()
        .errors(&[ApiErrorKind::NoStore, ApiErrorKind::InvalidState, ApiErrorKind::StoreUnavailable])
        .get::<JobStatus, _>("/api/queue/jobs/{id}", "Reports one job.", show)
        .in_path("id", "The id of a job.")
        .errors(&OF_JOB)
        .post::<JobStatus, _>(
            "/api/queue/jobs/{action}/{id}",
            "`cancel` ends a job that is not finished. `retry` runs a job again that is dead or waits \
             for its next run. 409 when the job is in another state.",
            change,
        )
        .actions::<JobAction>("id", "The id of a job.")
        .change()
        .errors(&OF_JOB)
        .errors(&[ApiErrorKind::JobState])
        .post::<JobsChanged, _>(
            "/api/queue/requeue/{name}",
            "Runs the dead jobs of a queue again.",
            requeue,
        )
        .in_path("name", "The name of a queue.")
        .change()
        .errors(&OF_SWEEP)
        .post::<JobsChanged, _>(
            "/api/queue/purge/{name}",
            "Deletes the finished jobs of a queue that are in one state.",
            purge,
        )
        .in_path("name", "The name of a queue.")
        .query::<PurgeQuery>()
        .change()
        .errors(&OF_SWEEP)
        .errors(&[ApiErrorKind::InvalidState])
}

async fn list(
    State(admin): State<Arc<AdminState>>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<ApiJson<JobPage>, ApiError> {
    let store = admin.job_store()?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let state = query.state.as_deref().map(parse_state).transpose()?;
    let filter = JobFilter { queue: query.queue, state, before: query.before, limit };
    let found = store.list(filter).await.map_err(|failure| unavailable(&failure))?;
    let next = (found.len() == limit).then(|| found.last().map(|job| job.seq)).flatten();
    Ok(ApiJson(JobPage { jobs: found.into_iter().map(JobStatus::new).collect(), next }))
}

async fn show(
    State(admin): State<Arc<AdminState>>,
    PathName(id): PathName,
) -> Result<ApiJson<JobStatus>, ApiError> {
    admin.job(parse_id(&id)?).await.map(ApiJson)
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name }: Target<JobAction>,
    change: Change,
) -> Result<ApiJson<JobStatus>, ApiError> {
    let store = admin.job_store()?;
    let id = parse_id(&name)?;
    let now = Millis::of(clock::wall());
    let before = match action {
        JobAction::Cancel => store.cancel(id, None, now).await,
        JobAction::Retry => store.retry(id, now).await.map(|found| found.map(|(state, _)| state)),
    };
    let before = before.map_err(|failure| unavailable(&failure))?;
    let before = before.ok_or_else(|| unknown_job(id))?;
    let applies = match action {
        JobAction::Cancel => !before.is_final(),
        JobAction::Retry => matches!(before, store::JobState::Dead | store::JobState::RetryWait),
    };
    if !applies {
        let state = before.as_str();
        let detail = format!("job {id} is {state}: there is nothing to {}", action.as_str());
        return Err(ApiError::new(ApiErrorKind::JobState, detail));
    }
    admin.audit(action.audit_name(), &id.to_string(), &change);
    admin.job(id).await.map(ApiJson)
}

async fn requeue(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    change: Change,
) -> Result<ApiJson<JobsChanged>, ApiError> {
    let changed = admin.sweep(Sweep::Requeue, &name, &change).await?;
    admin.audit("queue_requeue", &name, &change);
    Ok(ApiJson(changed))
}

async fn purge(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    ApiQuery(query): ApiQuery<PurgeQuery>,
    change: Change,
) -> Result<ApiJson<JobsChanged>, ApiError> {
    let state = query.state.as_deref().map(parse_state).transpose()?;
    let state = state.unwrap_or(store::JobState::Dead);
    if !state.is_final() {
        let detail = format!("`{}` is not a final state (cancel such jobs by id)", state.as_str());
        return Err(ApiError::new(ApiErrorKind::InvalidState, detail));
    }
    let changed = admin.sweep(Sweep::Purge(state), &name, &change).await?;
    admin.audit("queue_purge", &name, &change);
    Ok(ApiJson(changed))
}

impl Action for JobAction {
    const NAMES: &'static [(Self, &'static str, &'static str)] =
        &[(JobAction::Cancel, "cancel", "job_cancel"), (JobAction::Retry, "retry", "job_retry")];
}

impl AdminState {
    fn job_store(&self) -> Result<&Store, ApiError> {
        self.store.as_ref().ok_or_else(|| {
            let detail = "this sidecar keeps no jobs (start it with --data DIR)";
            ApiError::new(ApiErrorKind::NoStore, detail)
        })
    }

    async fn job(&self, id: JobId) -> Result<JobStatus, ApiError> {
        let job = self.job_store()?.job(id).await.map_err(|failure| unavailable(&failure))?;
        job.map(JobStatus::new).ok_or_else(|| unknown_job(id))
    }

    /// The store changes a bounded number of jobs in one transaction; this repeats until none is left.
    async fn sweep(
        &self,
        sweep: Sweep,
        queue: &str,
        change: &Change,
    ) -> Result<JobsChanged, ApiError> {
        change.without_end(FINAL)?;
        change.on_this_host()?;
        self.find_queue(&self.current.load_full(), queue)?;
        let store = self.job_store()?;
        let mut changed = 0;
        loop {
            let step = match sweep {
                Sweep::Requeue => store.requeue(queue.to_owned(), Millis::of(clock::wall())).await,
                Sweep::Purge(state) => store.purge(queue.to_owned(), state).await,
            };
            match step.map_err(|failure| unavailable(&failure))? {
                0 => return Ok(JobsChanged { changed }),
                step => changed += step,
            }
        }
    }
}

fn parse_state(text: &str) -> Result<store::JobState, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(ApiErrorKind::InvalidState, error))
}

fn parse_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(ApiErrorKind::UnknownJob, error))
}

fn unknown_job(id: JobId) -> ApiError {
    ApiError::new(ApiErrorKind::UnknownJob, format!("there is no job {id}"))
}

fn unavailable(failure: &StoreError) -> ApiError {
    ApiError::new(ApiErrorKind::StoreUnavailable, failure.to_string())
}

impl JobStatus {
    fn new(job: store::JobRecord) -> JobStatus {
        let time = |at: Millis| rfc3339(at.time());
        let without_query = |uri: &str| uri.split('?').next().unwrap_or_default().to_owned();
        let age = job.accepted.until(Millis::of(clock::wall()));
        JobStatus {
            id: job.id.to_string(),
            queue: job.queue,
            route: job.route,
            class: job.class,
            state: job.state.as_str().to_owned(),
            method: job.method,
            path: without_query(&job.uri),
            bytes: job.bytes,
            attempts: job.attempts,
            deliveries: job.deliveries,
            accepted: time(job.accepted),
            age_ms: age.as_millis() as u64,
            due: job.due.map(time),
            expires: time(job.expires),
            finished: job.finished.map(time),
            error: job.error,
            callback: job.callback.map(|callback| JobCallbackStatus {
                url: without_query(&callback.url),
                state: callback.state.as_str().to_owned(),
                attempts: callback.attempts,
            }),
        }
    }
}
