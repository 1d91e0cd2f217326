//! The application's side of a connection: TCP or Unix socket, with or without TLS, as one type
//! that notes when bytes come and go.
//!
//! What a connection reads ahead is bounded here: hyper's buffer may be as large as a head may be,
//! grows to that for every large body, and stays as large while the body waits to be sent on.
//!
//! That a client left while it is being served is seen here as well, by looking at the socket without
//! reading: hyper would read ahead to see it, into a buffer of 8 KiB that it allocates for that
//! with each request, because the request's own buffer is in use.
//!
//! hyper's own header timeout also ends idle connections and costs a timer for each request; here
//! a read or write stores two relaxed atomics, and the worker's beat looks at them.

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

use crate::upstream::{SmallWriteBuffer, join_small};

/// The most that is read at once: one byte less than a buffer of 16 KiB, since hyper doubles the
/// buffer that a read has filled, and each piece of a body keeps its buffer.
pub const PIECE: usize = (16 << 10) - 1;

/// A stream that hyper can be given.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether `poll_unread` can tell; else hyper has to read to see the end.
    const PEEKS: bool;

    /// Bytes that could be read, without reading them; 0: the other side ended.
    fn poll_unread(&self, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
}

impl Stream for TcpStream {
    const PEEKS: bool = true;

    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_peek(cx, &mut ReadBuf::new(&mut [0]))
    }
}

impl Stream for UnixStream {
    const PEEKS: bool = true;

    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
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

/// Bytes of the connection below say nothing of those within.
impl<S: Stream> Stream for TlsStream<S> {
    const PEEKS: bool = false;
}

/// What a connection of the application is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// A request's head has begun to arrive.
    Head,
    /// A request's body is being taken in: hyper reads, and sees the end itself.
    Body,
    /// A request is being served.
    Busy,
    /// It speaks another protocol.
    Tunnel,
    /// Nothing has come yet; it owes a head.
    New,
}

/// Phase of a connection and when it last changed or moved bytes, in beats of its worker.
#[derive(Debug)]
pub struct Activity {
    phase: AtomicU8,
    since: AtomicU32,
    beats: Arc<AtomicU32>,
    /// The client's side had ended when its last bytes were read.
    ended: AtomicBool,
    last_word: OnceLock<Vec<u8>>,
}

impl Activity {
    /// A new connection owes a head.
    pub fn new(beats: Arc<AtomicU32>) -> Arc<Self> {
        let since = AtomicU32::new(beats.load(Ordering::Relaxed));
        Arc::new(Activity {
            phase: AtomicU8::new(Phase::New as u8),
            since,
            beats,
            ended: AtomicBool::new(false),
            last_word: OnceLock::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Body,
            3 => Phase::Busy,
            4 => Phase::Tunnel,
            _ => Phase::New,
        }
    }

    /// Beats since the phase began, or, between requests, since bytes last moved.
    pub fn beats_since(&self) -> u32 {
        let now = self.beats.load(Ordering::Relaxed);
        now.wrapping_sub(self.since.load(Ordering::Relaxed))
    }

    /// Who asked has left before it could be served.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(self.beats.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// What is sent when the connection is closed, hyper having nothing to say then.
    pub fn end_with(&self, answer: Vec<u8>) {
        let _ = self.last_word.set(answer);
    }

    fn read(&self) {
        match self.phase() {
            Phase::Idle => self.enter(Phase::Head),
            // Its head is owed since it was accepted.
            Phase::New => self.phase.store(Phase::Head as u8, Ordering::Relaxed),
            Phase::Head | Phase::Body | Phase::Busy | Phase::Tunnel => {}
        }
    }

    fn wrote(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.since.store(self.beats.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// A stream whose activity is noted.
#[derive(Debug)]
pub struct ClientIo<S: Stream> {
    stream: S,
    activity: Arc<Activity>,
    /// There is something to read, which tells that the client has not left.
    unread: bool,
}

impl<S: Stream> ClientIo<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        ClientIo { stream, activity, unread: false }
    }
}

impl<S: Stream> ClientIo<S> {
    fn poll_read_piece(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        if buf.remaining() <= PIECE {
            return stream.poll_read(cx, buf);
        }
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(PIECE));
        let outcome = stream.poll_read(cx, &mut piece);
        let read = piece.filled().len();
        buf.advance(read);
        outcome
    }

    /// An error when a client that is being served has left.
    fn still_there(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unread || self.activity.phase() != Phase::Busy {
            return Ok(());
        }
        match self.stream.poll_unread(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Ready(Ok(_)) => {
                self.unread = true;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// What a write came to: one that has to wait waits for the client's leaving too.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            self.still_there(cx)?;
        }
        outcome
    }
}

impl<S: Stream> Drop for ClientIo<S> {
    /// What is not taken at once is not waited for.
    fn drop(&mut self) {
        let Some(answer) = self.activity.last_word.get() else { return };
        let mut cx = Context::from_waker(Waker::noop());
        if Pin::new(&mut self.stream).poll_write(&mut cx, answer).is_ready() {
            let _ = Pin::new(&mut self.stream).poll_flush(&mut cx);
        }
    }
}

impl<S: Stream> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = self.poll_read_piece(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
            self.unread = false;
            // Of a request that is not yet served: later there are the looks.
            if matches!(self.activity.phase(), Phase::Head | Phase::Body)
                && let Poll::Ready(Ok(0)) = self.stream.poll_unread(cx)
            {
                self.activity.ended.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

impl<S: Stream> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.activity.wrote();
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.wrote();
        let stream = Pin::new(&mut self.stream);
        let outcome = match join_small(bufs, &mut [0; size_of::<SmallWriteBuffer>()]) {
            Some(one) => stream.poll_write(cx, one),
            None => stream.poll_write_vectored(cx, bufs),
        };
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever the connection is polled.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.still_there(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
