//! One request and its response on a connection, in the task of whoever waits (RFC 9112).
//!
//! hyper's client has a task, two channels and a buffer of 9 KiB beside each connection, which was a
//! quarter of what a request cost; here sending and reading are two steps of one state, polled by the
//! request itself. Parsing is `httparse`'s, as hyper's is.
//!
//! Reading goes on while the body is still being sent: a provider may answer early. One that
//! answers before it was asked, or says more than its answer, has lost the connection.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::response::Parts;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::chunked::{Chunked, Step};
use super::io::Stream;
use super::request_body::{BoxError, ReqBody};
use super::response_head::{self, Asked, Framing};
use super::send::Upload;

/// What a read asks for at least, and at most: what a stream whose reader is slow holds.
const READ: usize = 8 * 1024;
const MOST: usize = 32 * 1024;
/// While a buffer has room for so much, small pieces are read into it side by side: a stream of
/// events takes a new one only now and then.
const ROOM: usize = 1024;

/// Why an exchange ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("the provider closed the connection before it answered")]
    Closed,
    #[error("the provider closed the connection in the middle of its answer")]
    Cut,
    #[error(transparent)]
    Io(io::Error),
    #[error("{0} is malformed")]
    Malformed(&'static str),
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// The request's own body broke.
    #[error("{0}")]
    Upload(BoxError),
}

impl ExchangeError {
    /// The host seems to have vanished.
    pub fn is_unacknowledged(&self) -> bool {
        matches!(self, ExchangeError::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    /// What came is no HTTP/1, or past what may come.
    pub fn is_malformed(&self) -> bool {
        matches!(self, ExchangeError::Malformed(_) | ExchangeError::TooLarge(_))
    }
}

/// The bytes of a connection and how far its exchange has come.
pub(crate) struct Exchange {
    stream: Stream,
    upload: Upload,
    read: BytesMut,
    /// Read, and not yet understood.
    front: Bytes,
    asks: usize,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    /// Nothing is out.
    Idle,
    Head(Asked),
    Length(u64, Keep),
    Chunks(Box<Chunked>, Keep),
    ToClose,
    /// The body was read to its end.
    Over(Keep),
    /// It broke before its end.
    Broken,
    /// Another protocol's from here on, or closed at its end.
    Ended,
}

/// Whether the connection may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keep(bool);

impl Exchange {
    pub(crate) fn new(stream: Stream) -> Self {
        Exchange {
            stream,
            upload: Upload::default(),
            read: BytesMut::new(),
            front: Bytes::new(),
            asks: READ,
            reading: Reading::Idle,
        }
    }

    /// Takes a request: `head` writes all of its head but what frames the body; `sized` says that
    /// an empty body is told by its length.
    pub(crate) fn start(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        body: ReqBody,
        asked: Asked,
        sized: bool,
    ) {
        self.upload.start(head, body, sized);
        self.reading = Reading::Head(asked);
    }

    /// Takes the request's body back, if not a byte of the request has left.
    pub(crate) fn take_back(&mut self) -> Option<ReqBody> {
        self.upload.take_back()
    }

    /// Sends, and reads the response's head.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parts, ExchangeError>> {
        let Reading::Head(asked) = self.reading else {
            return Poll::Ready(Err(ExchangeError::Closed));
        };
        loop {
            self.send_on(cx)?;
            if !self.front.is_empty()
                && let Some((head, length)) = response_head::parse(&self.front, asked)?
            {
                let rest = self.front.split_off(length);
                self.front = rest;
                if head.parts.status.is_informational() && head.framing != Framing::Switched {
                    continue;
                }
                if head.framing == Framing::Switched && !self.upload.is_over() {
                    let early = "a switch of protocols before the request was whole";
                    return Poll::Ready(Err(ExchangeError::Malformed(early)));
                }
                let keep = Keep(head.keep);
                self.reading = match head.framing {
                    Framing::Length(0) => Reading::Over(keep),
                    Framing::Length(length) => Reading::Length(length, keep),
                    Framing::Chunked => Reading::Chunks(Box::new(Chunked::new()), keep),
                    Framing::Close => Reading::ToClose,
                    Framing::Switched => Reading::Ended,
                };
                return Poll::Ready(Ok(head.parts));
            }
            match ready!(self.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    let broken = self.upload.broken().map(ExchangeError::Io);
                    return Poll::Ready(Err(broken.unwrap_or(ExchangeError::Closed)));
                }
                Err(error) => return Poll::Ready(Err(ExchangeError::Io(error))),
            }
        }
    }

    /// The next piece of the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if let Err(error) = self.send_on(cx) {
            return self.fail(error);
        }
        loop {
            match self.understand() {
                Ok(Some(Heard::Frame(frame))) => return Poll::Ready(Some(Ok(frame))),
                Ok(Some(Heard::End)) => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
            match ready!(self.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) if matches!(self.reading, Reading::ToClose) => {
                    self.reading = Reading::Ended;
                    return Poll::Ready(None);
                }
                Ok(false) => return self.fail(ExchangeError::Cut),
                Err(error) => return self.fail(ExchangeError::Io(error)),
            }
        }
    }

    /// What is left of the body, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.reading {
            Reading::Length(left, _) => Some(left),
            Reading::Over(_) | Reading::Ended | Reading::Idle => Some(0),
            Reading::Chunks(..) | Reading::ToClose | Reading::Head(_) | Reading::Broken => None,
        }
    }

    /// Ready for another request.
    pub(crate) fn is_reusable(&self) -> bool {
        match self.reading {
            Reading::Idle => true,
            Reading::Over(Keep(keep)) => keep && self.upload.is_over() && self.front.is_empty(),
            _ => false,
        }
    }

    /// TLS reads ahead: whether it holds more than the answer, or has seen the end, which no look at the
    /// socket would tell. No system call.
    pub(crate) fn holds_more(&mut self) -> bool {
        matches!(self.stream, Stream::Tls(_)) && self.has_spoken()
    }

    /// Between two requests: little memory is kept.
    pub(crate) fn rest(&mut self) {
        self.reading = Reading::Idle;
        self.upload.rest();
        self.front = Bytes::new();
        if self.asks > READ {
            (self.read, self.asks) = (BytesMut::new(), READ);
        }
    }

    /// Whether the other side said something unasked, or left, as far as can be read at once.
    pub(crate) fn has_spoken(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_more(&mut cx).is_ready()
    }

    /// Says goodbye where that takes no waiting.
    pub(crate) fn close(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx);
    }

    /// After a switch of protocols: the bytes, and those that were read already.
    pub(crate) fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.front)
    }

    fn send_on(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        if self.upload.is_over() {
            return Ok(());
        }
        match self.upload.poll(&mut self.stream, cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads into an empty front; false at the end of what comes.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.front.is_empty() {
            // A head that has not ended: what comes is put behind it.
            let front = std::mem::take(&mut self.front);
            self.read = front.try_into_mut().unwrap_or_else(|front| BytesMut::from(&front[..]));
        }
        if self.asks > READ || self.read.capacity() - self.read.len() < ROOM {
            self.read.reserve(self.asks);
        }
        let (before, room) = (self.read.len(), self.read.capacity() - self.read.len());
        let reading = pin!(self.stream.read_buf(&mut self.read));
        let count = match reading.poll(cx) {
            Poll::Ready(count) => count?,
            Poll::Pending => {
                if before > 0 {
                    self.front = self.read.split().freeze();
                }
                return Poll::Pending;
            }
        };
        if count == room && room >= READ {
            self.asks = (self.asks * 2).min(MOST);
        }
        self.front = self.read.split().freeze();
        Poll::Ready(Ok(count > 0))
    }

    /// What the front holds of the body; `None`: more is needed.
    fn understand(&mut self) -> Result<Option<Heard>, ExchangeError> {
        match &mut self.reading {
            Reading::Over(_) | Reading::Ended | Reading::Idle => Ok(Some(Heard::End)),
            Reading::Head(_) => Err(ExchangeError::Closed),
            Reading::Broken => Err(ExchangeError::Cut),
            _ if self.front.is_empty() => Ok(None),
            Reading::ToClose => Ok(Some(Heard::data(std::mem::take(&mut self.front)))),
            Reading::Length(left, keep) => {
                let size =
                    usize::try_from(*left).map_or(self.front.len(), |n| n.min(self.front.len()));
                *left -= size as u64;
                let keep = (*left == 0).then_some(*keep);
                let data = self.front.split_to(size);
                if let Some(keep) = keep {
                    self.reading = Reading::Over(keep);
                }
                Ok(Some(Heard::data(data)))
            }
            Reading::Chunks(chunked, keep) => match chunked.next(&mut self.front)? {
                Step::Data(data) => Ok(Some(Heard::data(data))),
                Step::More => Ok(None),
                Step::End => {
                    self.reading = Reading::Over(*keep);
                    Ok(Some(Heard::End))
                }
                Step::Trailers(trailers) => {
                    self.reading = Reading::Over(*keep);
                    Ok(Some(Heard::trailers(trailers)))
                }
            },
        }
    }

    fn fail<T>(&mut self, error: ExchangeError) -> Poll<Option<Result<T, ExchangeError>>> {
        self.reading = Reading::Broken;
        Poll::Ready(Some(Err(error)))
    }
}

enum Heard {
    Frame(Frame<Bytes>),
    End,
}

impl Heard {
    fn data(data: Bytes) -> Heard {
        Heard::Frame(Frame::data(data))
    }

    fn trailers(trailers: HeaderMap) -> Heard {
        Heard::Frame(Frame::trailers(trailers))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({:?})", self.reading)
    }
}
