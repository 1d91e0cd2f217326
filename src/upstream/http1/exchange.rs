//! One request and its response on a connection (RFC 9112).
//!
//! The task that waits for the response also polls the exchange. hyper's client has a task, two
//! channels and a buffer of 9 KiB for each connection, which was a quarter of the cost of a
//! request. Responses are parsed with `httparse`, as in hyper.
//!
//! The response is read while the request's body is still being sent, because a provider may
//! respond early. A connection with bytes before the request or after the response is not reused.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::chunked::{ChunkedDecoder, ChunkedPart};
use super::io::Transport;
use super::request_body::{BoxError, OutgoingBody};
use super::request_writer::RequestWriter;
use super::response_head::{self, Framing, RequestTraits, ResponseHead, SeenNames};

/// Bounds of the read size. The upper bound is also the memory held by a slowly read stream.
const MIN_READ: usize = 8 * 1024;
const MAX_READ: usize = 32 * 1024;
/// A buffer with at least this much spare room is read into again, so that an event stream rarely
/// allocates.
const MIN_SPARE: usize = 1024;
/// More interim responses before one response are a fault of the provider.
const MAX_INTERIM: u32 = 100;

/// Why an exchange ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("the provider closed the connection before its response")]
    Closed,
    #[error("the provider closed the connection in the middle of its response")]
    Truncated,
    #[error(transparent)]
    Io(io::Error),
    #[error("{0} is malformed")]
    Malformed(&'static str),
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// The body of the request failed.
    #[error("{0}")]
    RequestBody(BoxError),
}

impl ExchangeError {
    /// The host did not acknowledge what was sent; it seems to be gone.
    pub fn is_unacknowledged(&self) -> bool {
        matches!(self, ExchangeError::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    /// The response is not valid HTTP/1, or exceeds a limit.
    pub fn is_malformed(&self) -> bool {
        matches!(self, ExchangeError::Malformed(_) | ExchangeError::TooLarge(_))
    }
}

/// A transport and the state of the exchange on it.
pub(crate) struct Exchange {
    transport: Transport,
    writer: RequestWriter,
    buffer: BytesMut,
    /// Bytes that were read and not parsed yet.
    unparsed: Bytes,
    read_size: usize,
    state: ReadState,
    /// Interim responses to the current request.
    interim: u32,
    names: SeenNames,
}

/// The flags say whether the connection may be used again.
#[derive(Debug)]
enum ReadState {
    /// No request is in flight.
    Idle,
    Head(RequestTraits),
    Length(u64, bool),
    Chunks(Box<ChunkedDecoder>, bool),
    UntilClose,
    /// The body was read to its end.
    Complete(bool),
    /// The body failed before its end.
    Broken,
    /// Switched to another protocol, or closed at the end of the body.
    Ended,
}

impl Exchange {
    pub(crate) fn new(transport: Transport) -> Self {
        Exchange {
            transport,
            writer: RequestWriter::default(),
            buffer: BytesMut::new(),
            unparsed: Bytes::new(),
            read_size: MIN_READ,
            state: ReadState::Idle,
            interim: 0,
            names: SeenNames::default(),
        }
    }

    /// Starts a request. `head` writes its head without the framing headers; `sends_zero_length`
    /// adds `content-length: 0` to an empty body.
    pub(crate) fn start(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        body: OutgoingBody,
        traits: RequestTraits,
        sends_zero_length: bool,
    ) {
        self.writer.start(head, body, sends_zero_length);
        self.state = ReadState::Head(traits);
        self.interim = 0;
    }

    /// Takes the request's body back if no byte of the request was sent.
    pub(crate) fn take_back(&mut self) -> Option<OutgoingBody> {
        self.writer.take_back()
    }

    /// Sends the request and reads the response's head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        let ReadState::Head(traits) = self.state else {
            return Poll::Ready(Err(ExchangeError::Closed));
        };
        loop {
            self.poll_send(cx)?;
            if !self.unparsed.is_empty()
                && let Some((head, length)) =
                    response_head::parse(&self.unparsed, traits, &mut self.names)?
            {
                let rest = self.unparsed.split_off(length);
                self.unparsed = rest;
                if head.parts.status.is_informational() && head.framing != Framing::Switched {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        let error = ExchangeError::TooLarge("the number of interim responses");
                        return Poll::Ready(Err(error));
                    }
                    continue;
                }
                if head.framing == Framing::Switched && !self.writer.is_complete() {
                    let early = "a protocol switch before the end of the request";
                    return Poll::Ready(Err(ExchangeError::Malformed(early)));
                }
                let reuse = head.reusable;
                self.state = match head.framing {
                    Framing::Length(0) => ReadState::Complete(reuse),
                    Framing::Length(length) => ReadState::Length(length, reuse),
                    Framing::Chunked => ReadState::Chunks(Box::new(ChunkedDecoder::new()), reuse),
                    Framing::Close => ReadState::UntilClose,
                    Framing::Switched => ReadState::Ended,
                };
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    let error = self.writer.take_error().map(ExchangeError::Io);
                    return Poll::Ready(Err(error.unwrap_or(ExchangeError::Closed)));
                }
                Err(error) => return Poll::Ready(Err(ExchangeError::Io(error))),
            }
        }
    }

    /// Reads the next frame of the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if let Err(error) = self.poll_send(cx) {
            return self.fail(error);
        }
        loop {
            match self.next_part() {
                Ok(Some(BodyPart::Frame(frame))) => return Poll::Ready(Some(Ok(frame))),
                Ok(Some(BodyPart::End)) => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
            match ready!(self.poll_read(cx)) {
                Ok(true) => {}
                Ok(false) if matches!(self.state, ReadState::UntilClose) => {
                    self.state = ReadState::Ended;
                    return Poll::Ready(None);
                }
                Ok(false) => return self.fail(ExchangeError::Truncated),
                Err(error) => return self.fail(ExchangeError::Io(error)),
            }
        }
    }

    /// The number of body bytes that are left, if known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.state {
            ReadState::Length(left, _) => Some(left),
            ReadState::Complete(_) | ReadState::Ended | ReadState::Idle => Some(0),
            ReadState::Chunks(..)
            | ReadState::UntilClose
            | ReadState::Head(_)
            | ReadState::Broken => None,
        }
    }

    /// Whether it is ready for another request.
    pub(crate) fn is_reusable(&self) -> bool {
        match self.state {
            ReadState::Idle => true,
            ReadState::Complete(reuse) => {
                reuse && self.writer.is_complete() && self.unparsed.is_empty()
            }
            _ => false,
        }
    }

    /// Whether TLS, which reads ahead, holds bytes behind the response or has seen the end. A peek
    /// at the socket would not show that. No system call.
    pub(crate) fn has_buffered_input(&mut self) -> bool {
        matches!(self.transport, Transport::Tls(_)) && self.has_unsolicited_input()
    }

    /// Prepares for the next request and frees memory.
    pub(crate) fn reset(&mut self) {
        self.state = ReadState::Idle;
        self.writer.reset();
        self.unparsed = Bytes::new();
        if self.read_size > MIN_READ {
            (self.buffer, self.read_size) = (BytesMut::new(), MIN_READ);
        }
    }

    /// Whether the peer sent unsolicited bytes or closed, as far as can be read without blocking.
    pub(crate) fn has_unsolicited_input(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_read(&mut cx).is_ready()
    }

    /// Shuts the transport down, as far as that does not block.
    pub(crate) fn close(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut self.transport).poll_shutdown(&mut cx);
    }

    /// The transport after a protocol switch, and the bytes that were already read.
    pub(crate) fn into_transport(self) -> (Transport, Bytes) {
        (self.transport, self.unparsed)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        if self.writer.is_complete() {
            return Ok(());
        }
        match self.writer.poll(&mut self.transport, cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads more into `unparsed`. False at the end of the input.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.unparsed.is_empty() {
            // The head is incomplete: append to it.
            let unparsed = std::mem::take(&mut self.unparsed);
            self.buffer =
                unparsed.try_into_mut().unwrap_or_else(|unparsed| BytesMut::from(&unparsed[..]));
        }
        if self.read_size > MIN_READ || self.buffer.capacity() - self.buffer.len() < MIN_SPARE {
            self.buffer.reserve(self.read_size);
        }
        let (length, spare) = (self.buffer.len(), self.buffer.capacity() - self.buffer.len());
        let reading = pin!(self.transport.read_buf(&mut self.buffer));
        let count = match reading.poll(cx) {
            Poll::Ready(count) => count?,
            Poll::Pending => {
                if length > 0 {
                    self.unparsed = self.buffer.split().freeze();
                }
                return Poll::Pending;
            }
        };
        if count == spare && spare >= MIN_READ {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        }
        self.unparsed = self.buffer.split().freeze();
        Poll::Ready(Ok(count > 0))
    }

    /// Parses the next part of the body; `None` when more input is needed.
    fn next_part(&mut self) -> Result<Option<BodyPart>, ExchangeError> {
        match &mut self.state {
            ReadState::Complete(_) | ReadState::Ended | ReadState::Idle => Ok(Some(BodyPart::End)),
            ReadState::Head(_) => Err(ExchangeError::Closed),
            ReadState::Broken => Err(ExchangeError::Truncated),
            _ if self.unparsed.is_empty() => Ok(None),
            ReadState::UntilClose => Ok(Some(BodyPart::data(std::mem::take(&mut self.unparsed)))),
            ReadState::Length(left, reuse) => {
                let size = usize::try_from(*left)
                    .map_or(self.unparsed.len(), |n| n.min(self.unparsed.len()));
                *left -= size as u64;
                let reuse = (*left == 0).then_some(*reuse);
                let data = self.unparsed.split_to(size);
                if let Some(reuse) = reuse {
                    self.state = ReadState::Complete(reuse);
                }
                Ok(Some(BodyPart::data(data)))
            }
            ReadState::Chunks(chunked, reuse) => match chunked.next(&mut self.unparsed)? {
                ChunkedPart::Data(data) => Ok(Some(BodyPart::data(data))),
                ChunkedPart::More => Ok(None),
                ChunkedPart::End => {
                    self.state = ReadState::Complete(*reuse);
                    Ok(Some(BodyPart::End))
                }
                ChunkedPart::Trailers(trailers) => {
                    self.state = ReadState::Complete(*reuse);
                    Ok(Some(BodyPart::trailers(trailers)))
                }
            },
        }
    }

    fn fail<T>(&mut self, error: ExchangeError) -> Poll<Option<Result<T, ExchangeError>>> {
        self.state = ReadState::Broken;
        Poll::Ready(Some(Err(error)))
    }
}

/// A part of the response body.
enum BodyPart {
    Frame(Frame<Bytes>),
    End,
}

impl BodyPart {
    fn data(data: Bytes) -> BodyPart {
        BodyPart::Frame(Frame::data(data))
    }

    fn trailers(trailers: HeaderMap) -> BodyPart {
        BodyPart::Frame(Frame::trailers(trailers))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({:?})", self.state)
    }
}
