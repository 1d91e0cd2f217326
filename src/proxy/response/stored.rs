//! Responses of a route with a cache: served from the store, read from another request's response,
//! or recorded while they are sent.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use tokio::time::Sleep;

use super::cache_status;
use super::stream::{Polled, Streaming};
use crate::cache::entry::{CachedBody, CachedResponse};
use crate::cache::recorder::ResponseRecorder;
use crate::cache::shared_body::BodyReader;
use crate::cache::store::CacheResult;
use crate::clock;
use crate::proxy::access_log::reasons::{Interruption, RequestEnd};
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::snapshot::RouteCache;

/// Counts and records the result of the cache; background revalidation counts as no request.
pub fn record_result(request: &mut ProxyRequest, cache: &RouteCache, result: CacheResult) {
    if !request.record.is_written() {
        cache.live.count(result);
    }
    request.record.cache = Some(result.as_str());
}

/// A stored response to this request: complete, its head alone, or 304.
pub fn from_store(
    request: &ProxyRequest,
    stored: Arc<CachedResponse>,
    detail: Option<&str>,
) -> Box<PendingResponse> {
    let conditions = request.cache.conditions().unwrap_or(request.head.headers());
    let unchanged = stored.is_unchanged_for(conditions);
    let status = if unchanged { StatusCode::NOT_MODIFIED } else { stored.status };
    let mut head = head(status, stored.headers.clone());
    cache_status::hit(&mut head, &stored.freshness, clock::now(), detail);
    let body = if unchanged {
        head.headers.remove(CONTENT_LENGTH);
        PendingBody::Whole(Bytes::new(), None)
    } else if request.head.method() == Method::HEAD {
        if !stored.is_event_stream() {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(stored.length));
        }
        PendingBody::Whole(Bytes::new(), None)
    } else {
        PendingBody::Stored(CachedBody::new(stored))
    };
    PendingResponse::local(head, body)
}

/// The bytes from `from` up to, but not including, `to` of a stored response; `None` if it has no
/// ranges.
pub fn range_from_store(
    stored: Arc<CachedResponse>,
    from: u64,
    to: u64,
) -> Option<Box<PendingResponse>> {
    if stored.status != StatusCode::OK || stored.is_event_stream() {
        return None;
    }
    let mut head = head(StatusCode::PARTIAL_CONTENT, stored.headers.clone());
    let range = format!("bytes {from}-{}/{}", to - 1, stored.length);
    head.headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).ok()?);
    head.headers.remove(CONTENT_LENGTH);
    cache_status::hit(&mut head, &stored.freshness, clock::now(), None);
    let body = CachedBody::range(stored, from, to);
    Some(PendingResponse::local(head, PendingBody::Stored(body)))
}

/// The head of a response from the cache.
pub fn head(status: StatusCode, headers: HeaderMap) -> Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    (head.status, head.headers) = (status, headers);
    head
}

/// Serves a stale response for a degradation mode.
pub fn serve_stale(
    request: &mut ProxyRequest,
    stored: Arc<CachedResponse>,
) -> Box<PendingResponse> {
    let route = Arc::clone(&request.route);
    if let Some(cache) = &route.cache {
        record_result(request, cache, CacheResult::Stale);
    }
    from_store(request, stored, Some("degraded"))
}

/// The body of a follower: the response of another, equal request.
pub struct FollowerBody {
    reader: BodyReader,
    record: Box<AccessRecord>,
    /// The length of the body, if known: hyper does not poll for the end then.
    length: Option<u64>,
    idle: Duration,
    last_frame: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A body that is recorded for the cache while it is sent.
#[derive(Debug)]
pub struct RecordedBody {
    inner: Box<Streaming>,
    /// `None` once the body has ended or broken.
    recorder: Option<Box<ResponseRecorder>>,
}

// === impl FollowerBody ===

impl FollowerBody {
    pub fn new(reader: BodyReader, request: Box<ProxyRequest>) -> FollowerBody {
        // The leader enforces the idle limit of its provider. This one applies when the leader is
        // itself delayed by its client.
        let idle = request.route.tiers[0].candidates[0].provider.policy.timeouts.idle;
        let ProxyRequest { mut record, .. } = *request;
        record.release_head();
        let length = reader.of().headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        FollowerBody { reader, record, length, idle, last_frame: clock::now(), timer: None }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.reader.poll(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.last_frame = clock::now();
                self.record.bytes_out += data.len() as u64;
                if self.length == Some(self.record.bytes_out) {
                    self.record.finish(RequestEnd::Complete);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(None) => {
                self.record.finish(RequestEnd::Complete);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.interrupt(Interruption::Broken),
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                self.interrupt(Interruption::Idle)
            }
        }
    }

    fn interrupt(&mut self, cause: Interruption) -> Polled {
        self.record.finish(RequestEnd::Interrupted(cause));
        Poll::Ready(Some(Err(format!("response interrupted: {}", cause.as_str()).into())))
    }

    /// Ready when no frame arrived within the idle limit.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.last_frame + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        timer.as_mut().poll(cx)
    }
}

impl fmt::Debug for FollowerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FollowerBody({:?})", self.reader)
    }
}

// === impl RecordedBody ===

impl RecordedBody {
    pub fn new(inner: Box<Streaming>, recorder: Box<ResponseRecorder>) -> RecordedBody {
        RecordedBody { inner, recorder: Some(recorder) }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = ready!(self.inner.poll_next(cx));
        let Some(recorder) = &mut self.recorder else { return Poll::Ready(polled) };
        match &polled {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => recorder.push(data),
                // A stored response has no trailers.
                None => recorder.stop_storing(),
            },
            Some(Err(_)) => self.recorder = None,
            None => self.finish(),
        }
        // hyper does not poll a body that is at its end.
        if self.is_at_end() {
            self.finish();
        }
        Poll::Ready(polled)
    }

    fn finish(&mut self) {
        let failed = self.inner.has_failed();
        if let Some(mut recorder) = self.recorder.take() {
            if failed {
                recorder.stop_storing();
            }
            recorder.finish();
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.inner.is_at_end()
    }

    pub fn left(&self) -> Option<u64> {
        self.inner.left()
    }

    /// The recorder, until the body has ended or broken.
    pub fn recorder(&self) -> Option<&ResponseRecorder> {
        self.recorder.as_deref()
    }

    /// Ends the body early; an incomplete body is not stored. Returns the record of the transfer.
    pub fn close(mut self) -> Option<Box<AccessRecord>> {
        self.recorder = None;
        self.inner.close();
        self.inner.take_record()
    }
}

impl Drop for RecordedBody {
    fn drop(&mut self) {
        if self.is_at_end() {
            self.finish();
        }
    }
}
