//! A pooled connection, from checkout to return.
//!
//! A [`Connection`] sends one request; then the response's [`IncomingBody`] owns it. Once the body
//! is read to its end, the connection returns to its pool. If the body is dropped earlier, the
//! connection is closed, which is how HTTP/1.1 cancels a request (RFC 9112, 9.6).

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dns::DnsEntry;
use super::http1::exchange::{Exchange, ExchangeError};
use super::http1::io::{SharedSocket, Transport};
use super::http1::request_body::OutgoingBody;
use super::http1::response_head::{KEEP_ALIVE, RequestTraits, ResponseHead};
use super::pool::PoolSlot;

/// A host that is gone acknowledges nothing. A distant host, or one that loses a packet,
/// acknowledges within a few round trips; connecting took one.
const ROUND_TRIPS: u32 = 4;
const MIN_ACK_TIMEOUT: Duration = Duration::from_millis(350);
const MAX_ACK_TIMEOUT: Duration = Duration::from_secs(5);

const FIRST_WINDOW: u64 = 16 * 1024;

/// An open connection for one request. Dropped without use, it returns to its pool.
#[derive(Debug)]
pub struct Connection {
    /// `None` after use.
    inner: Option<Box<ConnectionInner>>,
    reused: bool,
}

/// The response head of a request that is being sent. Dropped early, it closes the connection.
#[derive(Debug)]
pub struct PendingHead {
    /// `None` after the head.
    inner: Option<Box<ConnectionInner>>,
    is_closed: bool,
}

/// A request without its head, which is written directly to the connection's buffer.
#[derive(Debug)]
pub struct OutgoingRequest {
    /// The method is HEAD: its response has no body.
    pub is_head: bool,
    /// It requests another protocol.
    pub is_upgrade: bool,
    /// It can fail over: the connection is abandoned early when the host acknowledges nothing.
    pub fails_over: bool,
    /// An empty body is sent with `content-length: 0`, because the client sent one.
    pub sends_zero_length: bool,
    pub body: OutgoingBody,
}

/// The body of a response. It owns the connection until it is read.
#[derive(Debug)]
pub struct IncomingBody {
    /// `None` after the connection was returned.
    inner: Option<Box<ConnectionInner>>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of it was sent. Its body is returned.
    #[error("the connection was closed before the request was started: {1}")]
    Unsent(OutgoingBody, #[source] ExchangeError),
    /// It may have been processed.
    #[error("no response: {0}")]
    Failed(#[source] ExchangeError),
}

/// The state of an open connection, used or idle.
#[derive(Debug)]
pub(super) struct ConnectionInner {
    exchange: Exchange,
    socket: SharedSocket,
    /// The kernel closes the connection when sent bytes stay unacknowledged for `ack_timeout`.
    has_ack_timeout: bool,
    ack_timeout: Duration,
    peer: SocketAddr,
    /// The version of the DNS entry that contained `peer`.
    dns_version: Cell<u64>,
    /// The idle time that the server grants.
    keep_alive: Duration,
    slot: PoolSlot,
}

/// A connection that was upgraded to another protocol. It keeps its slot.
pub struct Tunnel {
    stream: Transport,
    buffered: Bytes,
    _place: PoolSlot,
}

impl Connection {
    pub(super) fn new(inner: Box<ConnectionInner>, reused: bool) -> Self {
        Self { inner: Some(inner), reused }
    }

    /// Sends a request. `head` writes the request line and the headers, each with its CRLF. The
    /// framing headers and the empty line are added here.
    pub fn send(
        mut self,
        request: OutgoingRequest,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> PendingHead {
        let Some(mut inner) = self.inner.take() else {
            unreachable!("a connection is sent on once");
        };
        let traits = RequestTraits { is_head: request.is_head, is_upgrade: request.is_upgrade };
        // A peer that reads slowly closes its window, which the kernel takes for silence. Only a
        // body that fits the first window proves that the host is gone.
        let is_short = request.body.size_hint().upper().is_some_and(|size| size <= FIRST_WINDOW);
        inner.limit_ack_time(request.fails_over && is_short && !request.is_upgrade);
        // If it was closed since checkout, writing would hide that nothing was sent.
        let is_closed = inner.has_input();
        inner.exchange.start(head, request.body, traits, request.sends_zero_length);
        PendingHead { inner: Some(inner), is_closed }
    }

    /// The address of the peer, which is the proxy if there is one.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.inner.as_ref().map(|inner| inner.peer)
    }

    #[cfg(test)]
    pub(super) fn is_closed(&mut self) -> bool {
        self.inner.as_mut().is_none_or(|inner| inner.has_input())
    }

    /// Whether it was idle before. A failure may then mean that the server had closed it.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.put_back();
        }
    }
}

/// One second less than the server keeps the connection, so that we close it first.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    parameters.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
        name.trim()
            .eq_ignore_ascii_case("timeout")
            .then(|| Duration::from_secs(seconds.saturating_sub(1)))
    })
}

// === impl PendingHead ===

impl Future for PendingHead {
    type Output = Result<(Parts, IncomingBody), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let is_closed = self.is_closed;
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(SendError::Failed(ExchangeError::Closed)));
        };
        let result = match is_closed {
            true => Err(ExchangeError::Closed),
            false => ready!(inner.exchange.poll_head(cx)),
        };
        let Some(mut inner) = self.inner.take() else { return Poll::Pending };
        Poll::Ready(match result {
            Ok(ResponseHead { parts, has_keep_alive, .. }) => {
                if has_keep_alive && let Some(keep) = keep_alive_timeout(&parts.headers) {
                    inner.keep_alive = keep;
                }
                Ok((parts, IncomingBody { inner: Some(inner) }))
            }
            Err(error) => Err(match inner.exchange.take_back() {
                Some(body) => SendError::Unsent(body, error),
                None => SendError::Failed(error),
            }),
        })
    }
}

impl IncomingBody {
    /// The connection itself, after a 101 response.
    pub fn into_tunnel(mut self) -> Option<Tunnel> {
        let mut inner = self.inner.take()?;
        inner.limit_ack_time(false);
        let ConnectionInner { exchange, slot, .. } = *inner;
        let (stream, buffered) = exchange.into_transport();
        Some(Tunnel { stream, buffered, _place: slot })
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match &mut self.inner {
            Some(inner) => inner.exchange.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.exchange.remaining() == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.as_ref().map_or(Some(0), |inner| inner.exchange.remaining()) {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.put_back();
        }
    }
}

impl ConnectionInner {
    pub(super) fn new(
        stream: Transport,
        socket: SharedSocket,
        peer: SocketAddr,
        dns_version: u64,
        round_trip: Duration,
        slot: PoolSlot,
    ) -> Box<Self> {
        Box::new(Self {
            exchange: Exchange::new(stream),
            socket,
            has_ack_timeout: false,
            ack_timeout: (round_trip * ROUND_TRIPS).clamp(MIN_ACK_TIMEOUT, MAX_ACK_TIMEOUT),
            peer,
            dns_version: Cell::new(dns_version),
            keep_alive: Duration::MAX,
            slot,
        })
    }

    /// Returns to the pool if it can take another request; otherwise it is closed.
    fn put_back(mut self: Box<Self>) {
        if self.exchange.is_reusable() && !self.exchange.has_buffered_input() {
            self.exchange.reset();
            PoolSlot::pool(&self.slot).put_back(self);
        }
    }

    /// Sets or clears the kernel's timeout for unacknowledged bytes.
    fn limit_ack_time(&mut self, limited: bool) {
        if self.has_ack_timeout != limited {
            self.has_ack_timeout = limited;
            self.socket.set_ack_timeout(limited.then_some(self.ack_timeout));
        }
    }

    /// Whether the server closed the connection or sent unsolicited bytes, as far as the runtime
    /// knows without a system call.
    pub(super) fn has_input(&mut self) -> bool {
        self.socket.may_be_readable() && self.exchange.has_unsolicited_input()
    }

    /// Whether the socket has neither input nor an end. Costs a system call.
    pub(super) fn is_quiet(&self) -> bool {
        self.socket.is_quiet()
    }

    /// Whether the entry still contains this address.
    pub(super) fn still_resolves(&self, dns: &DnsEntry) -> bool {
        let version = dns.version();
        if version == self.dns_version.get() {
            return true;
        }
        self.dns_version.set(version);
        dns.contains(self.peer.ip())
    }

    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// Shuts the connection down, as far as that does not block.
    pub(super) fn close(mut self) {
        self.exchange.close();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.buffered.len().min(buf.remaining());
        buf.put_slice(&self.buffered[..count]);
        self.buffered.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tunnel")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_connection_is_kept_for_one_second_less_than_the_server_grants() {
        let seconds = |value| {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, HeaderValue::from_static(value))]);
            keep_alive_timeout(&headers).map(|keep| keep.as_secs())
        };
        assert_eq!(seconds("timeout=5, max=100"), Some(4));
        assert_eq!(seconds("max=100, Timeout = 5"), Some(4));
        assert_eq!(seconds("timeout=0"), Some(0));
        assert_eq!(seconds("timeout=soon"), None);
        assert_eq!(keep_alive_timeout(&HeaderMap::new()), None);
    }
}
