//! Enqueue: a request becomes a job (RFC 7240, RFC 9110 15.3.3).
//!
//! The 202 is sent after the job is committed. The stored job contains no credential, only a keyed
//! hash of the client's credentials, so that only the caller that created a job can read it
//! (docs/design/credentials.md).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::preference::{AsyncPreference, PREFER};
use super::status;
use crate::clock;
use crate::credentials::identity::CallerIdentity;
use crate::credentials::{is_carrier, query, values};
use crate::proxy::access_log::reasons::NotReplayable;
use crate::proxy::access_log::reasons::RequestEnd;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::head::IDEMPOTENCY_KEY;
use crate::proxy::request::headers;
use crate::proxy::response::body::ResponseBody;
use crate::snapshot::RouteQueue;
use crate::store::{
    EnqueueResult, IdempotencyKey, JobId, JobState, Millis, NewJob, Principal, QueueFull,
    QueueLimits, Store, StoreError, StoredRequest,
};

pub const OURS: &str = "/.outrigger/jobs/";
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// `Retry-After` for a job that is not done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// `Retry-After` when the queue is full.
const FULL: Duration = Duration::from_secs(10);

/// Enqueues the request and responds.
pub async fn become_job(
    mut request: Box<ProxyRequest>,
    preference: Box<AsyncPreference>,
    store: Store,
) -> Response<ResponseBody> {
    let wait = preference.wait;
    let preferred = preference.preferred;
    // The runs of the job have the id of the request.
    request.record.request_id.add_to_request(request.head.headers_mut());
    if let Some(trace) = &request.record.trace {
        trace.add_to(request.head.headers_mut());
    }
    let mut response = match accept(&mut request, *preference, &store, wait).await {
        Ok(response) => response,
        Err(problem) => {
            let kind = problem.kind;
            finish(&mut request, problem.kind.status(), RequestEnd::LocalResponse(kind), 0);
            return problem.into_response_to(&request.record.request_id).map(ResponseBody::full);
        }
    };
    if preferred && let Some(applied) = applied(response.status(), wait) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    request.record.request_id.add_to(response.headers_mut());
    let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    finish(&mut request, response.status(), RequestEnd::Complete, size);
    response
}

fn finish(request: &mut ProxyRequest, status: StatusCode, end: RequestEnd, bytes_out: u64) {
    request.record.bytes_in = request.body.len();
    request.record.bytes_out = bytes_out;
    request.record.status = status.as_u16();
    request.record.finish(end);
}

async fn accept(
    request: &mut ProxyRequest,
    preference: AsyncPreference,
    store: &Store,
    wait: Option<Duration>,
) -> Result<Response<ResponseBody>, Problem> {
    let route = Arc::clone(&request.route);
    let Some(queue) = &route.queue else {
        let detail = format!("route `{}` has no queue, which jobs need", route.policy.name);
        return Err(Problem::new(ProblemKind::StoreUnavailable, detail));
    };
    let job = Arc::new(new_job(request, preference, queue, store)?);
    let (id, principal) = (job.id, job.principal);
    let over = wait.map(|_| store.watch(id));
    let now = Millis::of(clock::wall());
    let limits = &queue.policy.durable;
    let limits = QueueLimits { jobs: limits.max_jobs, bytes: limits.max_bytes };
    let accepted =
        store.enqueue(job, limits, now).await.map_err(|failure| store_problem(&failure))?;
    request.record.job = match &accepted {
        EnqueueResult::New => Some(id),
        EnqueueResult::Known(known, _) => Some(*known),
        EnqueueResult::OtherRequest | EnqueueResult::Full(_) => None,
    };
    match accepted {
        EnqueueResult::New => {
            if let (Some(wait), Some(over)) = (wait, over)
                && tokio::time::timeout(wait, over).await.is_ok()
            {
                return status::state_or_result(store, id, principal).await;
            }
            Ok(pending(id, JobState::Ready))
        }
        EnqueueResult::Known(id, state) => respond_to_duplicate(store, id, state, principal).await,
        EnqueueResult::OtherRequest => Err(Problem::new(
            ProblemKind::IdempotencyKeyReused,
            "an earlier request with this key had another method, path or body (give each request its own key)",
        )),
        EnqueueResult::Full(full) => Err(jobs_full(&queue.policy.name, &full)),
    }
}

fn jobs_full(queue: &str, full: &QueueFull) -> Problem {
    let detail = match full {
        QueueFull::Jobs(jobs) => {
            format!("queue `{queue}` already has {jobs} jobs (see its durable.max_jobs)")
        }
        QueueFull::Bytes(bytes) => {
            format!("queue `{queue}` already has {bytes} bytes of jobs (see its durable.max_bytes)")
        }
    };
    Problem::new(ProblemKind::JobsFull, detail).retry_after(Some(FULL))
}

/// The job to store.
fn new_job(
    request: &ProxyRequest,
    preference: AsyncPreference,
    queue: &RouteQueue,
    store: &Store,
) -> Result<NewJob, Problem> {
    let body = request.body.complete().ok_or_else(|| not_whole(request))?;
    let now = Millis::of(clock::wall());
    let chance = clock::secret().map_err(|error| {
        Problem::new(
            ProblemKind::StoreUnavailable,
            format!("the system provided no random number: {error}"),
        )
    })?;
    let uri = request.head.uri().path_and_query().map_or("/", |uri| uri.as_str());
    let uri = query::target_without_credentials(uri).into_owned();
    let method = request.head.method().as_str().to_owned();
    let key = request.head.headers().get(IDEMPOTENCY_KEY).map(|key| IdempotencyKey {
        text: String::from_utf8_lossy(key.as_bytes()).into_owned(),
        fingerprint: fingerprint(&method, &uri, &body),
    });
    let class = queue.policy.classes.get(request.limits.class()).map(|class| class.name.clone());
    let durable = &queue.policy.durable;
    Ok(NewJob {
        id: JobId::new(now, chance),
        queue: queue.policy.name.clone(),
        route: request.route.policy.name.clone(),
        class: class.unwrap_or_default(),
        flow: stored_flow(store, preference.flow),
        principal: principal(store, request.head.identity()),
        key,
        request: StoredRequest {
            method,
            uri,
            headers: encode_stored_headers(request.head.headers()),
            body,
        },
        callback: preference.callback,
        expires: now.after(durable.expire),
        keep: durable.keep_result,
    })
}

fn not_whole(request: &ProxyRequest) -> Problem {
    match request.record.not_replayable {
        Some(NotReplayable::BuffersFull) => Problem::new(
            ProblemKind::StoreUnavailable,
            "all buffers are in use (see server.buffered)",
        )
        .retry_after(Some(LOOK_AGAIN)),
        Some(NotReplayable::Trailers) => Problem::new(
            ProblemKind::BadRequest,
            "a job cannot have trailers (send the request without them)",
        ),
        _ => {
            let (name, most) = (&request.route.policy.name, request.route.policy.replay);
            let detail =
                format!("route `{name}` stores bodies of up to {most} bytes (see its `replay`)");
            Problem::new(ProblemKind::JobTooLarge, detail)
        }
    }
}

/// The response for a job that was enqueued before with the same Idempotency-Key.
async fn respond_to_duplicate(
    store: &Store,
    id: JobId,
    state: Option<JobState>,
    principal: Principal,
) -> Result<Response<ResponseBody>, Problem> {
    match state {
        Some(state @ (JobState::Ready | JobState::RetryWait)) => Ok(pending(id, state)),
        Some(JobState::Leased) => {
            let detail = format!("its result will be at {OURS}{id}");
            Err(Problem::new(ProblemKind::JobRunning, detail).retry_after(Some(LOOK_AGAIN)))
        }
        _ => status::state_or_result(store, id, principal).await,
    }
}

/// 202: the job is accepted and not done.
pub fn pending(id: JobId, state: JobState) -> Response<ResponseBody> {
    let location = format!("{OURS}{id}");
    let text = json!({ "id": id.to_string(), "state": state.as_str(), "location": location });
    let mut response = Response::new(ResponseBody::full(Bytes::from(text.to_string())));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(RETRY_AFTER, HeaderValue::from(LOOK_AGAIN.as_secs()));
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    response
}

fn applied(status: StatusCode, wait: Option<Duration>) -> Option<HeaderValue> {
    match (status, wait) {
        (StatusCode::ACCEPTED, _) => Some(HeaderValue::from_static("respond-async")),
        (_, Some(wait)) => HeaderValue::try_from(format!("wait={}", wait.as_secs())).ok(),
        (_, None) => None,
    }
}

/// The problem for a failure of the store.
pub fn store_problem(failure: &StoreError) -> Problem {
    Problem::new(ProblemKind::StoreUnavailable, failure.to_string()).retry_after(Some(FULL))
}

/// The principal of a caller; all callers without credentials share one.
pub fn principal(store: &Store, identity: &CallerIdentity) -> Principal {
    keyed(store, identity.as_bytes())
}

fn keyed(store: &Store, bytes: &[u8]) -> Principal {
    // HMAC accepts a key of any length (RFC 2104).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(store.principal_key()) else {
        return Principal::default();
    };
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// The value of the flow's header. Only equality matters, so a credential is stored as its hash.
fn stored_flow(store: &Store, flow: Vec<u8>) -> Vec<u8> {
    match values::is_credential(&flow) {
        true => keyed(store, &flow).to_vec(),
        false => flow,
    }
}

fn fingerprint(method: &str, uri: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), uri.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The headers to store, without credentials and hop-by-hop headers.
fn encode_stored_headers(headers: &HeaderMap) -> Vec<u8> {
    let goes = |name: &HeaderName, value: &HeaderValue| {
        !is_carrier(name, value) && !headers::FRAMES.contains(name) && *name != PREFER
    };
    headers::lines(headers.iter().filter(|(name, value)| goes(name, value)))
}
