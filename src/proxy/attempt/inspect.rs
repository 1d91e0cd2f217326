//! From a response's head to the commit: how much of the body is read first, and how the attempt is
//! classified.
//!
//! A JSON response is held back until it is complete, if it fits the route's buffer, and an event
//! stream until its first content, unless the route's `commit` says otherwise. Until then another
//! attempt is possible, afterwards never.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, StatusCode};
use http_body::{Body, Frame};

use super::context::ProxyRequest;
use super::late::{granted_time, is_cut_short, observe_body};
use super::pending_response::{FirstContent, PendingBody, PendingResponse, PendingStream};
use super::prebuffer::{
    self, BodyDeadlines, PrebufferError, PrebufferLimit, Prebuffered, ReadUntil, prebuffer,
};
use super::report::{AttemptReport, report_attempt, settle};
use super::response_class::{class_by_head, class_of, details_of};
use super::select::{Selection, scope_of};
use super::send::chain;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::live::permit::ReportedPermit;
use crate::policy::sections::model::{Buffer, Commit};
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::timer::Timer;
use crate::proxy::request::headers::is_encoded;
use crate::proxy::signals::classify::{ContentType, MediaKind, ResponseSignals, forbids_retry};
use crate::proxy::signals::quota_headers::{reported_quotas, retry_after};
use crate::resilience::outcome::{AttemptClass, RetryScope};
use crate::snapshot::{EndpointCandidate, Route};
use crate::stream::framing::StreamFormat;
use crate::stream::known_errors::concerns_model;
use crate::stream::reader::{StreamEnd, StreamReader};
use crate::upstream::IncomingBody;

/// The most text of a response that is kept to continue it.
const TRANSCRIPT_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub enum AttemptResult {
    /// This response goes to the client.
    Commit(Box<PendingResponse>),
    /// Another attempt may follow. If none does, the client gets this.
    Failed(AttemptClass, LastResponse),
}

/// The response of the last attempt, or the problem in its place.
#[derive(Debug)]
pub enum LastResponse {
    Provider(Box<PendingResponse>),
    Problem(Problem),
}

/// A provider's response whose head was received.
#[derive(Debug)]
pub struct ReceivedResponse {
    pub head: Parts,
    /// Of the headers as they were received.
    pub marks: HeaderMarks,
    pub body: IncomingBody,
    pub selection: Box<Selection>,
    /// From the start of the attempt to the head.
    pub took: Duration,
    pub deadlines: BodyDeadlines,
    pub content_type: ContentType,
    /// Set for an event stream that is read.
    pub reader: Option<Box<StreamReader>>,
    /// Buffer space for the body that is held back.
    pub room: Reservation,
}

/// Reads what the commit requires, and classifies the response.
pub async fn inspect(
    request: &mut ProxyRequest,
    route: &Route,
    mut received: ReceivedResponse,
) -> AttemptResult {
    if received.head.status == StatusCode::SWITCHING_PROTOCOLS {
        return switched(request, route, received);
    }
    let candidate = received.selection.endpoint.candidate(route);
    let status = received.head.status.as_u16();
    observe_quota(request, candidate, &received);
    // Retry-After of a good response is no reason to wait.
    let retry_after = match status >= 300 {
        true => retry_after(&received.head.headers, clock::wall),
        false => None,
    };
    let signals = ResponseSignals {
        status,
        has_retry_after: retry_after.is_some(),
        forbids_retry: status >= 400 && forbids_retry(&received.head.headers),
        our_credential: candidate.endpoint.credential_count() > 0,
        content_type: received.content_type,
    };
    let by_head = class_by_head(request, &received, signals);
    received.reader = event_reader(request, route, &received, by_head);
    if received.reader.is_some() {
        // Events may be dropped or added.
        received.head.headers.remove(CONTENT_LENGTH);
    }
    let body = match prebuffer_limit(request, route, &received, by_head) {
        Some(limit) => received.prebuffer(&request.timer, limit).await,
        None => Prebuffered::Part(VecDeque::new(), None),
    };
    let class = class_of(request, &received, signals, by_head, &body);
    let report = AttemptReport {
        details: details_of(request, &received, &body),
        retry_after,
        forbids_retry: signals.forbids_retry,
        of_model: class == AttemptClass::Credential && body.whole().is_some_and(concerns_model),
        ..AttemptReport::new(class, status, received.took)
    };
    if request.resume.is_some() && received.reader.is_none() && report.commits() {
        return not_a_continuation(request, route, received, report);
    }
    conclude(request, route, received, body, report)
}

/// Follows the provider's quota headers, if its policy says so.
fn observe_quota(
    request: &ProxyRequest,
    candidate: &EndpointCandidate,
    received: &ReceivedResponse,
) {
    let follows = candidate.provider.policy.capacity.follow_headers;
    if follows && received.marks.has(HeaderMarks::QUOTA) {
        let quotas = reported_quotas(&received.head.headers, clock::wall);
        if quotas.requests.is_some() || quotas.tokens.is_some() {
            let reports = [quotas.requests, quotas.tokens];
            received.selection.flight.observe_reports(request.model(), reports, clock::now());
        }
    }
}

/// A reader for a successful event stream.
fn event_reader(
    request: &ProxyRequest,
    route: &Route,
    received: &ReceivedResponse,
    class: Option<AttemptClass>,
) -> Option<Box<StreamReader>> {
    if class != Some(AttemptClass::Success) {
        return None;
    }
    let format = match received.content_type.events() {
        Some(format) => format,
        None if !received.content_type.may_be_mislabelled() => return None,
        None if request.requests_stream == Some(true) => StreamFormat::Undetermined,
        None => return None,
    };
    let interpreter = Arc::clone(&received.selection.endpoint.candidate(route).interpreter);
    let (method, status) = (request.head.method(), received.head.status);
    // A model's response is to a POST; another stream is read only if the policy needs it.
    let is_wanted = method == Method::POST || interpreter.is_needed();
    let is_read = is_wanted && status == StatusCode::OK && method != Method::HEAD;
    if !is_read || request.resume.is_some() && format != StreamFormat::Sse {
        return None;
    }
    let reader = match &request.resume {
        Some(partial) => {
            StreamReader::continuing(interpreter, format, TRANSCRIPT_BYTES, partial.clone())
        }
        None => {
            let transcript = request.can_resume().then_some(TRANSCRIPT_BYTES);
            StreamReader::new(interpreter, format, status.as_u16(), transcript)
        }
    };
    Some(Box::new(reader))
}

/// How much of the body is read before the commit.
fn prebuffer_limit(
    request: &ProxyRequest,
    route: &Route,
    received: &ReceivedResponse,
    class: Option<AttemptClass>,
) -> Option<PrebufferLimit> {
    let kind = received.content_type.kind;
    let stream = &route.policy.stream;
    let is_stream = matches!(kind, MediaKind::Events(_)) || received.reader.is_some();
    let ended = received.body.is_end_stream() && class.is_some() && !is_stream;
    if request.head.method() == Method::HEAD || ended {
        return None;
    }
    let limit = |until| Some(PrebufferLimit { until, within: stream.buffer, is_strict: false });
    match class {
        None if received.head.status.as_u16() >= 400 => Some(prebuffer::DISCARDED),
        None => limit(ReadUntil::End),
        Some(AttemptClass::Success) => match stream.commit {
            // Bytes, memory and the route's timeout bound it, and nothing else.
            Some(Commit::Complete) => {
                let within = Buffer { frames: usize::MAX, time: Duration::MAX, ..stream.buffer };
                Some(PrebufferLimit { until: ReadUntil::End, within, is_strict: false })
            }
            Some(Commit::Headers) => None,
            None if kind == MediaKind::Json && !is_stream => limit(ReadUntil::End),
            None if !is_stream => None,
            None if kind == MediaKind::Json => limit(ReadUntil::ContentOrEnd),
            Some(Commit::FirstContent) | None if received.reader.is_some() => {
                limit(ReadUntil::Content)
            }
            Some(Commit::FirstContent) | None => limit(ReadUntil::Frame),
        },
        Some(class) => {
            let provider = &received.selection.endpoint.candidate(route).provider.policy;
            let again = scope_of(request, provider, class) != RetryScope::Nowhere
                && retry_is_possible(request, &received.selection);
            again.then_some(prebuffer::DISCARDED)
        }
    }
}

/// Whether an attempt is left for which the request can still be sent.
fn retry_is_possible(request: &ProxyRequest, selection: &Selection) -> bool {
    let tier = selection.endpoint.tier;
    let more =
        request.attempts_left(&request.route, tier) > 0 || tier + 1 < request.route.tiers.len();
    more && request.body.can_be_sent()
}

/// Reports the attempt and decides whether its response goes to the client.
fn conclude(
    request: &mut ProxyRequest,
    route: &Route,
    mut received: ReceivedResponse,
    body: Prebuffered,
    mut report: AttemptReport,
) -> AttemptResult {
    let class = report.class;
    let failed = matches!(body, Prebuffered::Error(..));
    let mut last_frame = None;
    let first = match body {
        Prebuffered::Failed(error) => {
            settle_events(request, &received);
            return body_failed(request, route, received, &error, report);
        }
        Prebuffered::Complete(bytes, trailers) => {
            settle_events(request, &received);
            settle_body(request, route, &received, &bytes);
            report_attempt(request, route, &mut received.selection, report);
            return result(class, received, PendingBody::Whole(bytes, trailers));
        }
        Prebuffered::Error(_, first) => {
            report.error = Some("an event of the response reports a failure".to_owned());
            first
        }
        Prebuffered::Part(first, last) => {
            last_frame = last;
            first
        }
    };
    if first.is_empty() && received.body.is_end_stream() {
        report_attempt(request, route, &mut received.selection, report);
        return result(class, received, PendingBody::Whole(Bytes::new(), None));
    }
    if !first.is_empty() {
        report.took = clock::since(received.selection.started);
    }
    let first_content = first_content(&received, &report);
    if let (Some(trace), Some(content)) = (&mut request.record.trace, &first_content) {
        trace.note_stream(content.started);
    }
    let reported = report_attempt(request, route, &mut received.selection, report);
    let mut response = started(received, first, reported, failed, first_content);
    response.last_frame = last_frame;
    by_class(class, response)
}

/// When the content of a good stream began, if it was awaited.
fn first_content(received: &ReceivedResponse, report: &AttemptReport) -> Option<FirstContent> {
    let reader = received.reader.as_ref()?;
    let began = report.class == AttemptClass::Success && reader.is_ready() && !reader.is_document();
    began.then_some(FirstContent { started: received.selection.started, after: report.took })
}

/// A response whose body continues after the commit.
fn started(
    received: ReceivedResponse,
    first: VecDeque<Frame<Bytes>>,
    reported: Option<ReportedPermit>,
    failed: bool,
    first_content: Option<FirstContent>,
) -> PendingResponse {
    let ReceivedResponse { head, body: rest, selection, deadlines, reader, room, .. } = received;
    let usage_key = selection.usage_key();
    let stream = PendingStream {
        first,
        rest,
        flight: selection.flight,
        reported,
        room,
        reader,
        failed,
        first_content,
        recorder: None,
    };
    let body = PendingBody::Stream(Box::new(stream));
    PendingResponse {
        head,
        body,
        idle: deadlines.idle,
        usage_key,
        last_frame: None,
        is_local: false,
    }
}

/// Charges the usage that the events of a response report, and counts dropped events.
fn settle_events(request: &mut ProxyRequest, received: &ReceivedResponse) {
    let Some(reader) = &received.reader else { return };
    settle(request, received.selection.usage_key(), reader.usage());
    request.route.metrics.events_dropped.inc_by(reader.dropped());
}

/// Charges the usage that a complete JSON response to a POST reports.
fn settle_body(
    request: &mut ProxyRequest,
    route: &Route,
    received: &ReceivedResponse,
    bytes: &[u8],
) {
    let is_read = received.reader.as_ref().is_some_and(|reader| !reader.is_document());
    if request.head.method() != Method::POST || !received.content_type.is_json() || is_read {
        return;
    }
    let candidate = received.selection.endpoint.candidate(route);
    let usage = candidate.interpreter.body_usage(bytes, &mut request.worker.found.borrow_mut());
    settle(request, received.selection.usage_key(), usage);
}

/// Charges the usage of a response that is discarded because another attempt follows.
pub fn discard(request: &mut ProxyRequest, last: &LastResponse) {
    let LastResponse::Provider(response) = last else { return };
    let PendingBody::Stream(stream) = &response.body else { return };
    let Some(reader) = &stream.reader else { return };
    settle(request, response.usage_key, reader.usage());
    request.route.metrics.events_dropped.inc_by(reader.dropped());
}

/// A successful response that is not an event stream cannot continue one.
fn not_a_continuation(
    request: &mut ProxyRequest,
    route: &Route,
    mut received: ReceivedResponse,
    report: AttemptReport,
) -> AttemptResult {
    report_attempt(request, route, &mut received.selection, report);
    let key = &received.selection.endpoint.candidate(route).endpoint.key;
    let problem =
        Problem::new(ProblemKind::BadResponse, format!("{key}: the response is not a stream"));
    AttemptResult::Failed(AttemptClass::Failure, LastResponse::Problem(problem))
}

fn switched(
    request: &mut ProxyRequest,
    route: &Route,
    mut received: ReceivedResponse,
) -> AttemptResult {
    let report = AttemptReport::new(AttemptClass::Success, 101, received.took);
    report_attempt(request, route, &mut received.selection, report);
    let ReceivedResponse { head, body: rest, selection, deadlines, .. } = received;
    let usage_key = selection.usage_key();
    let body = PendingBody::Tunnel { flight: selection.flight, rest };
    let idle = deadlines.idle;
    let response =
        PendingResponse { head, body, idle, usage_key, last_frame: None, is_local: false };
    AttemptResult::Commit(Box::new(response))
}

/// The body failed or stalled before the commit.
fn body_failed(
    request: &mut ProxyRequest,
    route: &Route,
    mut received: ReceivedResponse,
    error: &PrebufferError,
    report: AttemptReport,
) -> AttemptResult {
    let (kind, what) = error.explain();
    let key = &received.selection.endpoint.candidate(route).endpoint.key;
    let problem = Problem::new(kind, format!("{key}: {what}"));
    let timed_out = kind.is_timeout();
    let class = match report.class {
        AttemptClass::Success => AttemptClass::Failure,
        class => class,
    };
    let took = clock::since(received.selection.started);
    let granted = error.granted_time(&received.selection, route);
    let failed = class == AttemptClass::Failure;
    let cut_short = failed && granted.is_some_and(|granted| is_cut_short(took, granted));
    let report = AttemptReport { class, took, timed_out, cut_short, error: Some(what), ..report };
    report_attempt(request, route, &mut received.selection, report);
    let is_observed = cut_short && clock::now() < received.deadlines.deadline;
    if let Some(granted) = granted.filter(|_| is_observed) {
        observe_body(request, route, received, granted);
    }
    AttemptResult::Failed(class, LastResponse::Problem(problem))
}

impl ReceivedResponse {
    pub fn new(
        head: Parts,
        marks: HeaderMarks,
        body: IncomingBody,
        selection: Box<Selection>,
        took: Duration,
        deadlines: BodyDeadlines,
        room: Reservation,
    ) -> ReceivedResponse {
        let is_encoded = marks.has(HeaderMarks::CONTENT_ENCODING) && is_encoded(&head.headers);
        let content_type = ContentType::of(&head.headers, is_encoded);
        ReceivedResponse {
            head,
            marks,
            body,
            selection,
            took,
            deadlines,
            content_type,
            reader: None,
            room,
        }
    }

    async fn prebuffer(&mut self, timer: &Timer, limit: PrebufferLimit) -> Prebuffered {
        let reader = self.reader.as_deref_mut();
        prebuffer(timer, &mut self.body, limit, self.deadlines, &mut self.room, reader).await
    }
}

impl PrebufferError {
    /// The time that the policy grants for the part that was late; none if it was not the time.
    fn granted_time(&self, selection: &Selection, route: &Route) -> Option<Duration> {
        let timeouts = &selection.endpoint.candidate(route).provider.policy.timeouts;
        match self {
            PrebufferError::FirstByte | PrebufferError::Content => {
                Some(granted_time(route, timeouts.first_byte()))
            }
            PrebufferError::Deadline => Some(route.policy.timeout),
            PrebufferError::Broken(_) | PrebufferError::Idle | PrebufferError::Ended(_) => None,
        }
    }

    fn explain(&self) -> (ProblemKind, String) {
        let (kind, what) = match self {
            PrebufferError::Broken(error) => return (ProblemKind::ConnectionLost, chain(error)),
            PrebufferError::FirstByte => (
                ProblemKind::ResponseTimeout,
                "the response head arrived, but no body in time (see `timeouts.first_byte`)",
            ),
            PrebufferError::Content => (
                ProblemKind::ResponseTimeout,
                "the stream began, but no content arrived in time (see `timeouts.first_byte`)",
            ),
            PrebufferError::Idle => {
                (ProblemKind::ResponseTimeout, "the body stalled (see `timeouts.idle`)")
            }
            PrebufferError::Deadline => {
                (ProblemKind::Deadline, "the route's timeout, or the client's own, passed")
            }
            PrebufferError::Ended(end) => (ProblemKind::BadResponse, explain_end(*end)),
        };
        (kind, what.to_owned())
    }
}

/// Explains a stream that ended so.
pub fn explain_end(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Complete => "the stream is complete",
        StreamEnd::NoEndMarker => "the stream ended without an end marker",
        StreamEnd::Malformed => "no event of the stream could be parsed",
        StreamEnd::Empty => "the stream had no event",
    }
}

fn result(class: AttemptClass, received: ReceivedResponse, body: PendingBody) -> AttemptResult {
    let (usage_key, idle) = (received.selection.usage_key(), received.deadlines.idle);
    let head = received.head;
    by_class(
        class,
        PendingResponse { head, body, idle, usage_key, last_frame: None, is_local: false },
    )
}

fn by_class(class: AttemptClass, response: PendingResponse) -> AttemptResult {
    match class {
        AttemptClass::Success | AttemptClass::Ignored => AttemptResult::Commit(Box::new(response)),
        class => AttemptResult::Failed(class, LastResponse::Provider(Box::new(response))),
    }
}
