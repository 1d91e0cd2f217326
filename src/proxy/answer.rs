//! The answer on its way to the application: whole, or frame by frame as it comes.
//!
//! An answer that breaks after its first byte is never ended cleanly: its body yields an error, so
//! that the connection closes without the final chunk or short of its length.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::story::{End, Story};
use crate::clock;
use crate::live::buffers::Reservation;
use crate::live::permit::{Afterwards, Flight};
use crate::upstream::{AnswerBody, BoxError};

/// The body of an answer.
#[derive(Debug)]
pub enum ResBody {
    /// `None` once it was taken.
    Full(Option<Bytes>),
    Stream(Box<Streaming>),
}

/// An answer that is passed on as it comes, with everything that it holds to its end.
pub struct Streaming {
    pub first: VecDeque<Frame<Bytes>>,
    pub rest: Option<AnswerBody>,
    pub idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    story: Box<Story>,
    /// It broke; told once everything before has had its turn to be written.
    broken: Option<&'static str>,
    pub flight: Option<Flight>,
    pub afterwards: Option<Afterwards>,
    pub room: Option<Reservation>,
}

impl ResBody {
    pub fn full(bytes: Bytes) -> Self {
        ResBody::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl Streaming {
    /// An answer that begins with these frames.
    pub fn of(story: Box<Story>, first: VecDeque<Frame<Bytes>>, idle: Duration) -> Self {
        Streaming {
            first,
            rest: None,
            idle,
            last: clock::now(),
            timer: None,
            story,
            broken: None,
            flight: None,
            afterwards: None,
            room: None,
        }
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.story.bytes_out += size;
        frame
    }

    fn over(&mut self) {
        self.story.finish(End::Answered);
        self.let_go();
    }

    fn cut(&mut self, why: &'static str) -> BoxError {
        if let Some(afterwards) = self.afterwards.take() {
            afterwards.cut(clock::now());
        }
        self.story.finish(End::Cut(why));
        self.let_go();
        format!("the answer was cut: {why}").into()
    }

    /// The error, in the turn after the one in which it was found: hyper throws away what it has not
    /// written yet when a body fails.
    fn poll_cut(
        &mut self,
        why: &'static str,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.broken.replace(why).is_some() {
            return Poll::Ready(Some(Err(self.cut(why))));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn let_go(&mut self) {
        self.rest = None;
        self.flight = None;
        self.room = None;
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(why) = self.broken {
            return self.poll_cut(why, cx);
        }
        let Some(rest) = self.rest.as_mut() else {
            self.over();
            return Poll::Ready(None);
        };
        match Pin::new(rest).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.last = clock::now();
                let frame = self.passed(frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.poll_cut("broken", cx),
            Poll::Ready(None) => {
                self.over();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                Poll::Ready(Some(Err(self.cut("idle"))))
            }
        }
    }

    /// Ready when nothing came for `idle`. The timer is moved only when it fires early.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        loop {
            let at = self.last + idle;
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            ready!(timer.as_mut().poll(cx));
            if clock::now() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at.into());
        }
    }
}

impl Body for ResBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResBody::Stream(stream) => match stream.first.pop_front() {
                Some(frame) => {
                    let frame = stream.passed(frame);
                    Poll::Ready(Some(Ok(frame)))
                }
                None => stream.poll_rest(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResBody::Full(bytes) => bytes.is_none(),
            ResBody::Stream(stream) => {
                stream.first.is_empty() && stream.rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResBody::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            ResBody::Stream(stream) => {
                let first: u64 =
                    stream.first.iter().filter_map(Frame::data_ref).map(|d| d.len() as u64).sum();
                match stream.rest.as_ref().map_or(Some(0), |rest| rest.size_hint().exact()) {
                    Some(rest) if !stream.first.iter().any(Frame::is_trailers) => {
                        SizeHint::with_exact(first + rest)
                    }
                    _ => SizeHint::default(),
                }
            }
        }
    }
}

impl Drop for Streaming {
    /// hyper does not ask a body that says it is at its end; that is no client that left.
    fn drop(&mut self) {
        if let Some(why) = self.broken {
            self.cut(why);
        } else if self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream) {
            self.over();
        }
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streaming({} frames first)", self.first.len())
    }
}
