//! One connection while a request uses it.
//!
//! A [`Connection`] takes one request; the [`Busy`] that comes with the response holds its place
//! while the body is read. Dropping either gives the connection back. One that is dropped between
//! request and response is closed, which is how HTTP/1.1 cancels (RFC 9112, 9.6).

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;

use super::body::ReqBody;
use super::names::Name;
use super::pool::Place;
use super::wire::Wire;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// An open connection, for one request.
#[derive(Debug)]
pub struct Connection {
    lease: Lease,
    reused: bool,
}

/// Holds the connection's place while the response is read; keep it until the end of the body, or
/// of the tunnel after a 101.
#[derive(Debug)]
pub struct Busy {
    _lease: Lease,
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

/// The use of a connection; given back on drop.
pub(super) struct Lease {
    /// `None` once it was given back.
    sender: Option<SendRequest<ReqBody>>,
    member: Rc<Member>,
    keep: Duration,
    /// A request is out without its response.
    awaits: bool,
}

/// What is known of a connection as long as it is open.
pub(super) struct Member {
    wire: Wire,
    peer: SocketAddr,
    /// Of the name's answer that had `peer` in it.
    version: Cell<u64>,
    driver: OnceCell<AbortHandle>,
    place: Place,
}

/// The connection's own task; hyper does not name its part of it.
pub(super) struct Driver<C> {
    connection: C,
    member: Rc<Member>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(lease: Lease, reused: bool) -> Self {
        Self { lease, reused }
    }

    /// Sends the request as it is: its target in the form that it has, its `Host` as it stands.
    pub async fn send(
        self,
        request: Request<ReqBody>,
    ) -> Result<(Response<Incoming>, Busy), SendError> {
        let mut lease = self.lease;
        let Some(sender) = &mut lease.sender else {
            unreachable!("a lease has its sender until it is dropped");
        };
        lease.awaits = true;
        match sender.try_send_request(request).await {
            Ok(response) => {
                lease.awaits = false;
                if let Some(keep) = granted(response.headers()) {
                    lease.keep = keep;
                }
                Ok((response, Busy { _lease: lease }))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::Unsent(Box::new(request), error.into_error()),
                None => SendError::Failed(error.into_error()),
            }),
        }
    }

    /// The address at the other end: the proxy's, where there is one.
    pub fn peer(&self) -> Option<SocketAddr> {
        Some(self.lease.member.peer)
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.lease.sender.as_ref().is_none_or(SendRequest::is_closed)
    }

    /// Whether it had been idle: then a failure may be the server's having closed it.
    pub fn reused(&self) -> bool {
        self.reused
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

// === impl Lease ===

impl Lease {
    pub(super) fn new(sender: SendRequest<ReqBody>, member: Rc<Member>, keep: Duration) -> Self {
        Self { sender: Some(sender), member, keep, awaits: false }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        if self.awaits {
            self.member.close();
        } else {
            self.member.place.0.put_back(sender, Rc::clone(&self.member), self.keep);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.member.peer)
    }
}

// === impl Member ===

impl Member {
    pub(super) fn new(wire: Wire, peer: SocketAddr, version: u64, place: Place) -> Self {
        Self { wire, peer, version: Cell::new(version), driver: OnceCell::new(), place }
    }

    pub(super) fn driven_by(&self, driver: AbortHandle) {
        let _ = self.driver.set(driver);
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

    pub(super) fn is_silent(&self) -> bool {
        self.wire.is_silent()
    }

    /// Closes the connection, whatever it is doing.
    pub(super) fn close(&self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({})", self.peer)
    }
}

// === impl Driver ===

impl<C> Driver<C> {
    pub(super) fn new(connection: C, member: Rc<Member>) -> Self {
        Self { connection, member }
    }
}

impl<C: Future<Output = hyper::Result<()>> + Unpin> Future for Driver<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // An error is the request's to tell, where there is one.
        let ended = Pin::new(&mut self.connection).poll(cx).map(drop);
        // It may have become ready for the next request in this step.
        self.member.place.0.awaken();
        ended
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        self.member.place.0.remove(&self.member);
    }
}

impl<C> fmt::Debug for Driver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({})", self.member.peer)
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
