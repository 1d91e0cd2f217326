//! One run of a job: the same admission and attempts as for a request.
//!
//! Admission and run are separate steps, because a run is stored before it begins; an admitted job
//! keeps its permit meanwhile. A job that is not admitted has not run, so it loses no attempt
//! (docs/design/queue.md "Runs").

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderValue, Method, Uri};
use http_body_util::BodyExt;

use crate::clock;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::report::sample;
use crate::proxy::attempt::retry::next_attempt;
use crate::proxy::attempt::select::Selection;
use crate::proxy::degradation::apply::degrade_job;
use crate::proxy::dispatch::attempts;
use crate::proxy::downstream::problem::Problem;
use crate::proxy::downstream::request_id::RequestId;
use crate::proxy::downstream::worker::Worker;
use crate::proxy::request::body::RequestBody;
use crate::proxy::request::head::{IDEMPOTENCY_KEY, RequestHead};
use crate::proxy::request::headers;
use crate::proxy::response::body::ResponseBody;
use crate::proxy::response::send::send;
use crate::proxy::signals::quota_headers;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::{Route, RouteQueue};
use crate::store::{RunnableJob, StoredResponse};
use crate::telemetry::panics::{Contained, PanicId};

/// The pause before the next run if no other time is known.
const A_WHILE: Duration = Duration::from_secs(1);

/// A job with a permit of a provider.
#[derive(Debug)]
pub struct Admitted {
    request: Box<ProxyRequest>,
    selection: Box<Selection>,
}

/// Why a job was not admitted.
#[derive(Debug)]
pub enum Blocked {
    /// There is no capacity now.
    For(Duration, String),
    /// It can never run.
    Never(String),
}

/// The outcome of a run.
#[derive(Debug)]
pub enum RunOutcome {
    /// A final response.
    Responded(StoredResponse),
    /// No provider accepted it, so it does not count as a run; with the Retry-After, if known.
    NotTaken(Option<Duration>, String),
    Failed(String),
    /// Every run would fail.
    Refused(String),
}

/// Waits in the queue for a provider with capacity, for as long as the queue allows.
///
/// # Errors
/// When no provider has capacity.
pub fn admit(
    worker: &Rc<Worker>,
    route: &Arc<Route>,
    queue: &RouteQueue,
    class: usize,
    task: RunnableJob,
) -> Pin<Box<dyn Future<Output = Result<Box<Admitted>, Blocked>>>> {
    let made = build_request(worker, route, queue, class, task);
    let admission = async move {
        let mut request = made?;
        if request.body.is_encoded() {
            request.decode_body().await;
        }
        degrade_job(&mut request)
            .map_err(|rejected| Blocked::For(rejected.retry_after, rejected.reason))?;
        let route = Arc::clone(&request.route);
        route.live.record_request(request.body.received_at());
        match next_attempt(&mut request, &route, None).await {
            Ok(selection) => Ok(Box::new(Admitted { request, selection })),
            Err(denied) => {
                let rest = denied.retry_after.unwrap_or(A_WHILE);
                Err(Blocked::For(rest, denied.problem(&route).to_string()))
            }
        }
    };
    let admission = Contained::new(admission);
    // Otherwise a job that causes a panic would end the process at every start.
    Box::pin(async { admission.await.unwrap_or_else(|panic| Err(Blocked::Never(panicked(panic)))) })
}

fn panicked(panic: PanicId) -> String {
    format!("a fault of Outrigger: the log has the cause under {panic}")
}

fn build_request(
    worker: &Rc<Worker>,
    route: &Arc<Route>,
    queue: &RouteQueue,
    class: usize,
    task: RunnableJob,
) -> Result<Box<ProxyRequest>, Blocked> {
    let never = |part: &str| Blocked::Never(format!("its {part} cannot be read from the store"));
    let method = Method::from_bytes(task.request.method.as_bytes());
    let method = method.map_err(|_| never("method"))?;
    let uri = Uri::try_from(task.request.uri.as_str()).map_err(|_| never("path"))?;
    let mut headers = headers::of_lines(&task.request.headers);
    if !headers.contains_key(IDEMPOTENCY_KEY)
        && let Ok(key) = HeaderValue::try_from(task.id.to_string())
    {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let body = task.request.body;
    let mut room = worker.live.buffers.reservation();
    if !room.grow(body.len() as u64) {
        return Err(Blocked::For(
            A_WHILE,
            "all buffers are in use (see server.buffered)".to_owned(),
        ));
    }
    let client = worker.clients.detached();
    let now = clock::now();
    let mut record = AccessRecord::new(
        worker,
        &client,
        Some(Arc::clone(route)),
        method.clone(),
        uri.clone(),
        now,
    );
    record.request_id = RequestId::take(&mut headers);
    record.begin_trace(&mut headers);
    record.note_origin(&headers, true, class);
    record.begin_run(task.id);
    let body = RequestBody::of(body, room, route.reads_body);
    let head = RequestHead::new(method, uri, headers);
    let mut request = ProxyRequest::new(worker, &client, route, record, head);
    request.set_body(body);
    request.record.requested_model = request.shared_model();
    request.limits.set_deadline(now + queue.policy.max_wait.max(route.policy.timeout));
    request.limits.set_queue(class, queue.live.flow(&task.flow));
    request.limits.set_job();
    Ok(request)
}

/// The `Content-Type` of a stored response.
pub fn content_type(response: &StoredResponse) -> Option<String> {
    let headers = headers::of_lines(&response.headers);
    headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned)
}

impl Admitted {
    /// Runs the job and keeps at most `max_result` bytes of the response body.
    pub async fn run(self, max_result: u64) -> RunOutcome {
        let run = Contained::new(self.run_to_end(max_result));
        run.await.unwrap_or_else(|panic| RunOutcome::Failed(panicked(panic)))
    }

    async fn run_to_end(self, max_result: u64) -> RunOutcome {
        let Admitted { mut request, selection } = self;
        let route = Arc::clone(&request.route);
        let now = clock::now();
        request.record.restart(now);
        if let Some(effects) = &mut request.record.effects {
            effects.count();
        }
        request.limits.set_deadline(now + route.policy.timeout);
        let outcome = Box::pin(attempts(&mut request, &route, selection)).await;
        sample(&request, &outcome);
        let attempt = request.record.attempts.last();
        let class = attempt.map_or(AttemptClass::Failure, |attempt| attempt.class);
        let to = attempt.map(|attempt| attempt.endpoint.key.to_string()).unwrap_or_default();
        let refused = outcome.as_ref().err().map(Problem::to_string);
        let (head, body) = send(request, outcome).into_parts();
        if let Some(why) = refused {
            return failed(class, why);
        }
        let retry_after = quota_headers::retry_after(&head.headers, clock::wall);
        let (body, cut) = match read_body_up_to(body, max_result).await {
            Ok(body) => body,
            Err(why) => return RunOutcome::Failed(format!("{to}: {why}")),
        };
        let status = head.status.as_u16();
        match class {
            AttemptClass::Throttled => RunOutcome::NotTaken(
                retry_after.or(Some(A_WHILE)),
                format!("{to} responded with {status}"),
            ),
            AttemptClass::Unsent | AttemptClass::Failure | AttemptClass::Credential => {
                RunOutcome::Failed(format!("{to} responded with {status}"))
            }
            AttemptClass::Success | AttemptClass::Unsupported | AttemptClass::Ignored => {
                let headers = headers::lines(head.headers.iter().filter(|(name, _)| {
                    // The stored response gets new framing when it is served. A cookie is a
                    // credential.
                    !headers::FRAMES.contains(name) && *name != SET_COOKIE
                }));
                RunOutcome::Responded(StoredResponse { status, headers, body, cut })
            }
        }
    }
}

fn failed(class: AttemptClass, why: String) -> RunOutcome {
    match class {
        AttemptClass::Unsent => RunOutcome::NotTaken(None, why),
        AttemptClass::Ignored => RunOutcome::Refused(why),
        _ => RunOutcome::Failed(why),
    }
}

/// The body up to `most` bytes, and whether it is longer.
async fn read_body_up_to(mut body: ResponseBody, most: u64) -> Result<(Bytes, bool), String> {
    let mut kept = BytesMut::new();
    let mut cut = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        let Some(data) = frame.data_ref() else { continue };
        let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        cut |= data.len() > room;
    }
    Ok((kept.freeze(), cut))
}
