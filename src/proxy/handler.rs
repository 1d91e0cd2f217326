//! Handles one request: routes it, receives its body, dispatches it, and sends the response.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONNECTION, HOST};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;

use super::access_log::reasons::RequestEnd;
use super::attempt::context::ProxyRequest;
use super::caching::invalidate::changed;
use super::caching::lookup;
use super::dispatch::run;
use super::downstream::connection::Client;
use super::downstream::header_marks::HeaderMarks;
use super::downstream::problem::{Problem, ProblemKind};
use super::downstream::request_id::RequestId;
use super::downstream::worker::{RequestHandler, Worker};
use super::jobs::accept::become_job;
use super::jobs::preference::AsyncPreference;
use super::jobs::status;
use super::request::body::RequestBody;
use super::request::body_intake::IntakeLimits;
use super::request::client_timeout::client_timeout;
use super::request::head::RequestHead;
use super::request::headers;
use super::request::overrides::Overrides;
use super::request::validation::valid_host;
use super::response::body::ResponseBody;
use super::response::send::{send, send_problem};
use crate::clock;
use crate::credentials::identity::CallerIdentity;
use crate::policy::sections::model::Forwarded;
use crate::proxy::access_log::record::AccessRecord;
use crate::snapshot::Route;
use crate::store::Store;
use crate::telemetry::panics::PanicId;

/// [`handle`] as the handler of a worker's connections.
#[derive(Clone, Copy, Debug)]
pub struct Handler;

impl RequestHandler for Handler {
    type ResponseBody = ResponseBody;

    fn handle(
        self,
        worker: Rc<Worker>,
        client: Rc<Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
        handle(worker, client, request)
    }

    fn rejected(self, worker: &Rc<Worker>, client: &Rc<Client>, kind: ProblemKind) {
        // The head was not read.
        let method = Method::from_bytes(b"-").unwrap_or_default();
        let mut record =
            AccessRecord::new(worker, client, None, method, Uri::from_static("-"), clock::now());
        record.status = kind.status().as_u16();
        record.finish(RequestEnd::LocalResponse(kind));
    }

    fn panicked(panic: PanicId) -> Response<ResponseBody> {
        let detail = format!("the log of the sidecar has the cause under {panic}");
        Problem::new(ProblemKind::InternalError, detail).into_response().map(ResponseBody::full)
    }
}

/// Handles one request. If the worker is draining, it is the last one of its connection.
async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    incoming: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut response = match accept(&worker, &client, incoming) {
        Accepted::Proxy { request, body, job } => proxy(request, body, job).await,
        Accepted::Local { head, record } => {
            client.serve().await;
            Box::pin(serve_locally(&worker, head, record)).await
        }
        Accepted::Refused { mut record, problem } => send_problem(&mut record, problem),
    };
    if worker.clients.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A job that a request is to become, and the store that keeps it.
struct JobRequest {
    preference: Box<AsyncPreference>,
    store: Store,
}

/// How a request is handled. Decided without waiting, so that the connection's task holds no more of
/// the head than the request keeps on the heap.
enum Accepted {
    Proxy {
        request: Box<ProxyRequest>,
        body: Incoming,
        job: Option<JobRequest>,
    },
    /// A path under `/.outrigger/`.
    Local {
        head: Box<Parts>,
        record: Box<AccessRecord>,
    },
    Refused {
        record: Box<AccessRecord>,
        problem: Problem,
    },
}

fn accept(worker: &Rc<Worker>, client: &Rc<Client>, mut incoming: Request<Incoming>) -> Accepted {
    client.begin_request(incoming.version());
    let started = clock::now();
    let route = valid_host(&incoming).and_then(|host| find_route(worker, client, &incoming, host));
    let (method, uri) = (incoming.method().clone(), incoming.uri().clone());
    let matched = route.as_ref().ok().cloned();
    let mut record = AccessRecord::new(worker, client, matched, method, uri, started);
    let marks = HeaderMarks::of(incoming.headers());
    identify(&mut record, incoming.headers_mut(), marks);
    let route = match route {
        Ok(route) => route,
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            return Accepted::Local { head: Box::new(incoming.into_parts().0), record };
        }
        Err(problem) => return Accepted::Refused { record, problem },
    };
    let is_upgrade = headers::requests_upgrade(incoming.version(), incoming.headers(), marks);
    let store = worker.store.as_ref().filter(|_| !is_upgrade);
    let options = match RequestOptions::read(incoming.headers(), marks, &route, store.is_some()) {
        Ok(options) => options,
        Err(problem) => return Accepted::Refused { record, problem },
    };
    let RequestOptions { overrides, class, flow, job } = options;
    record.note_origin(incoming.headers(), marks.has(HeaderMarks::TRACEPARENT), class);
    // Before any header ends here: a caller is known by all that it sent.
    let needs_identity = route.cache.is_some() || job.is_some();
    let identity = needs_identity.then(|| CallerIdentity::of(incoming.headers(), incoming.uri()));
    let upgrade = is_upgrade.then(|| hyper::upgrade::on(&mut incoming));
    let (mut parts, body) = incoming.into_parts();
    prepare(&mut parts, client, &route, marks, is_upgrade);
    let names = &route.policy.timeout_headers;
    let timeout = if marks.may_have(names) { client_timeout(names, &parts.headers) } else { None };
    let mut head = RequestHead::new(parts.method, parts.uri, parts.headers);
    head.set_marks(marks);
    head.set_session(session(&route, head.headers()));
    head.set_upgrade(upgrade);
    head.set_identity(identity.unwrap_or_default());
    let mut request = ProxyRequest::new(worker, client, &route, record, head);
    request.limits.set_queue(class, flow);
    request.limits.set_overrides(overrides);
    if let Some(timeout) = timeout {
        request.limits.set_client_deadline(started + timeout);
    }
    let job = job.zip(worker.store.clone());
    let job = job.map(|(preference, store)| JobRequest { preference, store });
    Accepted::Proxy { request, body, job }
}

/// Sets the ids of the request and of its span.
fn identify(record: &mut AccessRecord, headers: &mut HeaderMap, marks: HeaderMarks) {
    if marks.has(HeaderMarks::REQUEST_ID) {
        record.request_id = RequestId::take(headers);
    }
    record.begin_trace(headers);
}

async fn proxy(
    mut request: Box<ProxyRequest>,
    body: Incoming,
    job: Option<JobRequest>,
) -> Response<ResponseBody> {
    if let Err(problem) = receive_body(&mut request, body, job.is_some()).await {
        return send_problem(&mut request.record, problem);
    }
    request.client.serve().await;
    if let Some(JobRequest { preference, store }) = job {
        return Box::pin(become_job(request, preference, store)).await;
    }
    let route = Arc::clone(&request.route);
    let outcome = match &route.cache {
        Some(cache) => Box::pin(lookup::serve(&mut request, &route, cache)).await,
        None => {
            let outcome = run(&mut request, &route).await;
            changed(&request, &route, &outcome);
            outcome
        }
    };
    send(request, outcome)
}

/// # Errors
/// When the body breaks or stalls.
async fn receive_body(
    request: &mut ProxyRequest,
    body: Incoming,
    complete: bool,
) -> Result<(), Problem> {
    let limits = IntakeLimits::of(&request.route, complete);
    let (room, started) = (request.reservation(), request.record.started);
    let body = RequestBody::read(&request.client.timer, body, limits, room, started).await?;
    if let Some(reason) = body.not_replayable() {
        request.record.not_replayable = Some(reason);
        request.route.count_unbuffered(&request.worker.live.metrics, reason.as_str());
    }
    request.set_body(body);
    if request.body.is_encoded() {
        request.decode_body().await;
    }
    if request.record.is_logged() {
        request.record.requested_model = request.shared_model();
    }
    // A compressed stream cannot be read.
    if request.requests_stream != Some(false) {
        request.head.accept_identity();
    }
    Ok(())
}

async fn serve_locally(
    worker: &Worker,
    head: Box<Parts>,
    mut record: Box<AccessRecord>,
) -> Response<ResponseBody> {
    let store = worker.store.as_ref();
    match status::ours(store, &head.method, &head.uri, &head.headers).await {
        Ok(mut response) => {
            record.status = response.status().as_u16();
            record.bytes_out = response.body().size_hint().exact().unwrap_or(0);
            record.finish(RequestEnd::Complete);
            record.request_id.add_to(response.headers_mut());
            response
        }
        Err(problem) => send_problem(&mut record, problem),
    }
}

fn find_route(
    worker: &Worker,
    client: &Client,
    incoming: &Request<Incoming>,
    host: &str,
) -> Result<Arc<Route>, Problem> {
    let path = incoming.uri().path();
    if path.starts_with("/.outrigger/") {
        return Err(Problem::new(ProblemKind::NotFound, format!("there is no resource at {path}")));
    }
    let snapshot = worker.snapshot();
    let route = snapshot.route(incoming.method(), host, path, incoming.headers());
    let Some(route) = route else {
        let detail = format!("{} {path} (try: outrigger explain {0} {path})", incoming.method());
        return Err(Problem::new(ProblemKind::NoRoute, detail));
    };
    if route.policy.matcher.host.is_none() && !is_addressed(client, incoming.uri()) {
        return Err(foreign_host(host));
    }
    Ok(Arc::clone(route))
}

/// Whether the target names the address that the client is connected to. A path names no other.
fn is_addressed(client: &Client, target: &Uri) -> bool {
    let Some(authority) = target.authority() else { return true };
    let Some(local) = client.local else { return false };
    let default = if target.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_here = match host.parse::<IpAddr>() {
        Ok(address) => address == local.ip(),
        Err(_) => host.eq_ignore_ascii_case("localhost") && local.ip().is_loopback(),
    };
    is_here && authority.port_u16().unwrap_or(default) == local.port()
}

fn foreign_host(host: &str) -> Problem {
    let detail = format!(
        "the target names {host}, as for a forward proxy: use the listener as the base URL, not as \
         HTTP_PROXY; a route for this host has it in `match.host`"
    );
    Problem::new(ProblemKind::ForeignHost, detail)
}

/// The value that requests of one session share (`affinity`).
fn session(route: &Route, headers: &HeaderMap) -> Option<Box<[u8]>> {
    let header = &route.policy.affinity.as_ref()?.header;
    headers.get(header).map(|value| value.as_bytes().into())
}

/// The options that a request's headers set.
struct RequestOptions {
    overrides: Overrides,
    /// Its class and flow, if it has to wait.
    class: usize,
    flow: u64,
    job: Option<Box<AsyncPreference>>,
}

impl RequestOptions {
    fn read(
        headers: &HeaderMap,
        marks: HeaderMarks,
        route: &Route,
        has_store: bool,
    ) -> Result<Self, Problem> {
        let mut overrides = match marks.has(HeaderMarks::OVERRIDE) {
            true => Overrides::read(headers, &route.policy)?,
            false => Overrides::default(),
        };
        let is_preferred = marks.has(HeaderMarks::PREFER);
        let job = AsyncPreference::read(headers, is_preferred, route, &mut overrides, has_store)?;
        let Some(queue) = &route.queue else {
            return Ok(RequestOptions { overrides, class: 0, flow: 0, job });
        };
        let class = overrides.class(headers, &queue.policy)?;
        let flow = queue.policy.flow.as_ref().and_then(|flow| headers.get(&flow.header));
        let flow = flow.map_or(0, |value| queue.live.flow(value.as_bytes()));
        Ok(RequestOptions { overrides, class, flow, job })
    }
}

/// Makes the headers fit to be sent to any provider.
fn prepare(head: &mut Parts, client: &Client, route: &Route, marks: HeaderMarks, is_upgrade: bool) {
    let forwarded = route.server.forwarded == Forwarded::Append;
    let host = forwarded.then(|| host_of(&head.headers, &head.uri));
    headers::prepare(&mut head.headers, marks, is_upgrade);
    if route.policy.stream.is_read() {
        head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if let Some(host) = host {
        headers::append_forwarded(&mut head.headers, client, &host);
    }
}

fn host_of(headers: &HeaderMap, uri: &Uri) -> String {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(|a| a.as_str()).or(header).unwrap_or_default().to_owned()
}
