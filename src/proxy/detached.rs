//! A call that no client made, for benchmarks: as a request of an application, from its admission
//! to the last byte of its response, with the same effects on its worker's live state.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use http_body_util::BodyExt;

use super::access_log::record::AccessRecord;
use super::attempt::context::ProxyRequest;
use super::caching::lookup;
use super::dispatch::{DispatchOutcome, run};
use super::downstream::header_marks::HeaderMarks;
use super::downstream::worker::Worker;
use super::request::body::RequestBody;
use super::request::head::RequestHead;
use super::request::headers;
use super::response::body::ResponseBody;
use super::response::send::send;
use crate::clock;
use crate::credentials::identity::CallerIdentity;
use crate::live::tracking::call_recorder::StreamTimes;
use crate::policy::sections::model::BenchmarkRequest;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Route;

/// A call that broke after its response began.
const INTERRUPTED: &str = "interrupted";

/// The result of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallResult {
    pub succeeded: bool,
    /// The class of the last attempt, `interrupted`, or the type of the problem if there was none.
    pub outcome: &'static str,
    /// From the start to the commit.
    pub first_byte: Duration,
    /// Of a stream with content.
    pub stream: Option<StreamTimes>,
    /// Input and output.
    pub tokens: Option<(u64, u64)>,
    pub cost: Option<f64>,
}

/// Makes a call on a route, whether or not the route matches it.
pub async fn call(worker: &Rc<Worker>, route: &Arc<Route>, from: &BenchmarkRequest) -> CallResult {
    let Some(mut request) = prepare(worker, route, from) else {
        return CallResult { outcome: "buffers-full", ..CallResult::default() };
    };
    let outcome = match &route.cache {
        Some(cache) => Box::pin(lookup::serve(&mut request, route, cache)).await,
        None => run(&mut request, route).await,
    };
    let mut result = committed(&request, &outcome);
    let mut body = send(request, outcome).into_body();
    loop {
        note_stream(&mut body, &mut result);
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                (result.succeeded, result.outcome) = (false, INTERRUPTED);
                break;
            }
            None => break,
        }
    }
    note_stream(&mut body, &mut result);
    result
}

fn prepare(
    worker: &Rc<Worker>,
    route: &Arc<Route>,
    from: &BenchmarkRequest,
) -> Option<Box<ProxyRequest>> {
    let mut room = worker.live.buffers.reservation();
    if !room.grow(from.body.len() as u64) {
        return None;
    }
    let client = worker.clients.detached();
    let (method, uri) = (from.method.clone(), from.uri.clone());
    let started = clock::now();
    let record = AccessRecord::new(
        worker,
        &client,
        Some(Arc::clone(route)),
        method.clone(),
        uri.clone(),
        started,
    );
    let mut all = from.headers.clone();
    let identity = CallerIdentity::of(&all, &uri);
    headers::prepare(&mut all, HeaderMarks::of(&from.headers), false);
    if route.policy.stream.is_read() {
        all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let mut head = RequestHead::new(method, uri, all);
    head.set_identity(identity);
    let mut request = ProxyRequest::new(worker, &client, route, record, head);
    request.set_body(RequestBody::of(from.body.clone(), room, route.reads_body));
    if request.requests_stream != Some(false) {
        request.head.accept_identity();
    }
    if let Some(queue) = &route.queue {
        request.limits.set_queue(queue.policy.default_class, 0);
    }
    Some(request)
}

/// The result as far as it is known when the response begins.
fn committed(request: &ProxyRequest, outcome: &DispatchOutcome) -> CallResult {
    let record = &request.record;
    let class = record.attempts.last().map(|attempt| attempt.class);
    let good = outcome.as_ref().is_ok_and(|response| response.head.status.as_u16() < 400);
    let word = match (class, outcome) {
        (Some(class), _) => class.as_str(),
        (None, Ok(_)) => AttemptClass::Success.as_str(),
        (None, Err(problem)) => problem.kind.name(),
    };
    CallResult {
        succeeded: good && class.is_none_or(|class| class == AttemptClass::Success),
        outcome: word,
        first_byte: record.age(),
        stream: None,
        tokens: record.tokens,
        cost: record.cost,
    }
}

fn note_stream(body: &mut ResponseBody, result: &mut CallResult) {
    let ResponseBody::Stream(stream) = body else { return };
    result.stream = stream.times().or(result.stream);
    let (tokens, cost) = stream.usage();
    result.tokens = tokens.or(result.tokens);
    result.cost = cost.or(result.cost);
}
