//! From an answer's head to the commit: how much of the body is read first, and which class of
//! outcome it is.
//!
//! A JSON answer is held until it is whole, where it fits the route's buffer, and an event stream
//! until its first content, unless the route's `commit` says otherwise: until then another attempt
//! is possible, after it never.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, StatusCode};
use http_body::Body;

use super::classify::ResponseSignals;
use super::content_type::{self, ContentType};
use super::pending_response::{PendingBody, PendingResponse, PendingStream};
use super::prebuffer::{
    self, BodyDeadlines, PrebufferError, PrebufferLimit, Prebuffered, ReadUntil, gather,
};
use super::quota_headers::left;
use super::report::AttemptReport;
use super::report::report_attempt;
use super::report::settle;
use super::retry::retry_reach;
use super::select::Selection;
use super::send::chain;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model::Commit;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::timer::Timer;
use crate::proxy::request::context::ProxyRequest;
use crate::proxy::response::resume::can_resume;
use crate::resilience::outcome::{AttemptClass, RetryScope};
use crate::snapshot::Route;
use crate::stream::framing::StreamFormat;
use crate::stream::reader::{StreamEnd, StreamReader};
use crate::upstream::IncomingBody;

/// The most that is kept of what an answer said, to go on from.
const SAID: usize = 256 << 10;

/// What came of an attempt.
#[derive(Debug)]
pub enum AttemptResult {
    /// This goes to the application.
    Commit(Box<PendingResponse>),
    /// Another attempt may follow; if none does, this is the answer.
    Failed(AttemptClass, LastResponse),
}

/// The answer, unless a better one comes.
#[derive(Debug)]
pub enum LastResponse {
    Theirs(Box<PendingResponse>),
    Ours(Problem),
}

/// A provider's answer of which the head was read.
#[derive(Debug)]
pub struct ReceivedResponse {
    pub head: Parts,
    pub body: IncomingBody,
    pub selection: Box<Selection>,
    /// To the head.
    pub took: Duration,
    pub limits: BodyDeadlines,
    pub nature: ContentType,
    /// Of what has events.
    pub reader: Option<(StreamFormat, Box<StreamReader>)>,
    /// For what is withheld.
    pub room: Reservation,
}

/// Reads what has to be read before the commit, and classifies.
pub async fn inspect(
    request: &mut ProxyRequest,
    route: &Route,
    mut answer: ReceivedResponse,
) -> AttemptResult {
    let candidate = ProxyRequest::candidate(route, answer.selection.tier, answer.selection.index);
    let rules = &candidate.provider.policy.classify;
    let status = answer.head.status.as_u16();
    if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
        return switched(request, route, answer);
    }
    if candidate.provider.policy.capacity.follow_headers {
        let left = left(&answer.head.headers, clock::wall);
        if left.requests.is_some() || left.tokens.is_some() {
            let charge = answer.selection.flight.charge();
            candidate.provider.live.observe_quota(charge, [left.requests, left.tokens]);
        }
    }
    // Only an error says when to come back.
    let retry_after = match status >= 300 {
        true => content_type::retry_after(&answer.head.headers, clock::wall),
        false => None,
    };
    let head = ResponseSignals {
        status,
        has_retry_after: retry_after.is_some(),
        our_credential: candidate.endpoint.credential_count() > 0,
        nature: answer.nature,
    };
    let by_head = head.class(rules);
    answer.reader = event_reader(request, route, &answer, by_head);
    if answer.reader.is_some() {
        // Events may be left out, or put in.
        answer.head.headers.remove(CONTENT_LENGTH);
    }
    let gathered = match prebuffer_limit(request, route, &answer, by_head) {
        Some(hold) => answer.gather(&request.timer, hold).await,
        None => Prebuffered::Part(VecDeque::new()),
    };
    let class = match (by_head, &gathered) {
        (_, Prebuffered::Error(class, _)) => *class,
        (Some(class), _) => class,
        (None, Prebuffered::Whole(bytes, _)) => head.class_of(rules, bytes),
        (None, _) => head.built_in(),
    };
    let report = AttemptReport {
        class,
        status,
        took: answer.took,
        retry_after,
        timed_out: false,
        error: None,
    };
    if request.partial.is_some() && answer.reader.is_none() && report.commits() {
        return cannot_continue(request, route, answer, report);
    }
    conclude(request, route, answer, gathered, report)
}

/// The events of an answer that has some.
fn event_reader(
    request: &ProxyRequest,
    route: &Route,
    answer: &ReceivedResponse,
    class: Option<AttemptClass>,
) -> Option<(StreamFormat, Box<StreamReader>)> {
    let format = answer.nature.events().filter(|_| class == Some(AttemptClass::Success))?;
    let candidate = ProxyRequest::candidate(route, answer.selection.tier, answer.selection.index);
    let reading = Arc::clone(&candidate.interpreter);
    // A stream that is fetched and not asked for with a body is no model's answer.
    let wanted = request.method == Method::POST || reading.is_needed();
    let status = answer.head.status;
    let is_read = wanted && status == StatusCode::OK && request.method != Method::HEAD;
    if !is_read || request.partial.is_some() && format != StreamFormat::Sse {
        return None;
    }
    let reader = match &request.partial {
        Some(partial) => StreamReader::continuing(reading, format, SAID, partial.clone()),
        None => {
            let said = can_resume(request).then_some(SAID);
            StreamReader::new(reading, format, status.as_u16(), said)
        }
    };
    Some((format, Box::new(reader)))
}

/// How much of the body is read before the commit.
fn prebuffer_limit(
    request: &ProxyRequest,
    route: &Route,
    answer: &ReceivedResponse,
    class: Option<AttemptClass>,
) -> Option<PrebufferLimit> {
    let nature = answer.nature;
    let stream = &route.policy.stream;
    let events = matches!(nature.kind, content_type::MediaKind::Events(_));
    let ended = answer.body.is_end_stream() && class.is_some() && !events;
    if request.method == Method::HEAD || ended {
        return None;
    }
    let hold = |until| Some(PrebufferLimit { until, within: stream.buffer });
    match class {
        None => hold(ReadUntil::End),
        Some(AttemptClass::Success) => match stream.commit {
            Some(Commit::Complete) => hold(ReadUntil::End),
            Some(Commit::Headers) => None,
            None if nature.kind == content_type::MediaKind::Json => hold(ReadUntil::End),
            None if !events => None,
            Some(Commit::FirstContent) | None if answer.reader.is_some() => {
                hold(ReadUntil::Content)
            }
            Some(Commit::FirstContent) | None => hold(ReadUntil::Frame),
        },
        Some(class) => {
            retry_is_possible(request, class, &answer.selection).then_some(prebuffer::REFUSED)
        }
    }
}

/// Whether another attempt after this class is conceivable.
fn retry_is_possible(request: &ProxyRequest, class: AttemptClass, selection: &Selection) -> bool {
    let more = request.left_in(&request.route, selection.tier) > 0
        || selection.tier + 1 < request.route.tiers.len();
    more && retry_reach(request, class) != RetryScope::Nowhere && request.body.may_go()
}

fn conclude(
    request: &mut ProxyRequest,
    route: &Route,
    mut answer: ReceivedResponse,
    gathered: Prebuffered,
    mut report: AttemptReport,
) -> AttemptResult {
    let failed = matches!(gathered, Prebuffered::Error(..));
    let first = match gathered {
        Prebuffered::Cut(cut) => {
            settle_events(request, &answer);
            return body_failed(request, route, answer, cut, report);
        }
        Prebuffered::Whole(bytes, trailers) => {
            let class = report.class;
            settle_events(request, &answer);
            settle_whole(request, route, &answer, &bytes);
            report_attempt(request, route, &mut answer.selection, report);
            return ready(class, answer, PendingBody::Whole(bytes, trailers));
        }
        Prebuffered::Error(_, first) => {
            report.error = Some("an event of the answer says that it failed".to_owned());
            first
        }
        Prebuffered::Part(first) => first,
    };
    let class = report.class;
    if !first.is_empty() {
        report.took = clock::since(answer.selection.started);
    }
    if first.is_empty() && answer.body.is_end_stream() {
        report_attempt(request, route, &mut answer.selection, report);
        return ready(class, answer, PendingBody::Whole(Bytes::new(), None));
    }
    let afterwards = report_attempt(request, route, &mut answer.selection, report);
    let ReceivedResponse { head, body: rest, selection, limits, reader, room, .. } = answer;
    let unready = reader.as_ref().is_some_and(|(_, reader)| !reader.is_ready());
    let (usage_key, credential) = (selection.usage_key(), selection.credential);
    let content_by = unready.then_some(limits.content);
    let flight = selection.flight;
    let record = None;
    let stream =
        PendingStream { first, rest, flight, afterwards, room, reader, content_by, failed, record };
    let body = PendingBody::Stream(Box::new(stream));
    tried(
        class,
        PendingResponse { head, body, idle: limits.idle, usage_key, credential, ours: false },
    )
}

/// What an answer's events said of tokens, and how many could not be read.
fn settle_events(request: &mut ProxyRequest, answer: &ReceivedResponse) {
    let Some((_, reader)) = &answer.reader else { return };
    settle(request, answer.selection.usage_key(), reader.usage());
    request.route.metrics.events_dropped.inc_by(reader.dropped());
}

/// What a whole answer says of tokens. Only what is asked for with a body is looked at.
fn settle_whole(
    request: &mut ProxyRequest,
    route: &Route,
    answer: &ReceivedResponse,
    bytes: &[u8],
) {
    if request.method != Method::POST || !answer.nature.is_json() {
        return;
    }
    let candidate = ProxyRequest::candidate(route, answer.selection.tier, answer.selection.index);
    let tokens = candidate.interpreter.body_usage(bytes, &mut request.worker.found.borrow_mut());
    settle(request, answer.selection.usage_key(), tokens);
}

/// Puts down an answer that is thrown away for a better one.
pub fn discard(request: &mut ProxyRequest, last: &LastResponse) {
    let LastResponse::Theirs(response) = last else { return };
    let PendingBody::Stream(stream) = &response.body else { return };
    let Some((_, reader)) = &stream.reader else { return };
    settle(request, response.usage_key, reader.usage());
    request.route.metrics.events_dropped.inc_by(reader.dropped());
}

/// An answer that no stream can be joined on to.
fn cannot_continue(
    request: &mut ProxyRequest,
    route: &Route,
    mut answer: ReceivedResponse,
    report: AttemptReport,
) -> AttemptResult {
    let key = ProxyRequest::candidate(route, answer.selection.tier, answer.selection.index)
        .endpoint
        .key
        .clone();
    report_attempt(request, route, &mut answer.selection, report);
    let problem = Problem::new(ProblemKind::BadResponse, format!("{key}: it does not go on"));
    AttemptResult::Failed(AttemptClass::Failure, LastResponse::Ours(problem))
}

fn switched(
    request: &mut ProxyRequest,
    route: &Route,
    mut answer: ReceivedResponse,
) -> AttemptResult {
    let report = AttemptReport::answered(AttemptClass::Success, 101, answer.took);
    report_attempt(request, route, &mut answer.selection, report);
    let ReceivedResponse { head, body, selection, limits, .. } = answer;
    let (usage_key, credential) = (selection.usage_key(), selection.credential);
    let body = PendingBody::Tunnel { flight: selection.flight, rest: body };
    AttemptResult::Commit(Box::new(PendingResponse {
        head,
        body,
        idle: limits.idle,
        usage_key,
        credential,
        ours: false,
    }))
}

/// The answer broke, or fell silent, before the commit.
fn body_failed(
    request: &mut ProxyRequest,
    route: &Route,
    mut answer: ReceivedResponse,
    cut: PrebufferError,
    report: AttemptReport,
) -> AttemptResult {
    let key = ProxyRequest::candidate(route, answer.selection.tier, answer.selection.index)
        .endpoint
        .key
        .clone();
    let (kind, what) = cut.words();
    let timed_out = matches!(kind, ProblemKind::ResponseTimeout | ProblemKind::Deadline);
    let class =
        if report.class == AttemptClass::Success { AttemptClass::Failure } else { report.class };
    let detail = format!("{key}: {what}");
    let took = clock::since(answer.selection.started);
    let report = AttemptReport { class, took, timed_out, error: Some(what), ..report };
    report_attempt(request, route, &mut answer.selection, report);
    AttemptResult::Failed(class, LastResponse::Ours(Problem::new(kind, detail)))
}

impl ReceivedResponse {
    pub fn new(
        head: Parts,
        body: IncomingBody,
        selection: Box<Selection>,
        took: Duration,
        limits: BodyDeadlines,
        room: Reservation,
    ) -> ReceivedResponse {
        let nature = ContentType::of(&head.headers);
        ReceivedResponse { head, body, selection, took, limits, nature, reader: None, room }
    }

    async fn gather(&mut self, timer: &Timer, hold: PrebufferLimit) -> Prebuffered {
        let reader = self.reader.as_mut().map(|(_, reader)| &mut **reader);
        gather(timer, &mut self.body, hold, self.limits, &mut self.room, reader).await
    }
}

impl PrebufferError {
    fn words(&self) -> (ProblemKind, String) {
        let (kind, what) = match self {
            PrebufferError::Broken(error) => return (ProblemKind::ConnectionLost, chain(error)),
            PrebufferError::FirstByte => {
                (ProblemKind::ResponseTimeout, "headers came, but no body in time")
            }
            PrebufferError::Content => {
                (ProblemKind::ResponseTimeout, "the stream began, but no content in time")
            }
            PrebufferError::Idle => (ProblemKind::ResponseTimeout, "the body stalled"),
            PrebufferError::Deadline => (ProblemKind::Deadline, "the route's timeout passed"),
            PrebufferError::Ended(ended) => (ProblemKind::BadResponse, ended_words(*ended)),
        };
        (kind, what.to_owned())
    }
}

/// What is wrong with a stream that ended so.
pub fn ended_words(ended: StreamEnd) -> &'static str {
    match ended {
        StreamEnd::Complete => "the stream is whole",
        StreamEnd::NoEndMarker => "the stream ended without what ends one",
        StreamEnd::Malformed => "nothing of the stream could be read",
        StreamEnd::Empty => "the stream had no event",
    }
}

fn ready(class: AttemptClass, answer: ReceivedResponse, body: PendingBody) -> AttemptResult {
    let (usage_key, credential) = (answer.selection.usage_key(), answer.selection.credential);
    tried(
        class,
        PendingResponse {
            head: answer.head,
            body,
            idle: answer.limits.idle,
            usage_key,
            credential,
            ours: false,
        },
    )
}

fn tried(class: AttemptClass, response: PendingResponse) -> AttemptResult {
    match class {
        AttemptClass::Success | AttemptClass::Ignored => AttemptResult::Commit(Box::new(response)),
        class => AttemptResult::Failed(class, LastResponse::Theirs(Box::new(response))),
    }
}
