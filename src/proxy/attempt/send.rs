//! One attempt: a connection, the request as the provider expects it, the response head in time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, StatusCode, Uri};

use super::connect::{connect, idle_connection, report_unreachable};
use super::context::ProxyRequest;
use super::inspect::{AttemptResult, LastResponse, ReceivedResponse, inspect};
use super::late::{granted_time, is_cut_short, observe_head};
use super::prebuffer::BodyDeadlines;
use super::report::report_failure;
use super::retry::another_attempt_is_possible;
use super::select::Selection;
use crate::clock;
use crate::policy::sections::model::{Auth, Timeouts};
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::downstream::own_headers::remove_own;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::references::localize;
use crate::proxy::request::headers::{self, AttemptHead};
use crate::proxy::request::rewrite;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::{EndpointCandidate, Route};
use crate::upstream::{
    Connection, DialError, ExchangeError, IncomingBody, OutgoingRequest, PendingHead, SendError,
};

/// A request waits this long for a probe while another candidate is left.
const PROBE_TIME: Duration = Duration::from_millis(100);

/// Makes one attempt at the selected endpoint, or at one that connects sooner.
pub async fn attempt(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
) -> AttemptResult {
    request.attempts.begin(selection.endpoint, selection.credential);
    let mut now = selection.started;
    loop {
        let connection = match idle_connection(request, route, &selection, now) {
            Some(connection) => connection,
            None => match Box::pin(connect(request, route, selection)).await {
                Ok(connected) => {
                    selection = connected.selection;
                    request.attempts.move_to(selection.endpoint, selection.started);
                    now = clock::now();
                    connected.connection
                }
                Err(problem) => return failed(AttemptClass::Unsent, problem),
            },
        };
        match send(request, route, selection, connection, now).await {
            Ok(result) => return result,
            Err(unsent) => {
                selection = unsent;
                now = clock::now();
            }
        }
    }
}

/// Sends on a connection. If a reused connection closed before it took anything, the selection
/// comes back as `Err`.
async fn send(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
    connection: Connection,
    sent: Instant,
) -> Result<AttemptResult, Box<Selection>> {
    let candidate = selection.endpoint.candidate(route);
    let provider = &candidate.provider.policy;
    let timeouts = provider.timeouts;
    let (target, mut outgoing) = match build_outgoing(request, route, candidate) {
        Ok(built) => built,
        Err(problem) => return Ok(failed(AttemptClass::Ignored, problem)),
    };
    let fails_over = another_attempt_is_possible(request, route, &selection);
    outgoing.fails_over = fails_over;
    let head = |out: &mut Vec<u8>| {
        let parts = attempt_head(request, candidate, &selection, &target);
        headers::write_line(out, request.head.method(), &target);
        headers::write(out, request.head.headers(), parts);
    };
    let (reused, peer) = (connection.is_reused(), connection.peer());
    let mut sending = connection.send(outgoing, head);
    let longest = longest_wait(request, &selection, sent, fails_over);
    let by = sent + longest.min(timeouts.headers);
    match await_head(request, &mut sending, by, &timeouts).await {
        Some(Ok((mut head, body))) => {
            let marks = prepare_response(&mut head, route, candidate);
            let deadlines = body_deadlines(request, sent, longest, &timeouts);
            let took = clock::since(sent);
            let room = request.reservation();
            let received =
                ReceivedResponse::new(head, marks, body, selection, took, deadlines, room);
            Ok(inspect(request, route, received).await)
        }
        Some(Err(SendError::Unsent(body, _))) => {
            request.body.restore(body, provider);
            if reused {
                Err(selection)
            } else {
                Ok(closed_at_once(request, route, selection, peer))
            }
        }
        Some(Err(SendError::Failed(error))) => {
            let problem = exchange_problem(request, candidate, &error);
            Ok(report_failure(request, route, &mut selection, problem, false))
        }
        None => Ok(head_is_late(request, route, selection, sending, sent)),
    }
}

/// Makes the head of a response fit to be sent to the client. Returns the marks it had.
fn prepare_response(head: &mut Parts, route: &Route, candidate: &EndpointCandidate) -> HeaderMarks {
    let headers = &mut head.headers;
    let marks = HeaderMarks::of(headers);
    if marks.has(HeaderMarks::OWN | HeaderMarks::OVERRIDE) {
        remove_own(headers);
    }
    if marks.has(HeaderMarks::REFERENCE) {
        let (provider, url) = (&candidate.provider.policy, &candidate.endpoint.policy.url);
        localize(headers, &route.policy, provider, url);
    }
    headers::end_hop(headers, marks, head.status == StatusCode::SWITCHING_PROTOCOLS);
    marks
}

fn attempt_head<'a>(
    request: &'a ProxyRequest,
    candidate: &'a EndpointCandidate,
    selection: &Selection,
    target: &'a Uri,
) -> AttemptHead<'a> {
    let trace = request.record.trace.as_ref();
    AttemptHead {
        provider: &candidate.provider.policy,
        endpoint: &candidate.endpoint,
        credential: selection.credential,
        target,
        decoded: request.body.is_sent_decoded(),
        id: &request.record.request_id,
        trace: trace
            .map(|trace| trace.attempt_trace(candidate.endpoint.live.id, selection.started)),
    }
}

/// An endpoint that accepts connections and closes them counts as unreachable.
fn closed_at_once(
    request: &mut ProxyRequest,
    route: &Route,
    selection: Box<Selection>,
    peer: Option<SocketAddr>,
) -> AttemptResult {
    let candidate = selection.endpoint.candidate(route);
    let error = DialError::closed(&candidate.endpoint.policy.url.host, peer);
    let problem = report_unreachable(request, route, selection, &error);
    failed(AttemptClass::Unsent, problem)
}

fn failed(class: AttemptClass, problem: Problem) -> AttemptResult {
    AttemptResult::Failed(class, LastResponse::Problem(problem))
}

/// The request's target and body as the provider expects them.
fn build_outgoing(
    request: &mut ProxyRequest,
    route: &Route,
    candidate: &EndpointCandidate,
) -> Result<(Uri, OutgoingRequest), Problem> {
    let provider = &candidate.provider.policy;
    let strip = route.policy.strip_prefix.as_deref();
    let url = &candidate.endpoint.policy.url;
    let passes = matches!(candidate.endpoint.policy.auth, Auth::Passthrough);
    let uri = rewrite::uri(request.head.uri(), strip, url, &provider.rewrite, passes);
    let uri = uri.map_err(|error| {
        let detail = format!(
            "`rewrite.path` of provider `{}` makes an invalid path: {error}",
            provider.name
        );
        Problem::new(ProblemKind::BadRequest, detail)
    })?;
    let body = request.body.take(provider, provider.timeouts.idle)?;
    let usually_sized =
        matches!(*request.head.method(), Method::POST | Method::PUT | Method::PATCH);
    let sends_zero_length = usually_sized || request.head.headers().contains_key(CONTENT_LENGTH);
    let (is_head, is_upgrade) = (request.head.method() == Method::HEAD, request.head.is_upgrade());
    Ok((uri, OutgoingRequest { is_head, is_upgrade, fails_over: false, sends_zero_length, body }))
}

/// How long a part of the response may take after the request was sent: until the deadline, or half as
/// long if the attempt may fail over. A probe that may fail over must not delay its request: the next
/// candidate is tried soon, and the probe goes on in the background.
fn longest_wait(
    request: &ProxyRequest,
    selection: &Selection,
    sent: Instant,
    fails_over: bool,
) -> Duration {
    let left = request.limits.deadline().saturating_duration_since(sent);
    match fails_over {
        true if selection.permit.is_probe() => PROBE_TIME.min(left / 2),
        true => left / 2,
        false => left,
    }
}

/// When the parts of the body are due.
fn body_deadlines(
    request: &ProxyRequest,
    sent: Instant,
    longest: Duration,
    timeouts: &Timeouts,
) -> BodyDeadlines {
    BodyDeadlines {
        first_byte: sent + longest.min(timeouts.first_byte()),
        idle: timeouts.idle,
        deadline: request.limits.deadline(),
    }
}

/// Awaits the response's head. While the client still sends its body, only a stall ends the wait.
async fn await_head(
    request: &ProxyRequest,
    sending: &mut PendingHead,
    mut by: Instant,
    timeouts: &Timeouts,
) -> Option<Result<(Parts, IncomingBody), SendError>> {
    let upload = request.body.upload();
    loop {
        if let Ok(sent) = request.timer.until(by, &mut *sending).await {
            return Some(sent);
        }
        let upload = upload?;
        let limit = if upload.complete.get() { timeouts.headers } else { timeouts.idle };
        let later = (upload.last() + limit).min(request.limits.deadline());
        if later <= clock::now() {
            return None;
        }
        by = later;
    }
}

/// Reports an attempt without a response head in time. If another candidate can be tried before the
/// deadline, it goes on in the background.
fn head_is_late(
    request: &mut ProxyRequest,
    route: &Route,
    mut selection: Box<Selection>,
    sending: PendingHead,
    sent: Instant,
) -> AttemptResult {
    let now = clock::now();
    let candidate = selection.endpoint.candidate(route);
    let granted = granted_time(route, candidate.provider.policy.timeouts.headers);
    let upload = request.body.upload().map(|upload| upload.last());
    let given = now.saturating_duration_since(upload.unwrap_or(selection.started));
    let cut_short = is_cut_short(given, granted);
    let is_over = now >= request.limits.deadline();
    let problem = no_response(candidate, now.saturating_duration_since(sent), is_over);
    let failed = report_failure(request, route, &mut selection, problem, cut_short);
    if cut_short && upload.is_none() && now < request.limits.deadline() {
        observe_head(request, route, selection, sending, granted);
    }
    failed
}

/// With `is_over`, the time of the request has ended, not that of the attempt.
fn no_response(candidate: &EndpointCandidate, waited: Duration, is_over: bool) -> Problem {
    let detail = format!("{}: no response within {waited:.1?}", candidate.endpoint.key);
    Problem::new(if is_over { ProblemKind::Deadline } else { ProblemKind::ResponseTimeout }, detail)
}

/// The problem of a failed exchange: the client, the network or the provider caused it.
fn exchange_problem(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    error: &ExchangeError,
) -> Problem {
    if let Some(kind) = request.body.upload().and_then(|upload| upload.failed.get()) {
        return Problem::new(kind, "the body of the request did not arrive completely");
    }
    if error.is_unacknowledged() {
        let key = &candidate.endpoint.key;
        let detail = format!("{key}: no data that was sent was acknowledged in time (TCP)");
        return Problem::new(ProblemKind::ResponseTimeout, detail);
    }
    let kind =
        if error.is_malformed() { ProblemKind::BadResponse } else { ProblemKind::ConnectionLost };
    Problem::new(kind, format!("{}: {}", candidate.endpoint.key, chain(error)))
}

/// An error with its causes, on one line.
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
