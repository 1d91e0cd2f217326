//! The client's side of a connection: TCP or Unix socket, with or without TLS, as one type that
//! records when bytes move.
//!
//! Reads are bounded here. hyper's read buffer may grow to the size allowed for a head, grows to it
//! for every large body, and stays that large while the body waits to be sent on.
//!
//! A disconnect of the client is detected by peeking at the socket. hyper would detect it by reading
//! ahead, into a buffer of 8 KiB that it allocates for each request because the request's own
//! buffer is in use.
//!
//! A client that has closed its sending side has either left or waits for the response, and TCP
//! does not say which. An interim response shows which: a client that has left resets the
//! connection. It is sent only before the response begins, and to HTTP/1.1 alone.
//!
//! The responses of hyper's parser get a body here (see `parser_error`).
//!
//! hyper's own header timeout also ends idle connections and costs a timer for each request. Here
//! a read or write stores two relaxed atomics, and the worker's tick checks them.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::head_check::HeadCheck;
use super::parser_error::ParserErrors;
use super::problem::{Problem, ProblemKind};
use crate::upstream::{SMALL_WRITE_BUFFER, join_small};

/// The most bytes of one read: one less than 16 KiB, because hyper doubles a buffer that a read has
/// filled, and each frame of a body keeps its buffer.
pub const MAX_READ: usize = (16 << 10) - 1;

/// Every HTTP/1.1 client accepts it, also without having expected it (RFC 9110, 15.2).
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client stream that hyper can serve.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether `poll_peek_length` works; otherwise hyper has to read to detect a disconnect.
    const CAN_PEEK: bool;

    /// The number of bytes that could be read, without reading them; 0: the client has closed.
    fn poll_peek_length(&self, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    /// The error that the connection has had since the last call.
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }
}

impl ClientStream for TcpStream {
    const CAN_PEEK: bool = true;

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        TcpStream::take_error(self)
    }

    fn poll_peek_length(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_peek(cx, &mut ReadBuf::new(&mut [0]))
    }
}

impl ClientStream for UnixStream {
    const CAN_PEEK: bool = true;

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        UnixStream::take_error(self)
    }

    fn poll_peek_length(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let peek = || SockRef::from(self).peek(&mut [MaybeUninit::uninit()]);
            match self.try_io(Interest::READABLE, peek) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return Poll::Ready(peeked),
            }
        }
    }
}

/// Bytes on the socket do not imply bytes within TLS.
impl<S: ClientStream> ClientStream for TlsStream<S> {
    const CAN_PEEK: bool = false;
}

/// The phase of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectionPhase {
    /// Between requests.
    Idle,
    /// A request head is arriving.
    Head,
    /// A request body is being received: hyper reads, and detects a disconnect itself.
    Body,
    /// A request is being served.
    Serving,
    /// The connection speaks another protocol.
    Upgraded,
    /// Nothing has arrived yet.
    New,
}

/// The direction from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum SendingSide {
    Open,
    /// Closed, and perhaps the client has left.
    Closed,
    /// Closed by a client that still reads.
    HalfClosed,
}

/// The phase of a connection and the worker's tick in which it began or bytes last moved.
#[derive(Debug)]
pub struct Activity {
    phase: AtomicU8,
    since: AtomicU32,
    ticks: Arc<AtomicU32>,
    sending_side: AtomicU8,
    /// The request is HTTP/1.1, and no part of its response was written.
    may_probe: AtomicBool,
    closing_problem: OnceLock<Problem>,
    pub(super) parser_errors: ParserErrors,
}

impl Activity {
    pub fn new(ticks: Arc<AtomicU32>) -> Arc<Self> {
        let since = AtomicU32::new(ticks.load(Ordering::Relaxed));
        Arc::new(Activity {
            phase: AtomicU8::new(ConnectionPhase::New as u8),
            since,
            ticks,
            sending_side: AtomicU8::new(SendingSide::Open as u8),
            may_probe: AtomicBool::new(false),
            closing_problem: OnceLock::new(),
            parser_errors: ParserErrors::new(),
        })
    }

    pub fn phase(&self) -> ConnectionPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => ConnectionPhase::Idle,
            1 => ConnectionPhase::Head,
            2 => ConnectionPhase::Body,
            3 => ConnectionPhase::Serving,
            4 => ConnectionPhase::Upgraded,
            _ => ConnectionPhase::New,
        }
    }

    /// Ticks since the phase began or, between requests, since bytes last moved.
    pub fn ticks_in_phase(&self) -> u32 {
        let now = self.ticks.load(Ordering::Relaxed);
        now.wrapping_sub(self.since.load(Ordering::Relaxed))
    }

    /// Begins a request. `may_probe`: its client accepts interim responses.
    pub fn begin_request(&self, may_probe: bool) {
        self.may_probe.store(may_probe, Ordering::Relaxed);
        self.parser_errors.begin_response();
        self.enter(ConnectionPhase::Body);
    }

    /// The client closed its side before its request was served, and has yet to be probed.
    pub fn awaits_probe(&self) -> bool {
        self.is_sending_side(SendingSide::Closed)
    }

    /// The client closed its side and still reads.
    pub fn is_half_closed(&self) -> bool {
        self.is_sending_side(SendingSide::HalfClosed)
    }

    fn is_sending_side(&self, state: SendingSide) -> bool {
        self.sending_side.load(Ordering::Relaxed) == state as u8
    }

    fn set_sending_side(&self, state: SendingSide) {
        self.sending_side.store(state as u8, Ordering::Relaxed);
    }

    pub fn enter(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Sets the response to send when the connection is closed, where hyper sends nothing.
    pub fn send_on_close(&self, problem: Problem) {
        let _ = self.closing_problem.set(problem);
    }

    /// The kind of the problem that was sent in place of a request's response.
    pub fn rejection(&self) -> Option<ProblemKind> {
        let closing = self.closing_problem.get().map(|problem| problem.kind);
        closing.or_else(|| self.parser_errors.rejection())
    }

    fn record_read(&self) {
        match self.phase() {
            ConnectionPhase::Idle => self.enter(ConnectionPhase::Head),
            // The time limit of the first head began with the connection.
            ConnectionPhase::New => {
                self.phase.store(ConnectionPhase::Head as u8, Ordering::Relaxed)
            }
            ConnectionPhase::Head
            | ConnectionPhase::Body
            | ConnectionPhase::Serving
            | ConnectionPhase::Upgraded => {}
        }
    }

    fn record_write(&self) {
        self.may_probe.store(false, Ordering::Relaxed);
        if self.phase.load(Ordering::Relaxed) == ConnectionPhase::Idle as u8 {
            self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// A stream that records its activity.
#[derive(Debug)]
pub struct ClientIo<S: ClientStream> {
    stream: S,
    activity: Arc<Activity>,
    head: HeadCheck,
    /// Unread bytes are waiting, so the client has not disconnected.
    unread: bool,
    /// Bytes to write in place of the parser's own response.
    replacement: Vec<u8>,
}

impl<S: ClientStream> ClientIo<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        let head = HeadCheck::default();
        ClientIo { stream, activity, head, unread: false, replacement: Vec::new() }
    }

    fn poll_bounded_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        if buf.remaining() <= MAX_READ {
            return stream.poll_read(cx, buf);
        }
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(MAX_READ));
        let outcome = stream.poll_read(cx, &mut piece);
        let read = piece.filled().len();
        buf.advance(read);
        outcome
    }

    /// Checks bytes that were read, before the parser does.
    fn check_head(&mut self, bytes: &mut [u8]) {
        let errors = &self.activity.parser_errors;
        let fault = match self.activity.phase() {
            ConnectionPhase::New | ConnectionPhase::Idle => {
                let line = errors.check_version(bytes);
                self.head.begin(bytes, line)
            }
            ConnectionPhase::Head => self.head.resume(bytes),
            ConnectionPhase::Body | ConnectionPhase::Serving | ConnectionPhase::Upgraded => None,
        };
        if let Some(fault) = fault {
            errors.set_fault(fault);
        }
    }

    /// An error when the client disconnected while it is being served.
    fn check_disconnect(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unread || self.activity.phase() != ConnectionPhase::Serving {
            return Ok(());
        }
        if self.activity.is_half_closed() {
            return self.stream.take_error()?.map_or(Ok(()), Err);
        }
        match self.stream.poll_peek_length(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => self.probe(cx),
            Poll::Ready(Ok(_)) => {
                self.unread = true;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Decides whether a client that has closed its side still reads; an error if not. A reset that
    /// comes later is found by the checks that the worker's tick causes. hyper has nothing to write
    /// whenever `may_probe` is set here: it flushes after it has written all.
    fn probe(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.activity.may_probe.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match Pin::new(&mut self.stream).poll_write(cx, PROBE) {
            Poll::Ready(Ok(written)) if written == PROBE.len() => {}
            Poll::Ready(Err(error)) => return Err(error),
            _ => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        self.activity.set_sending_side(SendingSide::HalfClosed);
        cx.waker().wake_by_ref();
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Replaces the parser's own response. hyper writes it in one piece, and flushes before it closes.
    fn replace(&mut self, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        // A tunnel may carry bytes that look like a response.
        if self.activity.phase() == ConnectionPhase::Upgraded {
            return None;
        }
        let problem = self.activity.parser_errors.problem_for(bytes)?;
        self.replacement = problem.to_wire();
        Some(Poll::Ready(Ok(bytes.len())))
    }

    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.replacement.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.replacement))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.replacement.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// A write that has to wait also waits for a disconnect.
    fn watch_blocked(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.check_disconnect(cx)?;
        }
        written
    }
}

impl<S: ClientStream> Drop for ClientIo<S> {
    /// Sends the closing response with one write; the rest of a partial write is lost.
    fn drop(&mut self) {
        let Some(problem) = self.activity.closing_problem.get() else { return };
        let mut cx = Context::from_waker(Waker::noop());
        if Pin::new(&mut self.stream).poll_write(&mut cx, &problem.to_wire()).is_ready() {
            let _ = Pin::new(&mut self.stream).poll_flush(&mut cx);
        }
    }
}

impl<S: ClientStream> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = self.poll_bounded_read(cx, buf);
        if buf.filled().len() > before {
            self.check_head(&mut buf.filled_mut()[before..]);
            self.activity.record_read();
            self.unread = false;
            // For a request that is not yet served; once it is, `check_disconnect` applies.
            if matches!(self.activity.phase(), ConnectionPhase::Head | ConnectionPhase::Body)
                && let Poll::Ready(Ok(0)) = self.stream.poll_peek_length(cx)
            {
                self.activity.set_sending_side(SendingSide::Closed);
            }
        }
        outcome
    }
}

impl<S: ClientStream> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.activity.record_write();
        if let Some(replaced) = self.replace(buf) {
            return replaced;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_blocked(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.record_write();
        if let [bytes] = bufs
            && let Some(replaced) = self.replace(bytes)
        {
            return replaced;
        }
        let stream = Pin::new(&mut self.stream);
        let written = match join_small(bufs, &mut ReadBuf::uninit(&mut { SMALL_WRITE_BUFFER })) {
            Some(one) => stream.poll_write(cx, one),
            None => stream.poll_write_vectored(cx, bufs),
        };
        self.watch_blocked(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever the connection is polled.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_disconnect(cx)?;
        ready!(self.poll_replacement(cx))?;
        self.activity.parser_errors.record_flush();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
