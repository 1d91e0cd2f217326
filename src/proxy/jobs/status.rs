//! `/.outrigger/jobs/{id}` on the listener: the result of a job, for the caller that created it.
//!
//! `GET` returns the stored response of the provider, or 202 while there is none; with
//! `Prefer: wait=N` it waits for the response. `DELETE` cancels the job. The job of another caller is
//! reported as not found.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri};

use super::accept::{OURS, pending, principal, store_problem};
use super::preference::Preferences;
use crate::clock;
use crate::credentials::identity::CallerIdentity;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::headers;
use crate::proxy::response::body::ResponseBody;
use crate::store::{JobId, JobRecord, JobState, Millis, Principal, Store, StoredResponse};

const JOB: HeaderName = HeaderName::from_static("outrigger-job");
const CUT: HeaderName = HeaderName::from_static("outrigger-cut");

/// Responds to a request below `/.outrigger/`.
///
/// # Errors
/// The problem to respond with.
pub async fn ours(
    store: Option<&Store>,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
) -> Result<Response<ResponseBody>, Problem> {
    let path = target.path();
    let nothing = || Problem::new(ProblemKind::NotFound, format!("there is no resource at {path}"));
    let id = path.strip_prefix(OURS).ok_or_else(nothing)?;
    let id: JobId = id.parse().map_err(|error| Problem::new(ProblemKind::JobNotFound, error))?;
    let store = store.ok_or_else(|| unknown(id))?;
    let principal = principal(store, &CallerIdentity::of(headers, target));
    match *method {
        Method::GET | Method::HEAD => {
            if let Some(wait) = Preferences::read(headers)?.wait {
                wait_for(store, id, principal, wait).await?;
            }
            state_or_result(store, id, principal).await
        }
        Method::DELETE => cancel(store, id, principal).await,
        _ => Err(Problem::new(
            ProblemKind::NotFound,
            format!("{method} {path} is not supported (expected GET or DELETE)"),
        )),
    }
}

fn unknown(id: JobId) -> Problem {
    let detail = format!("{id} (results are kept for the time in the queue's durable.keep_result)");
    Problem::new(ProblemKind::JobNotFound, detail)
}

async fn find(store: &Store, id: JobId, principal: Principal) -> Result<JobRecord, Problem> {
    let job = store.job(id).await.map_err(|failure| store_problem(&failure))?;
    job.filter(|job| job.principal == principal).ok_or_else(|| unknown(id))
}

async fn wait_for(
    store: &Store,
    id: JobId,
    principal: Principal,
    wait: Duration,
) -> Result<(), Problem> {
    let over = store.watch(id);
    let job = find(store, id, principal).await;
    if job.as_ref().is_ok_and(|job| !job.state.is_final()) {
        let _ = tokio::time::timeout(wait, over).await;
    }
    job.map(|_| ())
}

/// The state or the result of a job.
///
/// # Errors
/// The problem to respond with.
pub async fn state_or_result(
    store: &Store,
    id: JobId,
    principal: Principal,
) -> Result<Response<ResponseBody>, Problem> {
    let job = find(store, id, principal).await?;
    let last = || job.error.clone().unwrap_or_else(|| "no error was recorded".to_owned());
    match job.state {
        JobState::Done => {
            let response =
                store.response(job.seq).await.map_err(|failure| store_problem(&failure))?;
            response.map(|response| result(id, response)).ok_or_else(|| unknown(id))
        }
        JobState::Dead => Err(Problem::new(ProblemKind::JobFailed, format!("{id}: {}", last()))),
        JobState::Expired => Err(Problem::new(
            ProblemKind::JobExpired,
            format!("{id} (see the queue's durable.expire); last error: {}", last()),
        )),
        JobState::Cancelled => Err(Problem::new(ProblemKind::JobCancelled, id.to_string())),
        state @ (JobState::Ready | JobState::RetryWait | JobState::Leased) => {
            Ok(pending(id, state))
        }
    }
}

/// The stored response of the provider.
fn result(id: JobId, stored: StoredResponse) -> Response<ResponseBody> {
    let StoredResponse { status, headers, body, cut } = stored;
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = headers::of_lines(&headers);
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(JOB, id);
    }
    if cut {
        // The client must not take the truncated body for the complete one.
        response.headers_mut().insert(CUT, HeaderValue::from_static("max_result"));
    }
    response
}

async fn cancel(
    store: &Store,
    id: JobId,
    principal: Principal,
) -> Result<Response<ResponseBody>, Problem> {
    let now = Millis::of(clock::wall());
    let stood =
        store.cancel(id, Some(principal), now).await.map_err(|failure| store_problem(&failure))?;
    match stood {
        None => Err(unknown(id)),
        Some(JobState::Cancelled) => Ok(no_content()),
        Some(state) if state.is_final() => {
            Err(Problem::new(ProblemKind::JobFinished, format!("{id} is {}", state.as_str())))
        }
        Some(_) => Ok(no_content()),
    }
}

fn no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
