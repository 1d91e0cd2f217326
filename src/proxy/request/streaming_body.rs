//! A streamed request body: sent as it arrives, with its progress.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::body_intake::{BodyRate, trailer_fault};
use super::headers;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::proxy::downstream::problem::ProblemKind;
use crate::upstream::BoxError;

/// The progress of a streamed body.
#[derive(Debug)]
pub struct UploadProgress {
    last: Cell<Instant>,
    pub complete: Cell<bool>,
    /// The client's side failed.
    pub failed: Cell<Option<ProblemKind>>,
    pub bytes: Cell<u64>,
}

impl UploadProgress {
    pub fn new(now: Instant) -> Self {
        UploadProgress {
            last: Cell::new(now),
            complete: Cell::new(false),
            failed: Cell::new(None),
            bytes: Cell::new(0),
        }
    }

    /// When bytes last moved, or the body ended.
    pub fn last(&self) -> Instant {
        self.last.get()
    }

    fn moved(&self, bytes: u64) {
        self.last.set(clock::now());
        self.bytes.set(self.bytes.get() + bytes);
    }
}

pub struct StreamingBody {
    first: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
    upload: Rc<UploadProgress>,
    /// Names that a trailer may not have.
    reserved: Vec<HeaderName>,
    rate: BodyRate,
    /// How long the client was waited for so far. While the provider reads slowly, the client is not.
    waited: Duration,
    /// When the current wait for the client began, and when it ends at the latest.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
    _room: Reservation,
}

impl StreamingBody {
    /// Sends `first`, then `rest`.
    pub fn new(
        first: VecDeque<Frame<Bytes>>,
        rest: Option<Incoming>,
        upload: Rc<UploadProgress>,
        reserved: Vec<HeaderName>,
        rate: BodyRate,
        room: Reservation,
    ) -> Self {
        StreamingBody {
            first,
            rest,
            upload,
            reserved,
            rate,
            waited: Duration::ZERO,
            wait: None,
            _room: room,
        }
    }

    /// Ready when the client sends too slowly.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.rate.time_left(self.upload.bytes.get(), self.waited);
        let begin = || (clock::now(), Box::pin(tokio::time::sleep(left)));
        let (_, timer) = self.wait.get_or_insert_with(begin);
        timer.as_mut().poll(cx)
    }

    fn forward_frame(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.upload.moved(frame.data_ref().map_or(0, |data| data.len() as u64));
        match frame.into_trailers() {
            Ok(trailers) => {
                self.upload.complete.set(true);
                Frame::trailers(headers::trailers(trailers, &self.reserved))
            }
            Err(frame) => frame,
        }
    }
}

impl Body for StreamingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.first.pop_front() {
            return Poll::Ready(Some(Ok(this.forward_frame(frame))));
        }
        let Some(rest) = this.rest.as_mut() else {
            this.upload.complete.set(true);
            return Poll::Ready(None);
        };
        match Pin::new(rest).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(fault) = trailer_fault(&frame) {
                    this.upload.failed.set(Some(ProblemKind::RequestInterrupted));
                    return Poll::Ready(Some(Err(fault.into())));
                }
                if let Some((began, _)) = this.wait.take() {
                    this.waited += clock::since(began);
                }
                Poll::Ready(Some(Ok(this.forward_frame(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                this.upload.failed.set(Some(ProblemKind::RequestInterrupted));
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.upload.moved(0);
                this.upload.complete.set(true);
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.poll_late(cx));
                this.upload.failed.set(Some(ProblemKind::RequestTimeout));
                Poll::Ready(Some(Err("the client sends its body too slowly".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first: u64 =
            self.first.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match self.rest.as_ref().map_or(Some(0), |rest| rest.size_hint().exact()) {
            Some(rest) if !self.first.iter().any(Frame::is_trailers) => {
                SizeHint::with_exact(first + rest)
            }
            _ => SizeHint::default(),
        }
    }
}

impl fmt::Debug for StreamingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnceBody({} bytes so far)", self.upload.bytes.get())
    }
}
