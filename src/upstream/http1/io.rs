//! The bytes under a connection: TCP, or TLS over it.
//!
//! The socket is shared between the exchange, which reads and writes, and the pool, which looks before
//! use whether the other side has left. tokio's own `AsyncRead` wants the socket for itself, so
//! it is written out here on the calls that share, with the one trick that it has: after a read
//! that did not fill the buffer the socket is known to be empty (epoll tells of an edge), and
//! readiness is cleared without another system call that would only say so.

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

/// Pieces that are together no longer than this are sent as one.
const SHORT: usize = 2048;

/// Room for one short piece.
pub type Short = [u8; SHORT];

/// Head and body of a short message as one piece: the kernel takes one in less time than several.
pub fn short<'r>(bufs: &[IoSlice<'_>], room: &'r mut Short) -> Option<&'r [u8]> {
    let mut length = 0;
    for buf in bufs {
        room.get_mut(length..length + buf.len())?.copy_from_slice(buf);
        length += buf.len();
    }
    Some(&room[..length])
}

/// One shared socket.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Arc<TcpStream>);

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// How long what was sent may stay unacknowledged before the kernel gives the connection up;
    /// `None`: as long as it likes. Where there is no such option, nothing changes.
    pub(crate) fn give_up_after(&self, unacknowledged: Option<Duration>) {
        #[cfg(target_os = "linux")]
        if let Err(error) = SockRef::from(&*self.0).set_tcp_user_timeout(unacknowledged) {
            tracing::debug!(%error, "no limit on what is unacknowledged");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = unacknowledged;
    }

    /// Whether the worker has heard of the socket since it was last read empty. No system call.
    pub(crate) fn may_have_spoken(&self) -> bool {
        self.0.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Whether the other side has neither left nor said anything. A system call.
    pub(crate) fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&*self.0).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Wire {
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

impl AsyncWrite for Wire {
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
        match short(bufs, &mut [0; SHORT]) {
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

impl Wire {
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

/// What HTTP is spoken over.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// The same call on whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
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
    fn short_pieces_become_one_and_long_ones_stay_apart() {
        let (head, body, long) = ([1; 3], [2; 2], [3; SHORT - 2]);
        let mut room = [0; SHORT];
        let both = [IoSlice::new(&head), IoSlice::new(&body)];
        assert_eq!(short(&both, &mut room), Some(&[1, 1, 1, 2, 2][..]));
        assert_eq!(short(&[IoSlice::new(&head), IoSlice::new(&long)], &mut room), None);
    }
}
