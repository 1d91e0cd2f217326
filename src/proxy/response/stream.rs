//! A response that is streamed to the client, frame by frame as it arrives.
//!
//! A response that breaks after its first byte never looks complete. An event stream ends with an
//! error event, or another provider continues it (`on_cut` of the route). After the error event, and
//! at once in any other response, the body yields an error, so that the connection closes without
//! the final chunk or short of the declared length.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Sleep;

use super::resume::{Resumable, Resume};
use super::stream_error::error_event;
use crate::clock;
use crate::live::tracking::call_recorder::StreamTimes;
use crate::policy::sections::model::OnCut;
use crate::proxy::access_log::reasons::{Interruption, RequestEnd};
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse, PendingStream};
use crate::proxy::attempt::report::UsageKey;
use crate::proxy::downstream::own_headers::remove_own_trailers;
use crate::snapshot::Route;
use crate::stream::api::{Api, StreamTail};
use crate::stream::framing::StreamFormat;
use crate::stream::reader::StreamEnd;
use crate::upstream::BoxError;

pub type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A streamed response with everything that it holds until its end.
#[derive(Debug)]
pub struct Streaming {
    route: Arc<Route>,
    first: VecDeque<Frame<Bytes>>,
    /// `None` after it has ended.
    stream: Option<Box<PendingStream>>,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    resumable: Resumable,
    usage_key: UsageKey,
    /// The provider has sent an error event.
    failed: bool,
    /// Sent only after a complete body.
    trailers: Option<Frame<Bytes>>,
    /// A continuation in progress.
    continuation: Option<Resume>,
    /// The form of an error event, if the continuation fails.
    tail: Option<StreamTail>,
    /// The API that was called, by the path.
    api: Option<Api>,
    broken: Option<Broken>,
}

/// The source of a streamed response.
#[derive(Clone, Copy, Debug)]
pub struct StreamOrigin {
    /// Time limit between two frames.
    pub idle: Duration,
    /// When the last frame came, if one was read before the commit.
    pub last_frame: Option<Instant>,
    pub usage_key: UsageKey,
}

/// The response is interrupted. The error is returned one poll after the last event: hyper discards
/// unwritten frames when a body fails.
#[derive(Clone, Copy, Debug)]
enum Broken {
    WritingError(Interruption),
    ErrorWritten(Interruption),
}

impl Streaming {
    /// A response that has arrived completely.
    pub fn whole(
        request: Box<ProxyRequest>,
        first: VecDeque<Frame<Bytes>>,
        origin: StreamOrigin,
    ) -> Self {
        let StreamOrigin { idle, last_frame, usage_key } = origin;
        let route = Arc::clone(&request.route);
        let api = Api::of_path(request.head.uri().path());
        Streaming {
            route,
            first,
            stream: None,
            idle,
            last: last_frame.unwrap_or_else(clock::now),
            timer: None,
            resumable: Resumable::of(request),
            usage_key,
            failed: false,
            trailers: None,
            continuation: None,
            tail: None,
            api,
            broken: None,
        }
    }

    /// A response that has begun to arrive.
    pub fn begun(
        request: Box<ProxyRequest>,
        mut stream: Box<PendingStream>,
        origin: StreamOrigin,
    ) -> Self {
        let first = std::mem::take(&mut stream.first);
        let mut streaming = Streaming::whole(request, first, origin);
        streaming.failed = stream.failed;
        streaming.stream = Some(stream);
        // Bytes behind an error event are still in the reader.
        streaming.take(Frame::data(Bytes::new()));
        streaming
    }

    fn forward_frame(&mut self, frame: Frame<Bytes>) -> Polled {
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(record) = self.resumable.record() {
            record.bytes_out += size;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn complete(&mut self) {
        self.settle();
        if let Some(record) = self.resumable.record() {
            record.finish(RequestEnd::Complete);
        }
        self.stream = None;
    }

    /// Records the usage that the events reported, once for each stream.
    fn settle(&mut self) {
        let Some(reader) = self.stream.as_ref().and_then(|s| s.reader.as_ref()) else {
            return;
        };
        let tokens = reader.usage();
        self.route.metrics.events_dropped.inc_by(reader.dropped());
        self.resumable.settle(self.usage_key, &self.route, tokens);
    }

    /// The times of the stream so far, if it has content.
    pub fn times(&self) -> Option<StreamTimes> {
        let stream = self.stream.as_ref().filter(|_| !self.failed)?;
        let (began, reader) = (stream.first_content?, stream.reader.as_ref()?);
        Some(StreamTimes {
            first_content: began.after,
            rest: self.last.saturating_duration_since(began.started + began.after),
            output_tokens: reader.usage().output,
            content_events: reader.content_events,
        })
    }

    /// The tokens of the request, input and output, and their cost, as far as they are known.
    pub fn usage(&mut self) -> (Option<(u64, u64)>, Option<f64>) {
        self.resumable.record().map_or((None, None), |record| (record.tokens, record.cost))
    }

    /// Records the times of a stream that is complete, for the baselines.
    fn record_stream(&self) {
        let Some(times) = self.times() else { return };
        let candidate = self.usage_key.endpoint.candidate(&self.route);
        candidate.call_recorder.record_stream(self.resumable.model(), times);
    }

    /// Ends the record of an interrupted response.
    fn cut(&mut self, cut: Interruption) -> BoxError {
        if let Some(record) = self.resumable.record() {
            record.finish(RequestEnd::Interrupted(cut));
        }
        format!("the response was interrupted: {}", cut.as_str()).into()
    }

    /// Reports the interruption to the breaker and the degradation modes, and drops the stream.
    fn report_interruption(&mut self) {
        self.settle();
        let Some(stream) = self.stream.take() else { return };
        let now = clock::now();
        if let Some(reported) = stream.reported {
            reported.observe_interruption(now);
        }
        let provider = &self.usage_key.endpoint.candidate(&self.route).provider;
        provider
            .outcomes
            .iter()
            .filter(|_| self.resumable.is_good())
            .for_each(|all| all.spoil(now));
    }

    /// Handles an interruption: a continuation, or an error event and then the error.
    fn break_off(&mut self, cut: Interruption, cx: &mut Context<'_>) -> Polled {
        let on_cut = self.route.policy.stream.on_cut;
        let reader = self.stream.as_ref().and_then(|stream| stream.reader.as_ref());
        let appendable = reader.filter(|reader| reader.can_append_event());
        let tail = appendable.map(|reader| reader.tail(self.api));
        let sse = reader.filter(|reader| reader.format() == StreamFormat::Sse);
        let partial = sse.and_then(|reader| reader.partial());
        // An error event of the provider has already been forwarded.
        let partial = partial.filter(|partial| !self.failed && !partial.text.trim().is_empty());
        self.report_interruption();
        if let Some(partial) = partial.filter(|_| on_cut == OnCut::Continue)
            && let Some(request) = self.resumable.take_request()
        {
            self.tail = tail;
            self.continuation = Some(Resume::begin(request, partial, self.usage_key, cut));
            return self.poll_next(cx);
        }
        self.end_with_error_event(cut, tail, cx)
    }

    /// Appends the final error event.
    fn end_with_error_event(
        &mut self,
        cut: Interruption,
        tail: Option<StreamTail>,
        cx: &mut Context<'_>,
    ) -> Polled {
        self.broken = Some(Broken::WritingError(cut));
        let samples = self.route.outcomes.iter().filter(|_| self.resumable.is_good());
        samples.for_each(|all| all.spoil(clock::now()));
        let silent = self.failed || self.route.policy.stream.on_cut == OnCut::Abort;
        if let Some(tail) = tail.filter(|_| !silent) {
            let id = self.resumable.record().map(|record| &record.request_id);
            let event = error_event(cut, &tail, self.idle, id);
            self.first.push_back(Frame::data(event));
        }
        self.poll_next(cx)
    }

    fn poll_broken(&mut self, broken: Broken, cx: &mut Context<'_>) -> Polled {
        match broken {
            Broken::ErrorWritten(cut) => Poll::Ready(Some(Err(self.cut(cut)))),
            Broken::WritingError(cut) => {
                self.broken = Some(Broken::ErrorWritten(cut));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn poll_continuation(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(continuation) = &mut self.continuation else { return Poll::Pending };
        let (request, response) = ready!(continuation.poll(cx));
        let (cut, tail) = (continuation.cut, self.tail.take());
        self.continuation = None;
        self.resumable = Resumable::Request(request);
        self.last = clock::now();
        let Some(response) = response else { return self.end_with_error_event(cut, tail, cx) };
        self.resume(*response);
        self.poll_next(cx)
    }

    /// Continues with another provider's response.
    fn resume(&mut self, response: PendingResponse) {
        let candidate = response.usage_key.endpoint.candidate(&self.route);
        let comment = format!(": outrigger: continued by {}\n\n", candidate.endpoint.key);
        self.first.push_back(Frame::data(comment.into()));
        (self.idle, self.usage_key) = (response.idle, response.usage_key);
        match response.body {
            PendingBody::Stream(mut stream) => {
                self.first.append(&mut stream.first);
                self.stream = Some(stream);
            }
            PendingBody::Whole(bytes, _) => self.first.push_back(Frame::data(bytes)),
            PendingBody::Stored(_) | PendingBody::Followed(_) | PendingBody::Tunnel { .. } => {}
        }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            if let Some(frame) = self.first.pop_front() {
                return self.forward_frame(frame);
            }
            if let Some(broken) = self.broken {
                return self.poll_broken(broken, cx);
            }
            if self.continuation.is_some() {
                return self.poll_continuation(cx);
            }
            let Some(stream) = self.stream.as_mut() else {
                self.complete();
                return Poll::Ready(None);
            };
            match Pin::new(&mut stream.rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.last = clock::now();
                    if let Some(cut) = self.take(frame) {
                        return self.break_off(cut, cx);
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.break_off(Interruption::Broken, cx),
                Poll::Ready(None) => {
                    if let Some(cut) = self.ended() {
                        return self.break_off(cut, cx);
                    }
                }
                Poll::Pending => {
                    let cut = ready!(self.poll_late(cx));
                    return self.break_off(cut, cx);
                }
            }
        }
    }

    /// Processes a frame; the bytes to forward are appended to `first`.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Interruption> {
        let stream = self.stream.as_mut()?;
        let Some(reader) = &mut stream.reader else {
            self.first.push_back(remove_own_trailers(frame));
            return None;
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                self.trailers = Some(remove_own_trailers(trailers));
                return self.ended();
            }
        };
        loop {
            let taken = reader.read(data);
            if !taken.bytes.is_empty() {
                self.first.push_back(Frame::data(taken.bytes));
            }
            let Some(error) = taken.error else { break };
            let may_continue = self.route.policy.stream.on_cut == OnCut::Continue && !self.failed;
            if error.is_unfit || may_continue && reader.partial().is_some() {
                return Some(Interruption::ErrorEvent);
            }
            self.failed = true;
            self.first.push_back(Frame::data(error.raw));
            data = Bytes::new();
        }
        let held = reader.buffered() as u64;
        if held == 0 || !stream.room.grow(held.saturating_sub(stream.room.bytes())) {
            stream.room.shrink_to(0);
        }
        if held > stream.room.bytes() {
            self.first.push_back(Frame::data(reader.flush_unread()));
        }
        None
    }

    /// The body has ended; returns the interruption if it is not complete.
    fn ended(&mut self) -> Option<Interruption> {
        let reader = self.stream.as_mut().and_then(|stream| stream.reader.as_mut());
        let (rest, ended) = match reader {
            Some(reader) => reader.end(),
            None => (Bytes::new(), StreamEnd::Complete),
        };
        if !rest.is_empty() {
            self.first.push_back(Frame::data(rest));
        }
        match ended {
            StreamEnd::Complete => {
                self.record_stream();
                self.settle();
                self.stream = None;
                self.first.extend(self.trailers.take());
                None
            }
            ended => Some(Interruption::NoEnd(ended)),
        }
    }

    /// Ready when no frame arrived in time. The timer is reset only when it fires early.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Interruption> {
        loop {
            let at = self.last + self.idle;
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            if timer.deadline() > at.into() {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
            if clock::now() >= at {
                return Poll::Ready(Interruption::Idle);
            }
            timer.as_mut().reset(at.into());
        }
    }

    /// The remaining bytes, if known.
    pub fn left(&self) -> Option<u64> {
        let first: u64 =
            self.first.iter().filter_map(Frame::data_ref).map(|d| d.len() as u64).sum();
        // A stream that is parsed may lose events or be continued.
        let rest = match &self.stream {
            Some(stream) if stream.reader.is_none() => stream.rest.size_hint().exact(),
            Some(_) => None,
            None => Some(0),
        };
        rest.filter(|_| !self.first.iter().any(Frame::is_trailers)).map(|rest| first + rest)
    }

    /// The provider has sent an error event, even if the response ends properly.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Gives up the access record; from here on usage goes into a detached one.
    pub fn take_record(&mut self) -> Option<Box<AccessRecord>> {
        let record = self.resumable.record()?;
        let mut aside = record.detached();
        (aside.model, aside.status) = (record.model.take(), record.status);
        Some(std::mem::replace(record, aside))
    }

    /// Ends the stream early.
    pub fn close(&mut self) {
        self.settle();
        self.stream = None;
    }

    /// The response has ended without an error.
    pub fn is_at_end(&self) -> bool {
        let rest = self.stream.as_ref();
        self.first.is_empty()
            && self.broken.is_none()
            && self.continuation.is_none()
            && rest.is_none_or(|stream| stream.reader.is_none() && stream.rest.is_end_stream())
    }
}

impl Drop for Streaming {
    /// hyper does not poll a body that is at its end; dropping it then is not a disconnect.
    fn drop(&mut self) {
        if let Some(Broken::WritingError(cut) | Broken::ErrorWritten(cut)) = self.broken {
            self.cut(cut);
        } else if self.is_at_end() {
            self.complete();
        } else {
            self.settle();
        }
    }
}
