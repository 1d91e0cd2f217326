//! `/api/queue/jobs`: what lies in the store, and what an operator does about it.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Shown;
use super::auth::problem;
use super::overrides::Asked;
use crate::clock;
use crate::store::{self, JobFilter, JobId, Millis, Store, StoreError};
use crate::telemetry::events::rfc3339;

const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1000;

/// An answer that says no.
pub(super) type Refusal = Box<Response>;

#[derive(Debug, Serialize)]
struct Job {
    id: String,
    queue: String,
    route: String,
    class: String,
    state: &'static str,
    method: String,
    /// Without its query.
    path: String,
    bytes: u64,
    /// Runs that failed.
    attempts: u32,
    /// Times that it was begun.
    deliveries: u32,
    accepted: String,
    age_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<Callback>,
}

#[derive(Debug, Serialize)]
struct Callback {
    url: String,
    state: String,
    attempts: u32,
}

#[derive(Debug, Serialize)]
struct Page {
    jobs: Vec<Job>,
    /// `before` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// What is asked of a list; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    queue: Option<String>,
    state: Option<String>,
    before: Option<i64>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Changed {
    changed: usize,
}

/// `GET /api/queue/jobs?queue=&state=&limit=&before=`: the newest first.
pub async fn list(
    State(shown): State<Arc<Shown>>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let listed = async {
        let store = kept(&shown)?;
        let Query(wanted) = wanted.map_err(|error| {
            let detail = format!("{error} (expected queue, state, limit, before)");
            refusal(StatusCode::BAD_REQUEST, "bad_query", &detail)
        })?;
        let limit = wanted.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
        let state = state_of(wanted.state.as_deref())?;
        let filter = JobFilter { queue: wanted.queue, state, before: wanted.before, limit };
        let found = store.list(filter).await.map_err(|failure| lost(&failure))?;
        let next = (found.len() == limit).then(|| found.last().map(|job| job.seq)).flatten();
        let jobs = found.into_iter().map(Job::of).collect();
        Ok(Json(Page { jobs, next }).into_response())
    };
    listed.await.unwrap_or_else(|refusal: Refusal| *refusal)
}

/// `GET /api/queue/jobs/{id}`.
pub async fn one(State(shown): State<Arc<Shown>>, Path(id): Path<String>) -> Response {
    found(&shown, &id).await.unwrap_or_else(|refusal| *refusal)
}

async fn found(shown: &Shown, id: &str) -> Result<Response, Refusal> {
    let store = kept(shown)?;
    let id = id_of(id)?;
    let job = store.job(id).await.map_err(|failure| lost(&failure))?;
    Ok(Json(Job::of(job.ok_or_else(|| unknown(id))?)).into_response())
}

/// `POST /api/queue/jobs/{cancel|retry}/{id}`.
pub async fn change(
    State(shown): State<Arc<Shown>>,
    Path((action, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let changed = async {
        let asked = Asked::read(&headers, &body)?;
        let store = kept(&shown)?;
        let id = id_of(&id)?;
        let now = Millis::of(clock::wall());
        let (what, stood) = match action.as_str() {
            "cancel" => ("job_cancel", store.cancel(id, None, now).await),
            "retry" => {
                let retried = store.retry(id, now).await;
                ("job_retry", retried.map(|found| found.map(|(state, _)| state)))
            }
            _ => {
                let detail = format!("`{action}` is no action (expected cancel or retry)");
                return Err(refusal(StatusCode::NOT_FOUND, "no_action", &detail));
            }
        };
        let stood = stood.map_err(|failure| lost(&failure))?.ok_or_else(|| unknown(id))?;
        let did = match action.as_str() {
            "cancel" => !stood.is_final(),
            _ => matches!(stood, store::JobState::Dead | store::JobState::RetryWait),
        };
        if !did {
            let detail = format!("{id} is {}: there is nothing to {action}", stood.as_str());
            return Err(refusal(StatusCode::CONFLICT, "job_state", &detail));
        }
        shown.audit(what, &id.to_string(), &asked);
        found(&shown, &id.to_string()).await
    };
    changed.await.unwrap_or_else(|refusal| *refusal)
}

/// `POST /api/queue/requeue/{name}`: its dead run again; `POST /api/queue/purge/{name}?state=dead`:
/// what is over is forgotten.
pub(super) async fn sweep(
    shown: &Shown,
    action: &str,
    queue: &str,
    state: Option<&str>,
    asked: &Asked,
) -> Result<Response, Refusal> {
    let store = kept(shown)?;
    let state = state_of(state)?.unwrap_or(store::JobState::Dead);
    if !state.is_final() {
        let detail = format!("`{}` is not over (cancel such jobs one by one)", state.as_str());
        return Err(refusal(StatusCode::BAD_REQUEST, "bad_state", &detail));
    }
    let mut changed = 0;
    loop {
        let now = Millis::of(clock::wall());
        let some = match action {
            "requeue" => store.requeue(queue.to_owned(), now).await,
            _ => store.purge(queue.to_owned(), state).await,
        };
        match some.map_err(|failure| lost(&failure))? {
            0 => break,
            some => changed += some,
        }
    }
    let what = if action == "requeue" { "queue_requeue" } else { "queue_purge" };
    shown.audit(what, queue, asked);
    Ok(Json(Changed { changed }).into_response())
}

fn refusal(status: StatusCode, name: &str, detail: &str) -> Refusal {
    Box::new(problem(status, name, detail))
}

fn kept(shown: &Shown) -> Result<&Store, Refusal> {
    shown.store.as_ref().ok_or_else(|| {
        let detail = "this sidecar keeps no jobs (run it with --data DIR)";
        refusal(StatusCode::NOT_FOUND, "no_store", detail)
    })
}

fn state_of(text: Option<&str>) -> Result<Option<store::JobState>, Refusal> {
    let state = text.map(str::parse).transpose();
    state.map_err(|error: String| refusal(StatusCode::BAD_REQUEST, "bad_state", &error))
}

fn id_of(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|error: String| refusal(StatusCode::NOT_FOUND, "no_job", &error))
}

fn unknown(id: JobId) -> Refusal {
    refusal(StatusCode::NOT_FOUND, "no_job", &format!("there is no job {id}"))
}

fn lost(failure: &StoreError) -> Refusal {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "store", &failure.to_string())
}

impl Job {
    fn of(job: store::JobRecord) -> Job {
        let time = |at: Millis| rfc3339(at.time());
        let path = job.uri.split('?').next().unwrap_or_default().to_owned();
        let age = job.accepted.until(Millis::of(clock::wall()));
        Job {
            id: job.id.to_string(),
            queue: job.queue,
            route: job.route,
            class: job.class,
            state: job.state.as_str(),
            method: job.method,
            path,
            bytes: job.bytes,
            attempts: job.attempts,
            deliveries: job.deliveries,
            accepted: time(job.accepted),
            age_ms: age.as_millis() as u64,
            due: job.due.map(time),
            expires: time(job.expires),
            finished: job.finished.map(time),
            error: job.error,
            callback: job.callback.map(|callback| Callback {
                url: callback.url.split('?').next().unwrap_or_default().to_owned(),
                state: callback.state,
                attempts: callback.attempts,
            }),
        }
    }
}
