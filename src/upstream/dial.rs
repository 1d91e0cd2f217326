//! A connection from nothing: the name, TCP, the proxy, TLS, all within one time.
//!
//! Addresses are tried by Happy Eyeballs (RFC 8305): families in turn, the next one when one
//! failed or has been pending for 250 ms, the first that answers wins.
//!
//! Not a byte of a request has been sent when this fails, so each error may be repeated anywhere.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::http1::connection::{Connection, Link};
use super::http1::io::{Stream, Wire};
use super::http1::tunnel::{self, Refusal};
use super::pool::Place;
use super::target::Target;
use crate::clock;

const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("cannot resolve {host}: {reason}")]
    Dns { host: String, reason: Arc<str> },
    #[error("cannot connect to {host} ({address}): {reason}")]
    Connect { host: String, address: SocketAddr, reason: String },
    #[error("no connection to {host} within {after:?}, {phase}")]
    Timeout { host: String, after: Duration, phase: Phase },
    #[error("no TLS with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("the proxy {proxy} did not connect to {host}: {reason}")]
    Proxy { proxy: String, host: String, status: Option<u16>, reason: String },
    #[error("the worker is stopping")]
    Stopped,
}

impl DialError {
    /// A connection that was made, and closed before anything was sent.
    pub fn closed(host: &str, peer: Option<SocketAddr>) -> Self {
        let address = peer.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        let reason = "it closed the connection at once".to_owned();
        DialError::Connect { host: host.to_owned(), address, reason }
    }
}

/// What a dial is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Dns,
    Tcp,
    Proxy,
    Tls,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "waiting for its addresses",
            Self::Tcp => "waiting for TCP",
            Self::Proxy => "waiting for the proxy",
            Self::Tls => "waiting for TLS",
        })
    }
}

/// Dials, and makes the connection ready for a request.
pub(super) async fn connection(target: &Target, place: Place) -> Result<Connection, DialError> {
    let phase = Cell::new(Phase::Dns);
    match tokio::time::timeout(target.connect, dial(target, place, &phase)).await {
        Ok(dialled) => dialled,
        Err(_) => {
            let phase = phase.get();
            if phase == Phase::Tcp {
                target.name.doubt();
            }
            Err(DialError::Timeout { host: target.url.host.clone(), after: target.connect, phase })
        }
    }
}

async fn dial(target: &Target, place: Place, phase: &Cell<Phase>) -> Result<Connection, DialError> {
    let version = target.name.version();
    let dialled = target.dialled();
    let addresses = target
        .name
        .addresses()
        .await
        .map_err(|reason| DialError::Dns { host: dialled.host.clone(), reason })?;
    phase.set(Phase::Tcp);
    let began = clock::now();
    let connected = tcp(&addresses, dialled.port).await;
    let (mut wire, peer) = connected.map_err(|(address, error)| {
        target.name.doubt();
        DialError::Connect { host: dialled.host.clone(), address, reason: error.to_string() }
    })?;
    let round_trip = place.pool().connected(clock::since(began));
    if let Some(proxy) = &target.proxy {
        phase.set(Phase::Proxy);
        let tunnelled = tunnel::connect(&mut wire, proxy, &target.url).await;
        tunnelled.map_err(|refusal| refused(target, &proxy.url.authority, refusal))?;
    }
    phase.set(Phase::Tls);
    let stream = secure(target, wire.clone()).await?;
    Ok(Connection::new(Link::new(stream, wire, (peer, version), round_trip, place), false))
}

/// TLS, where the target wants it.
async fn secure(target: &Target, wire: Wire) -> Result<Stream, DialError> {
    let Some(tls) = &target.tls else { return Ok(Stream::Plain(wire)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    match connector.connect(tls.server_name.clone(), wire).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(DialError::Tls {
            host: target.url.host.clone(),
            reason: super::tls::explain(&error),
        }),
    }
}

fn refused(target: &Target, proxy: &str, refusal: Refusal) -> DialError {
    let (status, reason) = match refusal {
        Refusal::Status(407) => (
            Some(407),
            "it wants credentials, 407 (give them in its URL: `http://user:password@...`)"
                .to_owned(),
        ),
        Refusal::Status(status) => (Some(status), format!("it answered {status}")),
        Refusal::Malformed(reason) => (None, reason.to_owned()),
        Refusal::Io(error) => (None, error.to_string()),
    };
    DialError::Proxy { proxy: proxy.to_owned(), host: target.url.host.clone(), status, reason }
}

type Tried = Result<(Wire, SocketAddr), (SocketAddr, io::Error)>;

/// The first address that answers; the last error where none does.
async fn tcp(addresses: &[IpAddr], port: u16) -> Tried {
    if let [only] = addresses {
        return attempt(SocketAddr::new(*only, port)).await;
    }
    let mut next = in_turn(addresses).into_iter().map(|address| SocketAddr::new(address, port));
    let mut pending = JoinSet::new();
    let mut failed = (SocketAddr::from(([0; 4], port)), io::Error::other("it has no address"));
    loop {
        let more = next.len() > 0;
        tokio::select! {
            tried = pending.join_next() => match tried {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => failed = error,
                None if !more => return Err(failed),
                Some(Err(_)) | None => {}
            },
            () = tokio::time::sleep(NEXT_ADDRESS), if more => {}
        }
        if let Some(address) = next.next() {
            pending.spawn(attempt(address));
        }
    }
}

async fn attempt(address: SocketAddr) -> Tried {
    let connected = TcpStream::connect(address).await.and_then(Wire::new);
    connected.map(|wire| (wire, address)).map_err(|error| (address, error))
}

/// The families by turns, beginning with the preferred one.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(addresses.len());
    for at in 0..first.len().max(second.len()) {
        turns.extend(first.get(at));
        turns.extend(second.get(at));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_beginning_with_the_preferred() {
        assert_eq!(
            in_turn(&addresses("::1 ::2 ::3 10.0.0.1 10.0.0.2")),
            addresses("::1 10.0.0.1 ::2 10.0.0.2 ::3")
        );
        assert_eq!(in_turn(&addresses("10.0.0.1 ::1")), addresses("10.0.0.1 ::1"));
    }
}
