//! The transport under a connection: TCP, or TLS over TCP.
//!
//! The socket is shared between the exchange, which reads and writes, and the pool, which checks
//! before reuse whether the peer has closed. tokio's own `AsyncRead` needs exclusive access, so it
//! is implemented here on the shared calls, with the same optimization: a read that did not fill
//! the buffer has emptied the socket (epoll is edge-triggered), so readiness is cleared without
//! another system call.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Buffers that are together no longer than this are sent as one.
const SMALL_WRITE: usize = 2048;

/// Space to join short buffers in, not initialized first.
pub const SMALL_WRITE_BUFFER: [MaybeUninit<u8>; SMALL_WRITE] = [MaybeUninit::uninit(); SMALL_WRITE];

/// Joins the head and body of a short message, because the kernel writes one buffer faster than
/// several. `None` if they do not fit.
pub fn join_small<'r>(bufs: &[IoSlice<'_>], room: &'r mut ReadBuf<'_>) -> Option<&'r [u8]> {
    for buf in bufs {
        if room.remaining() < buf.len() {
            return None;
        }
        room.put_slice(buf);
    }
    Some(room.filled())
}

/// A TCP socket with shared access.
#[derive(Clone, Debug)]
pub(crate) struct SharedSocket(Arc<TcpStream>);

impl SharedSocket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// Limits how long sent bytes may stay unacknowledged before the kernel closes the connection;
    /// `None` restores the kernel's default. Does nothing on systems without this option.
    pub(crate) fn set_ack_timeout(&self, unacknowledged: Option<Duration>) {
        #[cfg(target_os = "linux")]
        if let Err(error) = SockRef::from(&*self.0).set_tcp_user_timeout(unacknowledged) {
            tracing::debug!(%error, "cannot limit the time for acknowledgements");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = unacknowledged;
    }

    /// Whether the runtime saw input since the socket was last read empty. No system call.
    pub(crate) fn may_be_readable(&self) -> bool {
        self.0.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Whether the socket has neither input nor an end. One system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let peeked = SockRef::from(&*self.0).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &*self.0;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let space = buf.remaining();
            let mut filled = None;
            let read = stream.try_io(Interest::READABLE, || {
                let n = stream.try_read_buf(buf)?;
                filled = Some(n);
                if 0 < n && n < space { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match read {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                _ if filled.is_some() => return Poll::Ready(Ok(())),
                _ => {}
            }
        }
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match join_small(bufs, &mut ReadBuf::uninit(&mut { SMALL_WRITE_BUFFER })) {
            Some(one) => self.poll_write(cx, one),
            None => self.poll_with(cx, |stream| stream.try_write_vectored(bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }
}

impl SharedSocket {
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

/// The byte stream of a connection.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(SharedSocket),
    Tls(Box<TlsStream<SharedSocket>>),
}

/// Delegates a call to the variant.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Transport::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Transport::Tls($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_buffers_are_joined_and_long_ones_are_not() {
        let (head, body, long) = ([1; 3], [2; 2], [3; SMALL_WRITE - 2]);
        let both = [IoSlice::new(&head), IoSlice::new(&body)];
        let mut room = SMALL_WRITE_BUFFER;
        assert_eq!(join_small(&both, &mut ReadBuf::uninit(&mut room)), Some(&[1, 1, 1, 2, 2][..]));
        let longer = [IoSlice::new(&head), IoSlice::new(&long)];
        assert_eq!(join_small(&longer, &mut ReadBuf::uninit(&mut room)), None);
    }
}
