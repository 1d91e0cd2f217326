//! A response with followers is read by its own task, so that a client that stops reading delays no
//! other. The original client is one of the readers.
//!
//! While the response is recorded, the task waits for no reader; the bounds of the cache limit the
//! memory. Past them it reads at the pace of the original client, and followers that stay behind are
//! interrupted.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::task::spawn_local;
use tokio::time::Sleep;

use super::body::ResponseBody;
use super::stored::RecordedBody;
use super::stream::{Polled, Streaming};
use crate::cache::recorder::ResponseRecorder;
use crate::cache::shared_body::BodyReader;
use crate::proxy::access_log::reasons::{Interruption, RequestEnd};
use crate::proxy::access_log::record::AccessRecord;
use crate::telemetry::panics::Contained;
use crate::upstream::BoxError;

/// How long the task waits for followers that are behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// The body of the original client.
pub struct FanOut {
    /// `None` after the client disconnected.
    reader: Option<BodyReader>,
    record: Box<AccessRecord>,
    /// The length of the body, if known: hyper does not poll for the end then.
    length: Option<u64>,
    source: Rc<RefCell<Source>>,
}

/// The state of the reading task.
#[derive(Default)]
struct Source {
    /// `None` after the response has ended.
    recorded: Option<RecordedBody>,
    patience: Option<Pin<Box<Sleep>>>,
    /// Only for the original client.
    trailers: Option<Frame<Bytes>>,
    error: Option<BoxError>,
    /// The record of the transfer: usage and end.
    learned: Option<Box<AccessRecord>>,
}

// === impl FanOut ===

impl FanOut {
    /// The body for a recorded response; with its own task if followers may read it.
    pub fn body(mut inner: Box<Streaming>, recorder: Box<ResponseRecorder>) -> ResponseBody {
        let (reader, length) = (recorder.initiating_reader(), inner.left());
        let record = reader.as_ref().and_then(|_| inner.take_record());
        let recorded = RecordedBody::new(inner, recorder);
        let Some(mut record) = record else { return ResponseBody::Recorded(Box::new(recorded)) };
        record.release_head();
        let source = Source { recorded: Some(recorded), ..Source::default() };
        let source = Rc::new(RefCell::new(source));
        let task = Rc::clone(&source);
        let poll = poll_fn(move |cx| task.borrow_mut().poll(cx));
        let failed = Rc::clone(&source);
        drop(spawn_local(async move {
            if Contained::new(poll).await.is_err() {
                failed.borrow_mut().close();
            }
        }));
        ResponseBody::FanOut(Box::new(FanOut { reader, record, length, source }))
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(reader) = &mut self.reader else { return Poll::Ready(None) };
        match ready!(reader.poll(cx)) {
            Some(Ok(data)) => {
                self.record.bytes_out += data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => {
                let trailers = self.source.borrow_mut().trailers.take();
                if trailers.is_none() {
                    self.finish(RequestEnd::Complete);
                }
                Poll::Ready(trailers.map(Ok))
            }
            Some(Err(_)) => {
                self.finish(RequestEnd::Interrupted(Interruption::Broken));
                let error = self.source.borrow_mut().error.take();
                Poll::Ready(Some(Err(
                    error.unwrap_or_else(|| "the response was interrupted".into())
                )))
            }
        }
    }

    /// Ends the access record, including the usage of the transfer.
    fn finish(&mut self, end: RequestEnd) {
        let learned = self.source.borrow_mut().learned.take();
        let end = match (end, learned.as_ref().and_then(|learned| learned.end)) {
            (RequestEnd::Interrupted(_), Some(cut @ RequestEnd::Interrupted(_))) => cut,
            (end, _) => end,
        };
        if let Some(mut learned) = learned {
            self.record.absorb(&mut learned);
        }
        self.record.finish(end);
    }

    pub fn is_at_end(&self) -> bool {
        self.left() == Some(0)
    }

    pub fn left(&self) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(self.record.bytes_out))
    }
}

impl Drop for FanOut {
    /// The client disconnected or has the complete body; followers may still read.
    fn drop(&mut self) {
        self.reader = None;
        if self.is_at_end() {
            return self.finish(RequestEnd::Complete);
        }
        self.source.borrow_mut().close_if_deserted();
        self.finish(RequestEnd::ClientDisconnected);
    }
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FanOut({:?})", self.reader)
    }
}

// === impl Source ===

impl Source {
    /// Reads the response; ready when it has ended or has no readers.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let polled = match self.poll_room(cx) {
                Poll::Ready(()) => match &mut self.recorded {
                    Some(recorded) => recorded.poll_next(cx),
                    None => return Poll::Ready(()),
                },
                Poll::Pending => Poll::Pending,
            };
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    self.trailers = frame.into_trailers().ok().map(Frame::trailers);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.error = Some(error);
                    self.close();
                }
                Poll::Ready(None) => self.close(),
                Poll::Pending => {
                    // A response that is already complete is stored although its readers are gone.
                    let recorder = self.recorded.as_ref().and_then(RecordedBody::recorder);
                    ready!(recorder.map_or(Poll::Pending, |recorder| recorder.poll_abandoned(cx)));
                    self.close();
                }
            }
        }
    }

    /// Ready when no reader is far behind; followers are waited for only briefly.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(recorder) = self.recorded.as_ref().and_then(RecordedBody::recorder) else {
            return Poll::Ready(());
        };
        while recorder.poll_room(cx).is_pending() {
            let sleep = || Box::pin(tokio::time::sleep(PATIENCE));
            ready!(self.patience.get_or_insert_with(sleep).as_mut().poll(cx));
            recorder.drop_slow_readers();
            self.patience = None;
        }
        self.patience = None;
        Poll::Ready(())
    }

    fn close_if_deserted(&mut self) {
        let recorder = self.recorded.as_ref().and_then(RecordedBody::recorder);
        if recorder.is_some_and(ResponseRecorder::is_abandoned) {
            self.close();
        }
    }

    /// Ends the transfer.
    fn close(&mut self) {
        self.learned = self.recorded.take().and_then(RecordedBody::close);
    }
}
