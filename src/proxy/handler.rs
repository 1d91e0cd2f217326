//! The table of contents of a request: route, read, try until there is an answer, answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::access_log::record::{End, Story};
use super::attempt::inspect::{AtHand, Tried};
use super::attempt::pending_response::{Ready, ReadyBody};
use super::attempt::select::Pick;
use super::caching::invalidate::changed;
use super::caching::lookup;
use super::downstream::connection::Client;
use super::downstream::error::{Kind, Problem};
use super::downstream::worker::Worker;
use super::jobs::preference::Wish;
use super::jobs::status;
use super::request::body::{Bounds, Payload};
use super::request::context::{Ask, Stop};
use super::request::headers;
use super::request::overrides::Overrides;
use super::response::body::ResBody;
use super::response::fan_out::Ahead;
use super::response::stored::Followed;
use super::response::stream::Streaming;
use super::response::upgrade;
use crate::clock;
use crate::policy::sections::model::Forwarded;
use crate::resilience::outcome::Class;
use crate::snapshot::Route;
use crate::store::Store;

/// Answers one request; in a drain, as the last of its connection.
pub async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResBody>, Infallible> {
    let mut response = match enter(&worker, &client, request) {
        Entered::Asks(ask, body, job) => answer(ask, body, job).await,
        Entered::Ours(head, story) => {
            client.serve().await;
            Box::pin(ours(&worker, head, story)).await
        }
        Entered::Refused(mut story, problem) => refuse(&mut story, problem),
    };
    if worker.clients.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What a head asks for. It is found out without waiting, so that nothing of a head but what the
/// request keeps, on the heap, is part of the connection's task.
enum Entered {
    Asks(Box<Ask>, Incoming, Option<(Box<Wish>, Store)>),
    Ours(Box<Parts>, Box<Story>),
    Refused(Box<Story>, Problem),
}

fn enter(worker: &Rc<Worker>, client: &Rc<Client>, mut request: Request<Incoming>) -> Entered {
    client.begin();
    let started = clock::now();
    let route = sane(&request).and_then(|host| find(worker, &request, host));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let story = Story::new(worker, client, route.as_ref().ok().cloned(), method, uri, started);
    let route = match route {
        Ok(route) => route,
        Err(problem) if problem.kind == Kind::Ours => {
            return Entered::Ours(Box::new(request.into_parts().0), story);
        }
        Err(problem) => return Entered::Refused(story, problem),
    };
    let wants_upgrade = headers::asks_upgrade(request.headers());
    let store = worker.store.as_ref().filter(|_| !wants_upgrade);
    let Wishes { overrides, class, flow, job } = match wishes(request.headers(), &route, store) {
        Ok(wishes) => wishes,
        Err(problem) => return Entered::Refused(story, problem),
    };
    let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    prepare(&mut head, client, &route, wants_upgrade, overrides.any);
    let (of, request) = ((worker, client), (head.method, head.uri, head.headers));
    let mut ask = Ask::new(of, &route, story, request);
    ask.session = session(&route, &ask.headers);
    ask.upgrade = upgrade;
    (ask.class, ask.flow) = (class, flow);
    ask.idempotence = overrides.idempotent.unwrap_or(ask.idempotence);
    ask.overrides = overrides;
    Entered::Asks(ask, body, job.zip(worker.store.clone()))
}

async fn answer(
    mut ask: Box<Ask>,
    body: Incoming,
    job: Option<(Box<Wish>, Store)>,
) -> Response<ResBody> {
    if let Err(problem) = take_in(&mut ask, body, job.is_some()).await {
        return refuse(&mut ask.story, problem);
    }
    ask.client.serve().await;
    if let Some((wish, store)) = job {
        return Box::pin(ask.become_job(wish, store)).await;
    }
    let route = Arc::clone(&ask.route);
    let outcome = match &route.cache {
        Some(cache) => Box::pin(lookup::answer(&mut ask, &route, cache)).await,
        None => {
            let outcome = run(&mut ask, &route).await;
            changed(&ask, &route, &outcome);
            outcome
        }
    };
    finish(ask, outcome)
}

/// Takes the body in.
///
/// # Errors
/// When it breaks, or stalls.
async fn take_in(ask: &mut Ask, body: Incoming, whole: bool) -> Result<(), Problem> {
    let bounds = Bounds::of(&ask.route, whole);
    let room = ask.reservation();
    let (payload, once) =
        Payload::read(&ask.client.timer, body, bounds, room, ask.story.started).await?;
    if let Some(why) = once {
        ask.story.once = Some(why);
        ask.route.unbuffered(&ask.worker.live.metrics, why);
    }
    ask.has(payload);
    Ok(())
}

/// A path of our own.
async fn ours(worker: &Worker, head: Box<Parts>, mut story: Box<Story>) -> Response<ResBody> {
    let store = worker.store.as_ref();
    match status::ours(store, &head.method, head.uri.path(), &head.headers).await {
        Ok(response) => {
            story.status = response.status().as_u16();
            story.bytes_out = response.body().size_hint().exact().unwrap_or(0);
            story.finish(End::Answered);
            response
        }
        Err(problem) => refuse(&mut story, problem),
    }
}

/// What RFC 9112, 3.2 demands of the head beyond what the parser saw to; gives the host.
fn sane(request: &Request<Incoming>) -> Result<&str, Problem> {
    if request.method() == Method::CONNECT {
        return Err(Problem::new(
            Kind::Connect,
            "point the application's base URL at the listener",
        ));
    }
    let bad = |detail: &str| Problem::new(Kind::BadRequest, detail);
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let text = host.to_str().ok().filter(|text| is_host(text));
            text.ok_or_else(|| bad("the Host header is no host"))?
        }
        (Some(_), Some(_)) => return Err(bad("there are two Host headers")),
        (None, _) if request.version() == http::Version::HTTP_10 => "",
        (None, _) => return Err(bad("there is no Host header")),
    };
    Ok(request.uri().authority().map_or(host, |authority| authority.as_str()))
}

/// What a host may be made of (RFC 9110, 7.2: `uri-host [ ":" port ]`).
fn is_host(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b))
}

fn find(worker: &Worker, request: &Request<Incoming>, host: &str) -> Result<Arc<Route>, Problem> {
    let path = request.uri().path();
    if path.starts_with("/.outrigger/") {
        return Err(Problem::new(Kind::Ours, format!("nothing is at {path}")));
    }
    let snapshot = worker.snapshot();
    let route = snapshot.route(request.method(), host, path, request.headers());
    route.cloned().ok_or_else(|| {
        let detail = format!("{} {path} (try: outrigger explain {0} {path})", request.method());
        Problem::new(Kind::NoRoute, detail)
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
    job: Option<Box<Wish>>,
}

fn wishes(headers: &HeaderMap, route: &Route, store: Option<&Store>) -> Result<Wishes, Problem> {
    let mut overrides = Overrides::read(headers, &route.policy)?;
    let job = Wish::read(headers, route, &mut overrides, store.is_some())?;
    let Some(queue) = &route.queue else { return Ok(Wishes { overrides, class: 0, flow: 0, job }) };
    let class = overrides.class(headers, &queue.policy)?;
    let flow = queue.policy.flow.as_ref().and_then(|name| headers.get(name));
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
pub async fn run(ask: &mut Ask, route: &Route) -> Result<Box<Ready>, Problem> {
    if let Some(outcome) = ask.degraded() {
        return outcome;
    }
    run_as_it_is(ask, route).await
}

/// Admission, then the attempts, whatever modes are in force by now.
///
/// # Errors
/// What is answered where no provider answered.
pub async fn run_as_it_is(ask: &mut Ask, route: &Route) -> Result<Box<Ready>, Problem> {
    let outcome = if ask.reduced {
        let instead = Arc::clone(&ask.route);
        go(ask, &instead).await
    } else {
        go(ask, route).await
    };
    ask.sample(&outcome);
    outcome
}

async fn go(ask: &mut Ask, route: &Route) -> Result<Box<Ready>, Problem> {
    route.live.first(ask.payload.taken());
    match ask.next(route, None).await {
        Ok(pick) => attempts(ask, route, pick).await,
        Err(stop) => {
            ask.story.stopped = Some(stop.why);
            Err(stop.problem(route))
        }
    }
}

/// One attempt after another, until one is good or none may follow.
///
/// # Errors
/// What is answered where no provider answered.
pub async fn attempts(
    ask: &mut Ask,
    route: &Route,
    mut pick: Box<Pick>,
) -> Result<Box<Ready>, Problem> {
    loop {
        let (class, hand) = match ask.attempt_or_hedge(route, pick).await {
            Tried::Commit(ready) => return Ok(ready),
            Tried::Failed(Class::Ignored, AtHand::Ours(problem)) => return Err(problem),
            Tried::Failed(class, hand) => (class, hand),
        };
        match ask.next(route, Some(class)).await {
            Ok(next) => {
                ask.put_down(&hand);
                pick = next;
            }
            Err(stop) => return last(ask, route, &stop, hand),
        }
    }
}

/// Nothing follows what is at hand.
fn last(ask: &mut Ask, route: &Route, stop: &Stop, hand: AtHand) -> Result<Box<Ready>, Problem> {
    ask.story.stopped = Some(stop.why);
    route.not_repeated(&ask.worker.live.metrics, stop.why);
    match hand {
        AtHand::Theirs(mut ready) => {
            stop.tell(&mut ready.head);
            Ok(ready)
        }
        AtHand::Ours(mut problem) => {
            problem.detail = format!("{}; not repeated: {}", problem.detail, stop.words());
            Err(problem)
        }
    }
}

/// The commit.
pub fn finish(mut ask: Box<Ask>, outcome: Result<Box<Ready>, Problem>) -> Response<ResBody> {
    ask.story.bytes_in = ask.payload.len();
    let Ready { mut head, body, idle, bill, credential, .. } = match outcome {
        Ok(ready) => *ready,
        Err(problem) => return refuse(&mut ask.story, problem),
    };
    ask.story.status = head.status.as_u16();
    let switches = matches!(body, ReadyBody::Tunnel { .. });
    headers::end_answer_hop(&mut head.headers, switches);
    if !matches!(body, ReadyBody::Whole(_, None) | ReadyBody::Stored(_)) {
        ask.story.first_byte = Some(ask.story.so_far());
    }
    ask.story.mark(&mut head.headers);
    let body = match body {
        ReadyBody::Whole(bytes, None) => {
            ask.story.bytes_out = bytes.len() as u64;
            ask.story.finish(End::Answered);
            ResBody::full(bytes)
        }
        ReadyBody::Whole(bytes, Some(trailers)) => {
            let first = [Frame::data(bytes), Frame::trailers(trailers)].into();
            ResBody::Stream(Box::new(Streaming::whole(ask, first, (idle, bill, credential))))
        }
        ReadyBody::Stream(mut stream) => {
            let record = stream.record.take();
            let streaming = Box::new(Streaming::begun(ask, stream, (idle, bill, credential)));
            match record {
                Some(record) => Ahead::body(streaming, record),
                None => ResBody::Stream(streaming),
            }
        }
        ReadyBody::Stored(replay) => {
            ask.story.bytes_out = replay.left();
            ask.story.finish(End::Answered);
            ResBody::Replay(replay)
        }
        ReadyBody::Followed(reader) => ResBody::Followed(Box::new(Followed::new(reader, ask))),
        ReadyBody::Tunnel { flight, rest } => {
            let Ask { upgrade, story, client, .. } = *ask;
            let tunnel = upgrade::start(upgrade, rest, flight, story);
            tunnel.into_iter().for_each(|tunnel| client.becomes(tunnel));
            return Response::from_parts(head, ResBody::full(Bytes::new()));
        }
    };
    Response::from_parts(head, body)
}

fn refuse(story: &mut Story, problem: Problem) -> Response<ResBody> {
    story.status = problem.kind.status().as_u16();
    let name = problem.kind.name();
    let mut response = problem.into_response();
    story.mark(response.headers_mut());
    story.finish(End::Refused(name));
    response
}
