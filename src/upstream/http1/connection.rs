//! A connection while a request uses it.
//!
//! A [`Connection`] takes one request; the response's body, an [`AnswerBody`], has it from there on.
//! Read to the end, it goes back to its pool; dropped before, it is closed, which is how HTTP/1.1
//! cancels (RFC 9112, 9.6).

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::response::Parts;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::{Exchange, ExchangeError};
use super::io::{Stream, Wire};
use super::request_body::ReqBody;
use super::response_head::Asked;
use crate::upstream::dns::Name;
use crate::upstream::pool::Place;

/// A host that has vanished acknowledges nothing. One that is only far away, or loses a packet, does
/// so within a few round trips, of which connecting took one.
const ROUND_TRIPS: u32 = 4;
const UNACKNOWLEDGED: (Duration, Duration) = (Duration::from_millis(350), Duration::from_secs(5));

const FIRST_WINDOW: u64 = 16 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// An open connection, for one request; unused, it goes to its pool when it is dropped.
#[derive(Debug)]
pub struct Connection {
    /// `None` once it was used.
    link: Option<Box<Link>>,
    reused: bool,
}

/// A request but for its head, which is written where it goes.
#[derive(Debug)]
pub struct Outgoing {
    /// By HEAD: its answer has no body.
    pub head: bool,
    /// It asks for another protocol.
    pub upgrade: bool,
    /// It may go elsewhere: when nothing of it is acknowledged soon, the connection is given up.
    pub elsewhere: bool,
    /// An empty body came with its length, and goes with it.
    pub sized: bool,
    pub body: ReqBody,
}

/// The body of a response, with the connection that it comes from.
#[derive(Debug)]
pub struct AnswerBody {
    /// `None` once it was given back.
    link: Option<Box<Link>>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not a byte of it left; its body is handed back.
    #[error("the connection was closed before the request was started: {1}")]
    Unsent(ReqBody, #[source] ExchangeError),
    /// It may have been processed.
    #[error("no response: {0}")]
    Failed(#[source] ExchangeError),
}

/// A connection as long as it is open.
#[derive(Debug)]
pub(crate) struct Link {
    exchange: Exchange,
    wire: Wire,
    /// What was sent is given up unacknowledged after `unacknowledged`.
    gives_up: bool,
    unacknowledged: Duration,
    peer: SocketAddr,
    /// Of the name's answer that had `peer` in it.
    version: Cell<u64>,
    /// What the server grants.
    keep: Duration,
    place: Place,
}

/// A connection that speaks another protocol now; it holds its place.
pub struct Tunnel {
    stream: Stream,
    first: Bytes,
    _place: Place,
}

// === impl Connection ===

impl Connection {
    pub(in crate::upstream) fn new(link: Box<Link>, reused: bool) -> Self {
        Self { link: Some(link), reused }
    }

    /// Sends a request. `head` writes its request line and headers, each with its CRLF, but for what
    /// frames the body and the empty line at the end.
    pub fn send(
        mut self,
        request: Outgoing,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> impl Future<Output = Result<(Parts, AnswerBody), SendError>> {
        let Some(mut link) = self.link.take() else {
            unreachable!("a connection has its link until it is used");
        };
        let asked = Asked { head: request.head, upgrade: request.upgrade };
        // A peer that reads slowly closes its window, which the kernel takes for silence: only what
        // fits the first window shows that nobody is there.
        let short = request.body.size_hint().upper().is_some_and(|size| size <= FIRST_WINDOW);
        link.gives_up(request.elsewhere && short && !request.upgrade);
        // Heard of since it was chosen: writing would hide that nothing was sent.
        let ended = link.has_ended();
        link.exchange.start(head, request.body, asked, request.sized);
        async move {
            let answered = match ended {
                true => Err(ExchangeError::Closed),
                false => poll_fn(|cx| link.exchange.poll_head(cx)).await,
            };
            match answered {
                Ok(parts) => {
                    if let Some(keep) = granted(&parts.headers) {
                        link.keep = keep;
                    }
                    Ok((parts, AnswerBody { link: Some(link) }))
                }
                Err(error) => Err(match link.exchange.take_back() {
                    Some(body) => SendError::Unsent(body, error),
                    None => SendError::Failed(error),
                }),
            }
        }
    }

    /// The address at the other end: the proxy's, where there is one.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.link.as_ref().map(|link| link.peer)
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&mut self) -> bool {
        self.link.as_mut().is_none_or(|link| link.has_ended())
    }

    /// Whether it had been idle: then a failure may be the server's having closed it.
    pub fn reused(&self) -> bool {
        self.reused
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.put_back();
        }
    }
}

/// A second less than the server keeps it, so that it is we who close it.
fn granted(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    parameters.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
        name.trim()
            .eq_ignore_ascii_case("timeout")
            .then(|| Duration::from_secs(seconds.saturating_sub(1)))
    })
}

// === impl AnswerBody ===

impl AnswerBody {
    /// After a 101: the connection itself.
    pub fn into_tunnel(mut self) -> Option<Tunnel> {
        let mut link = self.link.take()?;
        link.gives_up(false);
        let Link { exchange, place, .. } = *link;
        let (stream, first) = exchange.into_stream();
        Some(Tunnel { stream, first, _place: place })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match &mut self.link {
            Some(link) => link.exchange.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.exchange.left() == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.link.as_ref().map_or(Some(0), |link| link.exchange.left()) {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.put_back();
        }
    }
}

// === impl Link ===

impl Link {
    pub(in crate::upstream) fn new(
        stream: Stream,
        wire: Wire,
        (peer, version): (SocketAddr, u64),
        round_trip: Duration,
        place: Place,
    ) -> Box<Self> {
        Box::new(Self {
            exchange: Exchange::new(stream),
            wire,
            gives_up: false,
            unacknowledged: (round_trip * ROUND_TRIPS).clamp(UNACKNOWLEDGED.0, UNACKNOWLEDGED.1),
            peer,
            version: Cell::new(version),
            keep: Duration::MAX,
            place,
        })
    }

    /// To the pool, if it can take another request; else it is closed.
    fn put_back(mut self: Box<Self>) {
        if self.exchange.is_reusable() && !self.exchange.holds_more() {
            self.exchange.rest();
            Place::pool(&self.place).put_back(self);
        }
    }

    /// Whether to give up early when packets vanish.
    fn gives_up(&mut self, early: bool) {
        if self.gives_up != early {
            self.gives_up = early;
            self.wire.give_up_after(early.then_some(self.unacknowledged));
        }
    }

    /// Whether the server left, or said something unasked, as far as a look without a system call
    /// tells.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.wire.may_have_spoken() && self.exchange.has_spoken()
    }

    /// As `has_ended`, by looking at the socket.
    pub(crate) fn is_silent(&self) -> bool {
        self.wire.is_silent()
    }

    /// Whether `name` still has this address.
    pub(in crate::upstream) fn is_at(&self, name: &Name) -> bool {
        let version = name.version();
        if version == self.version.get() {
            return true;
        }
        self.version.set(version);
        name.has(self.peer.ip())
    }

    pub(crate) fn keep(&self) -> Duration {
        self.keep
    }

    /// Says goodbye where that takes no waiting.
    pub(crate) fn close(mut self) {
        self.exchange.close();
    }
}

// === impl Tunnel ===

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..count]);
        self.first.advance(count);
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
    fn a_connection_is_kept_for_a_second_less_than_the_server_says() {
        let seconds = |value| {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, HeaderValue::from_static(value))]);
            granted(&headers).map(|keep| keep.as_secs())
        };
        assert_eq!(seconds("timeout=5, max=100"), Some(4));
        assert_eq!(seconds("max=100, Timeout = 5"), Some(4));
        assert_eq!(seconds("timeout=0"), Some(0));
        assert_eq!(seconds("timeout=soon"), None);
        assert_eq!(granted(&HeaderMap::new()), None);
    }
}
