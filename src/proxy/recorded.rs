//! Bodies of answers that a cache has to do with: from the store, read along, or written down while
//! they pass.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http_body::Frame;
use tokio::time::Sleep;

use super::request::Ask;
use super::story::{End, Story};
use super::streaming::{Polled, Streaming};
use crate::cache::growing::Reader;
use crate::cache::recorder::Recorder;
use crate::cache::stored::Stored;
use crate::clock;

/// A stored body, in the frames in which it came.
#[derive(Debug)]
pub struct Replay {
    stored: Arc<Stored>,
    at: usize,
    /// An event stream is a stream again.
    sized: bool,
}

/// The answer that another request asked for.
pub struct Followed {
    reader: Reader,
    story: Box<Story>,
    /// Of the body, where it is told: nobody asks for its end then.
    length: Option<u64>,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// An answer that is written down while it passes.
#[derive(Debug)]
pub struct Recorded {
    inner: Box<Streaming>,
    /// `None` once it is over, or broke.
    recorder: Option<Box<Recorder>>,
}

// === impl Replay ===

impl Replay {
    pub fn new(stored: Arc<Stored>) -> Replay {
        let sized = !stored.is_event_stream();
        Replay { stored, at: 0, sized }
    }

    pub fn next(&mut self) -> Option<Bytes> {
        let frame = self.stored.frames.get(self.at).cloned();
        self.at += 1;
        frame
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.stored.frames.len()
    }

    pub fn left(&self) -> Option<u64> {
        let left = self.stored.frames.iter().skip(self.at).map(|frame| frame.len() as u64);
        self.sized.then(|| left.sum())
    }
}

// === impl Followed ===

impl Followed {
    pub fn new(reader: Reader, ask: Ask) -> Followed {
        // Whoever asked keeps the provider's limit; this one is for when its client is waited for.
        let idle = ask.route.tiers[0].candidates[0].provider.policy.timeouts.idle;
        let Ask { mut story, .. } = ask;
        story.lighten();
        let length = reader.of().headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Followed { reader, story, length, idle, last: clock::now(), timer: None }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.reader.poll(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.last = clock::now();
                self.story.bytes_out += data.len() as u64;
                if self.length == Some(self.story.bytes_out) {
                    self.story.finish(End::Answered);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(None) => {
                self.story.finish(End::Answered);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.cut("broken"),
            Poll::Pending => {
                ready!(self.poll_late(cx));
                self.cut("idle")
            }
        }
    }

    fn cut(&mut self, why: &'static str) -> Polled {
        self.story.finish(End::Cut(why));
        Poll::Ready(Some(Err(format!("the answer was cut: {why}").into())))
    }

    /// Ready when nothing came for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.last + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        timer.as_mut().poll(cx)
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Followed({:?})", self.reader)
    }
}

// === impl Recorded ===

impl Recorded {
    pub fn new(inner: Box<Streaming>, recorder: Box<Recorder>) -> Recorded {
        Recorded { inner, recorder: Some(recorder) }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = ready!(self.inner.poll_next(cx));
        let Some(recorder) = &mut self.recorder else { return Poll::Ready(polled) };
        match &polled {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => recorder.push(data),
                // What is given out again would not have them.
                None => recorder.give_up(),
            },
            Some(Err(_)) => self.recorder = None,
            None => self.ends(),
        }
        // hyper does not ask a body that says it is at its end.
        if self.is_at_end() {
            self.ends();
        }
        Poll::Ready(polled)
    }

    fn ends(&mut self) {
        let failed = self.inner.has_failed();
        if let Some(mut recorder) = self.recorder.take() {
            if failed {
                recorder.give_up();
            }
            recorder.ends();
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.inner.is_at_end()
    }

    pub fn left(&self) -> Option<u64> {
        self.inner.left()
    }

    /// Who writes it down, until it is over, or broke.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// Lets go of it: what did not end before is not stored. Gives what was learned of it.
    pub fn close(mut self) -> Option<Box<Story>> {
        self.recorder = None;
        self.inner.close();
        self.inner.take_story()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.is_at_end() {
            self.ends();
        }
    }
}
