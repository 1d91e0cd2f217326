//! Writes a request: its head, then its body as it arrives.
//!
//! A complete body is sent with the head in one write. A body that is still arriving is framed by
//! its length if that is known, otherwise in chunks.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::chunked;
use super::exchange::ExchangeError;
use super::io::Transport;
use super::request_body::OutgoingBody;

/// A complete body up to this long is copied behind the head.
const MAX_COPIED: usize = 4 * 1024;
/// Largest buffer that is kept between requests.
const MAX_KEPT: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(crate) struct RequestWriter {
    /// The head, and the framing of the body.
    out: Vec<u8>,
    written: usize,
    /// Body bytes that follow `out`.
    tail: Bytes,
    /// The end of a chunk follows `tail`.
    after_tail: bool,
    body: Option<(OutgoingBody, BodyFraming)>,
    /// A complete body, kept until the first byte is sent.
    complete: Bytes,
    /// The peer accepts no more bytes. Its response may still be readable.
    error: Option<io::Error>,
    is_flushed: bool,
    is_started: bool,
}

/// The framing of a body, and how much of it is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFraming {
    Length(u64),
    Chunks,
}

impl RequestWriter {
    /// Starts a request. `head` writes its head without the framing headers.
    pub(crate) fn start(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        body: OutgoingBody,
        sends_zero_length: bool,
    ) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        head(&mut out);
        *self = RequestWriter { out, ..RequestWriter::default() };
        let length = body.size_hint().exact();
        match (&body, length) {
            (OutgoingBody::Empty | OutgoingBody::Full(None), _) => {
                self.end_head(sends_zero_length.then_some(0));
            }
            (OutgoingBody::Full(Some(bytes)), _) => {
                self.end_head(Some(bytes.len() as u64));
                match bytes.len() {
                    0..=MAX_COPIED => self.out.extend_from_slice(bytes),
                    _ => self.tail = bytes.clone(),
                }
                self.complete = bytes.clone();
            }
            (OutgoingBody::Stream(_), Some(length)) => {
                self.end_head(Some(length));
                self.body = Some((body, BodyFraming::Length(length)));
            }
            (OutgoingBody::Stream(_), None) => {
                self.out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                self.body = Some((body, BodyFraming::Chunks));
            }
        }
    }

    fn end_head(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            // Writing to memory cannot fail.
            let _ = write!(self.out, "content-length: {length}\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Takes the body back if no byte of the request was sent.
    pub(crate) fn take_back(&mut self) -> Option<OutgoingBody> {
        if self.is_started {
            return None;
        }
        let complete = OutgoingBody::full(std::mem::take(&mut self.complete));
        Some(self.body.take().map_or(complete, |(body, _)| body))
    }

    /// Whether the complete request was sent.
    pub(crate) fn is_complete(&self) -> bool {
        self.error.is_none() && self.body.is_none() && self.pending() == 0 && self.is_flushed
    }

    /// The error after which nothing more can be sent.
    pub(crate) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Frees a large buffer.
    pub(crate) fn reset(&mut self) {
        if self.out.capacity() > MAX_KEPT {
            self.out = Vec::new();
        }
    }

    fn pending(&self) -> usize {
        self.out.len() - self.written + self.tail.len()
    }

    /// Continues sending. Ready when everything was sent or nothing more can be.
    pub(crate) fn poll(
        &mut self,
        stream: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            if self.error.is_some() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_written(stream, cx)) {
                // TLS may have sent a part of what it did not accept.
                self.is_started |= matches!(stream, Transport::Tls(_));
                self.error = Some(error);
                continue;
            }
            let Some((body, framing)) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let framing = *framing;
                    self.take(frame, framing)?;
                }
                Some(Err(error)) => return Poll::Ready(Err(ExchangeError::RequestBody(error))),
                None => {
                    let is_short = matches!(*framing, BodyFraming::Length(left) if left > 0);
                    let is_chunked = *framing == BodyFraming::Chunks;
                    self.body = None;
                    if is_short {
                        let error = "the body is shorter than its length".into();
                        return Poll::Ready(Err(ExchangeError::RequestBody(error)));
                    }
                    if is_chunked {
                        chunked::write_end(&mut self.out, None);
                        self.is_flushed = false;
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        frame: http_body::Frame<Bytes>,
        framing: BodyFraming,
    ) -> Result<(), ExchangeError> {
        self.is_flushed = false;
        let frame = match frame.into_data() {
            Ok(data) => {
                match framing {
                    BodyFraming::Chunks if data.is_empty() => return Ok(()),
                    BodyFraming::Chunks => {
                        chunked::write_size(&mut self.out, data.len());
                        self.after_tail = true;
                    }
                    BodyFraming::Length(length) => {
                        let rest = length.checked_sub(data.len() as u64).ok_or_else(|| {
                            ExchangeError::RequestBody("the body is longer than its length".into())
                        })?;
                        if let Some((_, framing)) = &mut self.body {
                            *framing = BodyFraming::Length(rest);
                        }
                    }
                }
                self.tail = data;
                return Ok(());
            }
            Err(frame) => frame,
        };
        if let (Ok(trailers), BodyFraming::Chunks) = (frame.into_trailers(), framing) {
            chunked::write_end(&mut self.out, Some(&trailers));
            self.body = None;
        }
        Ok(())
    }

    fn poll_written(
        &mut self,
        stream: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(stream);
        loop {
            if self.pending() == 0 {
                self.out.clear();
                self.written = 0;
                if !std::mem::take(&mut self.after_tail) {
                    break;
                }
                self.out.extend_from_slice(b"\r\n");
            }
            let (out, tail) = (&self.out[self.written..], &self.tail[..]);
            let count = match (out.is_empty(), tail.is_empty()) {
                (_, true) => ready!(stream.as_mut().poll_write(cx, out))?,
                (true, false) => ready!(stream.as_mut().poll_write(cx, tail))?,
                (false, false) => {
                    let both = [IoSlice::new(out), IoSlice::new(tail)];
                    ready!(stream.as_mut().poll_write_vectored(cx, &both))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_started = true;
            // It can no longer be taken back; free it before a long response.
            self.complete = Bytes::new();
            let from_out = count.min(out.len());
            self.written += from_out;
            self.tail.advance(count - from_out);
        }
        if !self.is_flushed {
            ready!(stream.poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
