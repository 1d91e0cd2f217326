//! The application's side of a connection: TCP or Unix socket, with or without TLS, as one type
//! that notes when bytes come and go.
//!
//! What a connection reads ahead is bounded here: hyper's buffer may be as large as a head may be,
//! grows to that for every large body, and stays as large while the body waits to be sent on.
//!
//! hyper's own header timeout also ends idle connections and costs a timer for each request; here
//! a read or write stores two relaxed atomics, and the worker's beat looks at them.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::upstream::{Short, short};

/// The most that is read at once: one byte less than a buffer of 16 KiB, since hyper doubles the
/// buffer that a read has filled, and each piece of a body keeps its buffer.
pub const PIECE: usize = (16 << 10) - 1;

/// A stream that hyper can be given.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}
impl<S: Stream> Stream for TlsStream<S> {}

/// What a connection of the application is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// A request's head has begun to arrive.
    Head,
    /// A request is being served.
    Busy,
    /// Nothing has come yet; it owes a head.
    New,
}

/// Phase of a connection and when it last changed or moved bytes, in beats of its worker.
#[derive(Debug)]
pub struct Activity {
    phase: AtomicU8,
    since: AtomicU32,
    beats: Arc<AtomicU32>,
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
            last_word: OnceLock::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::New,
        }
    }

    /// Beats since the phase began, or, between requests, since bytes last moved.
    pub fn beats_since(&self) -> u32 {
        let now = self.beats.load(Ordering::Relaxed);
        now.wrapping_sub(self.since.load(Ordering::Relaxed))
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
            Phase::Head | Phase::Busy => {}
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
}

impl<S: Stream> ClientIo<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        ClientIo { stream, activity }
    }
}

impl<S: Stream> ClientIo<S> {
    fn poll_read_piece(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
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
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let outcome = self.poll_read_piece(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        outcome
    }
}

impl<S: Stream> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.activity.wrote();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.activity.wrote();
        let stream = Pin::new(&mut self.stream);
        match short(bufs, &mut [0; size_of::<Short>()]) {
            Some(one) => stream.poll_write(cx, one),
            None => stream.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
