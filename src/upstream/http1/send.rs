//! A request on its way out: its head, then its body as that comes.
//!
//! A body that is known in full goes with the head in one piece. One that still arrives is framed by
//! its length where it has one, else in chunks.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::chunked;
use super::exchange::ExchangeError;
use super::io::Stream;
use super::request_body::ReqBody;

/// A body up to this long is copied behind its head.
const COPIED: usize = 4 * 1024;
/// What is kept of the buffer between requests.
const KEPT: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// Head, and what frames the body.
    out: Vec<u8>,
    written: usize,
    /// Follows `out`.
    tail: Bytes,
    /// Follows `tail`: the end of a chunk.
    after_tail: bool,
    body: Option<(ReqBody, Left)>,
    /// One that was known in full, in case that none of it leaves.
    whole: Bytes,
    /// The other side takes no more; what it said before may still be read.
    broken: Option<io::Error>,
    flushed: bool,
    begun: bool,
}

/// What the framing of a body still expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Length(u64),
    Chunks,
}

impl Upload {
    /// Takes a request: `head` writes all of its head but what frames the body.
    pub(crate) fn start(&mut self, head: impl FnOnce(&mut Vec<u8>), body: ReqBody, sized: bool) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        head(&mut out);
        *self = Upload { out, ..Upload::default() };
        let length = body.size_hint().exact();
        match (&body, length) {
            (ReqBody::Empty | ReqBody::Full(None), _) => {
                self.end_head(sized.then_some(0));
            }
            (ReqBody::Full(Some(bytes)), _) => {
                self.end_head(Some(bytes.len() as u64));
                match bytes.len() {
                    0..=COPIED => self.out.extend_from_slice(bytes),
                    _ => self.tail = bytes.clone(),
                }
                self.whole = bytes.clone();
            }
            (ReqBody::Stream(_), Some(length)) => {
                self.end_head(Some(length));
                self.body = Some((body, Left::Length(length)));
            }
            (ReqBody::Stream(_), None) => {
                self.out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                self.body = Some((body, Left::Chunks));
            }
        }
    }

    fn end_head(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            // Into memory, which takes everything.
            let _ = write!(self.out, "content-length: {length}\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// The body, if not a byte of the request has left.
    pub(crate) fn take_back(&mut self) -> Option<ReqBody> {
        if self.begun {
            return None;
        }
        let whole = ReqBody::full(std::mem::take(&mut self.whole));
        Some(self.body.take().map_or(whole, |(body, _)| body))
    }

    /// Nothing of it is left to send.
    pub(crate) fn is_over(&self) -> bool {
        self.broken.is_none() && self.body.is_none() && self.pending() == 0 && self.flushed
    }

    /// Why nothing more can be sent.
    pub(crate) fn broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Lets go of the request.
    pub(crate) fn rest(&mut self) {
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
    }

    fn pending(&self) -> usize {
        self.out.len() - self.written + self.tail.len()
    }

    /// Sends on. Ready when all was sent, or nothing more can be.
    pub(crate) fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            if self.broken.is_some() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_written(stream, cx)) {
                // TLS may have sent a part of what it did not take.
                self.begun |= matches!(stream, Stream::Tls(_));
                self.broken = Some(error);
                continue;
            }
            let Some((body, left)) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let left = *left;
                    self.take(frame, left)?;
                }
                Some(Err(error)) => return Poll::Ready(Err(ExchangeError::Upload(error))),
                None => {
                    let short = matches!(*left, Left::Length(left) if left > 0);
                    let chunks = *left == Left::Chunks;
                    self.body = None;
                    if short {
                        let error = "the body is shorter than its length".into();
                        return Poll::Ready(Err(ExchangeError::Upload(error)));
                    }
                    if chunks {
                        chunked::write_end(&mut self.out, None);
                        self.flushed = false;
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: http_body::Frame<Bytes>, left: Left) -> Result<(), ExchangeError> {
        self.flushed = false;
        let frame = match frame.into_data() {
            Ok(data) => {
                match left {
                    Left::Chunks if data.is_empty() => return Ok(()),
                    Left::Chunks => {
                        chunked::write_size(&mut self.out, data.len());
                        self.after_tail = true;
                    }
                    Left::Length(length) => {
                        let rest = length.checked_sub(data.len() as u64).ok_or_else(|| {
                            ExchangeError::Upload("the body is longer than its length".into())
                        })?;
                        if let Some((_, left)) = &mut self.body {
                            *left = Left::Length(rest);
                        }
                    }
                }
                self.tail = data;
                return Ok(());
            }
            Err(frame) => frame,
        };
        if let (Ok(trailers), Left::Chunks) = (frame.into_trailers(), left) {
            chunked::write_end(&mut self.out, Some(&trailers));
            self.body = None;
        }
        Ok(())
    }

    fn poll_written(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
            self.begun = true;
            // It cannot come back, and a long answer must not keep it.
            self.whole = Bytes::new();
            let of_out = count.min(out.len());
            self.written += of_out;
            self.tail.advance(count - of_out);
        }
        if !self.flushed {
            ready!(stream.poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
