//! One connection, driven by the request that uses it.
//!
//! hyper's client wants its connection polled beside the request. A task of its own for that would
//! cost each request two more wake-ups and a scheduling; instead whoever waits, for the response's
//! head or for a frame of its body, polls both in one step.
//!
//! A [`Connection`] takes one request; the response's body, an [`AnswerBody`], has it from there on.
//! Read to the end, it goes back to its pool; dropped before, it is closed, which is how HTTP/1.1
//! cancels (RFC 9112, 9.6).

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::body::ReqBody;
use super::names::Name;
use super::pool::Place;
use super::relay::Relay;
use super::wire::Wire;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Steps in a row that only woke themselves; then the task has its turn like any other.
const ROUNDS: usize = 4;

/// An open connection, for one request; unused, it goes to its pool when it is dropped.
#[derive(Debug)]
pub struct Connection {
    /// `None` once it was used.
    link: Option<Box<Link>>,
    reused: bool,
}

/// The body of a response, with the connection that it comes from.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    /// `None` once it was given back.
    link: Option<Box<Link>>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Handed back, never started.
    #[error("the connection was closed before the request was started: {1}")]
    Unsent(Box<Request<ReqBody>>, #[source] hyper::Error),
    /// It may have been processed.
    #[error("no response: {0}")]
    Failed(#[source] hyper::Error),
}

/// hyper's part of a connection; it has no name.
pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// A connection as long as it is open.
pub(super) struct Link {
    sender: SendRequest<ReqBody>,
    /// `None` once it has ended.
    driver: Option<Driver>,
    relay: Arc<Relay>,
    /// The relay's.
    waker: Waker,
    wire: Wire,
    peer: SocketAddr,
    /// Of the name's answer that had `peer` in it.
    version: Cell<u64>,
    /// What the server grants.
    keep: Duration,
    place: Place,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(link: Box<Link>, reused: bool) -> Self {
        Self { link: Some(link), reused }
    }

    /// Sends the request as it is: its target in the form that it has, its `Host` as it stands.
    pub fn send(
        mut self,
        request: Request<ReqBody>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, SendError>> {
        let Some(mut link) = self.link.take() else {
            unreachable!("a connection has its link until it is used");
        };
        let sending = link.sender.try_send_request(request);
        async move {
            let mut sending = pin!(sending);
            match poll_fn(|cx| link.drive(cx, |cx| sending.as_mut().poll(cx))).await {
                Ok(response) => {
                    if let Some(keep) = granted(response.headers()) {
                        link.keep = keep;
                    }
                    Ok(response.map(|body| AnswerBody { body, link: Some(link) }))
                }
                Err(mut error) => Err(match error.take_message() {
                    Some(request) => SendError::Unsent(Box::new(request), error.into_error()),
                    None => SendError::Failed(error.into_error()),
                }),
            }
        }
    }

    /// The address at the other end: the proxy's, where there is one.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.link.as_ref().map(|link| link.peer)
    }

    #[cfg(test)]
    pub(super) fn is_closed(&mut self) -> bool {
        self.link.as_mut().is_none_or(|link| {
            link.step();
            link.driver.is_none()
        })
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
    /// Drives the connection to its end: after a 101 that is when the upgrade is there.
    pub async fn finish(mut self) -> Held {
        let mut link = self.link.take();
        if let Some(link) = &mut link {
            poll_fn(|cx| {
                let pending = link.drive(cx, |_| Poll::<()>::Pending).is_pending();
                if pending && link.driver.is_some() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
        Held { _link: link }
    }
}

/// The place of a connection that speaks another protocol now.
#[derive(Debug)]
pub struct Held {
    _link: Option<Box<Link>>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let AnswerBody { body, link } = self.get_mut();
        match link {
            Some(link) => link.drive(cx, |cx| Pin::new(&mut *body).poll_frame(cx)),
            None => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
    pub(super) fn new(
        (sender, driver): (SendRequest<ReqBody>, Driver),
        wire: Wire,
        (peer, version): (SocketAddr, u64),
        place: Place,
    ) -> Box<Self> {
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        let (driver, version, keep) = (Some(driver), Cell::new(version), Duration::MAX);
        Box::new(Self { sender, driver, relay, waker, wire, peer, version, keep, place })
    }

    /// Polls `wanted` and the connection until neither moves the other.
    fn drive<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.relay.listen(Some(cx.waker()));
        for _ in 0..ROUNDS {
            self.relay.begin();
            let mut inner = Context::from_waker(&self.waker);
            let mut done = wanted(&mut inner);
            if done.is_pending() {
                Self::poll(&mut self.driver, &mut inner);
                done = wanted(&mut inner);
            }
            let woken = self.relay.end();
            if done.is_ready() || !woken {
                return done;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection do what it can do at once, while nobody waits for it.
    fn step(&mut self) {
        self.relay.begin();
        Self::poll(&mut self.driver, &mut Context::from_waker(&self.waker));
        self.relay.end();
    }

    fn poll(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
        // An error is the request's to tell, where there is one.
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            *driver = None;
        }
    }

    /// To the pool, if it can take another request; else it is closed.
    fn put_back(mut self: Box<Self>) {
        self.relay.listen(None);
        if !self.sender.is_ready() {
            self.step();
        }
        if self.sender.is_ready() && self.driver.is_some() {
            Place::pool(&self.place).put_back(self);
        }
    }

    /// Whether the server left, or said something unasked, as far as a look without a system call
    /// tells; also lets what was written go on.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.wire.may_have_spoken() {
            self.step();
        }
        self.driver.is_none() || self.sender.is_closed()
    }

    /// As `has_ended`, by looking at the socket.
    pub(super) fn is_silent(&self) -> bool {
        self.wire.is_silent()
    }

    /// Whether `name` still has this address.
    pub(super) fn is_at(&self, name: &Name) -> bool {
        let version = name.version();
        if version == self.version.get() {
            return true;
        }
        self.version.set(version);
        name.has(self.peer.ip())
    }

    pub(super) fn keep(&self) -> Duration {
        self.keep
    }

    /// Says goodbye where that takes no waiting.
    pub(super) fn close(self) {
        let Self { sender, mut driver, .. } = self;
        drop(sender);
        Self::poll(&mut driver, &mut Context::from_waker(Waker::noop()));
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.peer)
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
