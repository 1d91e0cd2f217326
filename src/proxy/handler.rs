//! The table of contents of a request: route, read, try until there is an answer, answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONNECTION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;

use super::access_log::record::{AccessRecord, End};
use super::attempt::inspect::{AttemptResult, LastResponse};
use super::attempt::pending_response::PendingResponse;
use super::attempt::select::Selection;
use super::caching::invalidate::changed;
use super::caching::lookup;
use super::downstream::connection::Client;
use super::downstream::problem::{Problem, ProblemKind};
use super::downstream::worker::{RequestHandler, Worker};
use super::jobs::preference::AsyncPreference;
use super::jobs::status;
use super::request::body::{IntakeLimits, RequestBody};
use super::request::context::{ProxyRequest, RetryDenied};
use super::request::headers;
use super::request::overrides::Overrides;
use super::response::body::ResponseBody;
use super::response::send::{send, send_problem};
use crate::clock;
use crate::policy::sections::model::Forwarded;
use crate::proxy::attempt::hedge::attempt_or_hedge;
use crate::proxy::attempt::inspect::discard;
use crate::proxy::attempt::report::sample;
use crate::proxy::attempt::retry::next_attempt;
use crate::proxy::degradation::apply::degraded;
use crate::proxy::jobs::accept::become_job;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Route;
use crate::store::Store;

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
}

/// Answers one request; in a drain, as the last of its connection.
async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    incoming: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut response = match enter(&worker, &client, incoming) {
        Entered::Asks(request, body, job) => answer(request, body, job).await,
        Entered::Ours(head, record) => {
            client.serve().await;
            Box::pin(ours(&worker, head, record)).await
        }
        Entered::Refused(mut record, problem) => send_problem(&mut record, problem),
    };
    if worker.clients.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What a head asks for. It is found out without waiting, so that nothing of a head but what the
/// request keeps, on the heap, is part of the connection's task.
enum Entered {
    Asks(Box<ProxyRequest>, Incoming, Option<(Box<AsyncPreference>, Store)>),
    Ours(Box<Parts>, Box<AccessRecord>),
    Refused(Box<AccessRecord>, Problem),
}

fn enter(worker: &Rc<Worker>, client: &Rc<Client>, mut incoming: Request<Incoming>) -> Entered {
    client.begin_request();
    let started = clock::now();
    let route = sane(&incoming).and_then(|host| find(worker, &incoming, host));
    let (method, uri) = (incoming.method().clone(), incoming.uri().clone());
    let record =
        AccessRecord::new(worker, client, route.as_ref().ok().cloned(), method, uri, started);
    let route = match route {
        Ok(route) => route,
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            return Entered::Ours(Box::new(incoming.into_parts().0), record);
        }
        Err(problem) => return Entered::Refused(record, problem),
    };
    let wants_upgrade = headers::asks_upgrade(incoming.headers());
    let store = worker.store.as_ref().filter(|_| !wants_upgrade);
    let Wishes { overrides, class, flow, job } = match wishes(incoming.headers(), &route, store) {
        Ok(wishes) => wishes,
        Err(problem) => return Entered::Refused(record, problem),
    };
    let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut incoming));
    let (mut head, body) = incoming.into_parts();
    prepare(&mut head, client, &route, wants_upgrade, overrides.any);
    let (of, incoming) = ((worker, client), (head.method, head.uri, head.headers));
    let mut request = ProxyRequest::new(of, &route, record, incoming);
    request.session = session(&route, &request.headers);
    request.upgrade = upgrade;
    (request.class, request.flow) = (class, flow);
    request.idempotence = overrides.idempotent.unwrap_or(request.idempotence);
    request.overrides = overrides;
    Entered::Asks(request, body, job.zip(worker.store.clone()))
}

async fn answer(
    mut request: Box<ProxyRequest>,
    body: Incoming,
    job: Option<(Box<AsyncPreference>, Store)>,
) -> Response<ResponseBody> {
    if let Err(problem) = take_in(&mut request, body, job.is_some()).await {
        return send_problem(&mut request.record, problem);
    }
    request.client.serve().await;
    if let Some((preference, store)) = job {
        return Box::pin(become_job(request, preference, store)).await;
    }
    let route = Arc::clone(&request.route);
    let outcome = match &route.cache {
        Some(cache) => Box::pin(lookup::answer(&mut request, &route, cache)).await,
        None => {
            let outcome = run(&mut request, &route).await;
            changed(&request, &route, &outcome);
            outcome
        }
    };
    send(request, outcome)
}

/// Takes the body in.
///
/// # Errors
/// When it breaks, or stalls.
async fn take_in(request: &mut ProxyRequest, body: Incoming, whole: bool) -> Result<(), Problem> {
    let bounds = IntakeLimits::of(&request.route, whole);
    let room = request.reservation();
    let (body, once) =
        RequestBody::read(&request.client.timer, body, bounds, room, request.record.started)
            .await?;
    if let Some(why) = once {
        request.record.once = Some(why);
        request.route.count_unbuffered(&request.worker.live.metrics, why);
    }
    request.has(body);
    Ok(())
}

/// A path of our own.
async fn ours(
    worker: &Worker,
    head: Box<Parts>,
    mut record: Box<AccessRecord>,
) -> Response<ResponseBody> {
    let store = worker.store.as_ref();
    match status::ours(store, &head.method, head.uri.path(), &head.headers).await {
        Ok(response) => {
            record.status = response.status().as_u16();
            record.bytes_out = response.body().size_hint().exact().unwrap_or(0);
            record.finish(End::Answered);
            response
        }
        Err(problem) => send_problem(&mut record, problem),
    }
}

/// What RFC 9112, 3.2 demands of the head beyond what the parser saw to; gives the host.
fn sane(incoming: &Request<Incoming>) -> Result<&str, Problem> {
    if incoming.method() == Method::CONNECT {
        return Err(Problem::new(
            ProblemKind::ConnectMethod,
            "point the application's base URL at the listener",
        ));
    }
    let bad = |detail: &str| Problem::new(ProblemKind::BadRequest, detail);
    let mut hosts = incoming.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let text = host.to_str().ok().filter(|text| is_host(text));
            text.ok_or_else(|| bad("the Host header is no host"))?
        }
        (Some(_), Some(_)) => return Err(bad("there are two Host headers")),
        (None, _) if incoming.version() == http::Version::HTTP_10 => "",
        (None, _) => return Err(bad("there is no Host header")),
    };
    Ok(incoming.uri().authority().map_or(host, |authority| authority.as_str()))
}

/// What a host may be made of (RFC 9110, 7.2: `uri-host [ ":" port ]`).
fn is_host(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b))
}

fn find(worker: &Worker, incoming: &Request<Incoming>, host: &str) -> Result<Arc<Route>, Problem> {
    let path = incoming.uri().path();
    if path.starts_with("/.outrigger/") {
        return Err(Problem::new(ProblemKind::NotFound, format!("nothing is at {path}")));
    }
    let snapshot = worker.snapshot();
    let route = snapshot.route(incoming.method(), host, path, incoming.headers());
    route.cloned().ok_or_else(|| {
        let detail = format!("{} {path} (try: outrigger explain {0} {path})", incoming.method());
        Problem::new(ProblemKind::NoRoute, detail)
    })
}

/// What requests that go to the same address have in common.
fn session(route: &Route, headers: &HeaderMap) -> Option<Box<[u8]>> {
    let header = &route.policy.affinity.as_ref()?.header;
    headers.get(header).map(|value| value.as_bytes().into())
}

/// What a request asks of us.
struct Wishes {
    overrides: Overrides,
    /// Its class and the number of its flow, should it have to wait.
    class: usize,
    flow: u64,
    job: Option<Box<AsyncPreference>>,
}

fn wishes(headers: &HeaderMap, route: &Route, store: Option<&Store>) -> Result<Wishes, Problem> {
    let mut overrides = Overrides::read(headers, &route.policy)?;
    let job = AsyncPreference::read(headers, route, &mut overrides, store.is_some())?;
    let Some(queue) = &route.queue else { return Ok(Wishes { overrides, class: 0, flow: 0, job }) };
    let class = overrides.class(headers, &queue.policy)?;
    let flow = queue.policy.flow.as_ref().and_then(|flow| headers.get(&flow.header));
    let flow = flow.map_or(0, |value| queue.live.flow(value.as_bytes()));
    Ok(Wishes { overrides, class, flow, job })
}

/// Makes the head's headers fit for any provider.
fn prepare(head: &mut Parts, client: &Client, route: &Route, upgrade: bool, ours: bool) {
    let forwarded = route.server.forwarded == Forwarded::Append;
    let host = forwarded.then(|| host_of(&head.headers, &head.uri));
    headers::prepare(&mut head.headers, upgrade, ours);
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

/// What the modes in force make of it; else admission, then the attempts.
///
/// # Errors
/// What is answered where no provider answered.
pub async fn run(
    request: &mut ProxyRequest,
    route: &Route,
) -> Result<Box<PendingResponse>, Problem> {
    if let Some(outcome) = degraded(request) {
        return outcome;
    }
    run_as_it_is(request, route).await
}

/// Admission, then the attempts, whatever modes are in force by now.
///
/// # Errors
/// What is answered where no provider answered.
pub async fn run_as_it_is(
    request: &mut ProxyRequest,
    route: &Route,
) -> Result<Box<PendingResponse>, Problem> {
    let outcome = if request.reduced {
        let instead = Arc::clone(&request.route);
        go(request, &instead).await
    } else {
        go(request, route).await
    };
    sample(request, &outcome);
    outcome
}

async fn go(request: &mut ProxyRequest, route: &Route) -> Result<Box<PendingResponse>, Problem> {
    route.live.record_request(request.body.taken());
    match next_attempt(request, route, None).await {
        Ok(selection) => attempts(request, route, selection).await,
        Err(denied) => {
            request.record.stopped = Some(denied.why);
            Err(denied.problem(route))
        }
    }
}

/// One attempt after another, until one is good or none may follow.
///
/// # Errors
/// What is answered where no provider answered.
pub async fn attempts(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
) -> Result<Box<PendingResponse>, Problem> {
    loop {
        let (class, last) = match attempt_or_hedge(request, route, selection).await {
            AttemptResult::Commit(response) => return Ok(response),
            AttemptResult::Failed(AttemptClass::Ignored, LastResponse::Ours(problem)) => {
                return Err(problem);
            }
            AttemptResult::Failed(class, last) => (class, last),
        };
        match next_attempt(request, route, Some(class)).await {
            Ok(next) => {
                discard(request, &last);
                selection = next;
            }
            Err(denied) => return give_up(request, route, &denied, last),
        }
    }
}

/// Nothing follows what is at hand.
fn give_up(
    request: &mut ProxyRequest,
    route: &Route,
    denied: &RetryDenied,
    last: LastResponse,
) -> Result<Box<PendingResponse>, Problem> {
    request.record.stopped = Some(denied.why);
    route.count_retry_denied(&request.worker.live.metrics, denied.why);
    match last {
        LastResponse::Theirs(mut response) => {
            denied.tell(&mut response.head);
            Ok(response)
        }
        LastResponse::Ours(mut problem) => {
            problem.detail = format!("{}; not repeated: {}", problem.detail, denied.words());
            Err(problem)
        }
    }
}
