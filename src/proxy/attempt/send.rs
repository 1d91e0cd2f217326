//! One attempt: a connection, the request as this provider wants it, the answer's head in time.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, Uri};

use super::connect::connect;
use super::connect::idle_connection;
use super::connect::report_unreachable;
use super::inspect::inspect;
use super::inspect::{AttemptResult, LastResponse, ReceivedResponse};
use super::prebuffer::BodyDeadlines;
use super::report::report_failure;
use super::retry::another_attempt_is_possible;
use super::select::Selection;
use crate::clock;
use crate::policy::sections::model::Timeouts;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::request::context::ProxyRequest;
use crate::proxy::request::headers;
use crate::proxy::request::rewrite;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::{EndpointCandidate, Route};
use crate::upstream::{
    Connection, DialError, ExchangeError, IncomingBody, OutgoingRequest, SendError,
};

/// Makes one attempt at a pick, or at one that connects sooner.
pub async fn attempt(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
) -> AttemptResult {
    request.attempts.begin(selection.tier, selection.index, selection.credential);
    let mut now = selection.started;
    loop {
        let connection = match idle_connection(request, route, &selection, now) {
            Some(connection) => connection,
            None => match Box::pin(connect(request, route, selection)).await {
                Ok((connected, connection)) => {
                    selection = connected;
                    request.attempts.went((selection.tier, selection.index));
                    now = clock::now();
                    connection
                }
                Err(problem) => {
                    return AttemptResult::Failed(
                        AttemptClass::Unsent,
                        LastResponse::Ours(problem),
                    );
                }
            },
        };
        match send(request, route, selection, connection, now).await {
            Ok(tried) => return tried,
            Err(unsent) => {
                selection = unsent;
                now = clock::now();
            }
        }
    }
}

/// Sends on a connection. One that closed before the request began hands it back: `Err`.
async fn send(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
    connection: Connection,
    sent: Instant,
) -> Result<AttemptResult, Box<Selection>> {
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    let timeouts = candidate.provider.policy.timeouts;
    let (target, mut outgoing) = match build_outgoing(request, route, candidate) {
        Ok(built) => built,
        Err(problem) => {
            return Ok(AttemptResult::Failed(AttemptClass::Ignored, LastResponse::Ours(problem)));
        }
    };
    let cut = another_attempt_is_possible(request, route, &selection);
    outgoing.fails_over = cut;
    let head = |out: &mut Vec<u8>| {
        headers::write_line(out, &request.method, &target);
        let provider = &candidate.provider.policy;
        headers::write(out, &request.headers, provider, &candidate.endpoint, selection.credential);
    };
    let (reused, peer) = (connection.is_reused(), connection.peer());
    let sending = connection.send(outgoing, head);
    let by = response_deadline(request, sent, timeouts.headers, cut);
    match await_head(request, sending, by, &timeouts).await {
        Some(Ok((head, body))) => {
            let limits = body_deadlines(request, sent, &timeouts, cut);
            let took = clock::since(sent);
            let answer =
                ReceivedResponse::new(head, body, selection, took, limits, request.reservation());
            Ok(inspect(request, route, answer).await)
        }
        Some(Err(SendError::Unsent(body, _))) => {
            request.body.put_back(body, &candidate.provider.policy);
            if reused {
                Err(selection)
            } else {
                Ok(closed_at_once(request, route, selection, peer))
            }
        }
        Some(Err(SendError::Failed(error))) => {
            let problem = exchange_problem(request, candidate, &error);
            Ok(report_failure(request, route, selection, problem))
        }
        None => {
            let (key, waited) = (&candidate.endpoint.key, clock::since(sent));
            let detail = format!("{key}: no response within {waited:.1?}");
            let problem = Problem::new(ProblemKind::ResponseTimeout, detail);
            Ok(report_failure(request, route, selection, problem))
        }
    }
}

/// An endpoint that takes connections and closes them is as good as unreachable.
fn closed_at_once(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
    peer: Option<SocketAddr>,
) -> AttemptResult {
    let candidate = ProxyRequest::candidate(route, selection.tier, selection.index);
    let error = DialError::closed(&candidate.endpoint.policy.url.host, peer);
    let problem = report_unreachable(request, route, selection, &error);
    AttemptResult::Failed(AttemptClass::Unsent, LastResponse::Ours(problem))
}

/// The request's target and body as the provider wants them.
fn build_outgoing(
    request: &mut ProxyRequest,
    route: &Route,
    candidate: &EndpointCandidate,
) -> Result<(Uri, OutgoingRequest), Problem> {
    let provider = &candidate.provider.policy;
    let strip = route.policy.strip_prefix.as_deref();
    let url = &candidate.endpoint.policy.url;
    let uri = rewrite::uri(&request.uri, strip, url, &provider.rewrite).map_err(|error| {
        let detail = format!("provider `{}` rewrites the path to no path: {error}", provider.name);
        Problem::new(ProblemKind::BadRequest, detail)
    })?;
    let body = request.body.take(provider, provider.timeouts.idle)?;
    let usual = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    let sized = usual || request.headers.contains_key(CONTENT_LENGTH);
    let (head, upgrade) = (request.method == Method::HEAD, request.upgrade.is_some());
    Ok((
        uri,
        OutgoingRequest {
            is_head: head,
            is_upgrade: upgrade,
            fails_over: false,
            sends_zero_length: sized,
            body,
        },
    ))
}

/// When something has to be there: `limit` after the request was sent, and while another
/// candidate is left not later than half way to the deadline.
fn response_deadline(request: &ProxyRequest, sent: Instant, limit: Duration, cut: bool) -> Instant {
    let left = request.deadline.saturating_duration_since(sent);
    let most = if cut { left / 2 } else { left };
    sent + limit.min(most)
}

/// When the body has to come.
fn body_deadlines(
    request: &ProxyRequest,
    sent: Instant,
    timeouts: &Timeouts,
    cut: bool,
) -> BodyDeadlines {
    BodyDeadlines {
        first_byte: response_deadline(request, sent, timeouts.first_byte(), cut),
        content: sent + timeouts.first_byte(),
        idle: timeouts.idle,
        deadline: request.deadline,
    }
}

/// Awaits the response's head. While the application still sends its body, only a stall counts.
async fn await_head(
    request: &ProxyRequest,
    sending: impl Future<Output = Result<(Parts, IncomingBody), SendError>>,
    mut by: Instant,
    timeouts: &Timeouts,
) -> Option<Result<(Parts, IncomingBody), SendError>> {
    let mut sending = pin!(sending);
    let upload = request.body.upload();
    loop {
        if let Ok(sent) = request.timer.until(by, sending.as_mut()).await {
            return Some(sent);
        }
        let upload = upload?;
        let limit = if upload.whole.get() { timeouts.headers } else { timeouts.idle };
        let later = (upload.last() + limit).min(request.deadline);
        if later <= clock::now() {
            return None;
        }
        by = later;
    }
}

/// Whose fault a broken exchange was.
fn exchange_problem(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    error: &ExchangeError,
) -> Problem {
    if let Some(kind) = request.body.upload().and_then(|upload| upload.broken.get()) {
        return Problem::new(kind, "the body of the request did not arrive whole");
    }
    if error.is_unacknowledged() {
        let key = &candidate.endpoint.key;
        let detail = format!("{key}: nothing that was sent was acknowledged in time");
        return Problem::new(ProblemKind::ResponseTimeout, detail);
    }
    let kind =
        if error.is_malformed() { ProblemKind::BadResponse } else { ProblemKind::ConnectionLost };
    Problem::new(kind, format!("{}: {}", candidate.endpoint.key, chain(error)))
}

/// An error with what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
