//! Dialing: DNS, TCP, the CONNECT tunnel and TLS, all within one timeout.
//!
//! Addresses are tried by Happy Eyeballs (RFC 8305): address families alternate, the next address
//! is tried when one failed or has been pending for 250 ms, and the first to connect wins.
//!
//! No byte of a request has been sent when a dial fails, so the request may be retried anywhere.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, ConnectionInner};
use super::http1::io::{SharedSocket, Transport};
use super::http1::tunnel::{self, ProxyConnectError};
use super::pool::PoolSlot;
use super::target::DialTarget;
use crate::clock;

const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why a dial failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("cannot resolve {host}: {reason}")]
    Dns { host: String, reason: Arc<str> },
    #[error("{host} has a private address ({address}), which the policy does not allow")]
    PrivateAddress { host: String, address: IpAddr },
    #[error("cannot connect to {host} ({address}): {reason}")]
    Connect { host: String, address: SocketAddr, reason: String },
    #[error("no connection to {host} within {after:?}, {phase}")]
    Timeout { host: String, after: Duration, phase: DialPhase },
    #[error("TLS handshake with {host} failed: {reason}")]
    Tls { host: String, reason: String },
    #[error("the proxy {proxy} did not connect to {host}: {reason}")]
    Proxy { proxy: String, host: String, status: Option<u16>, reason: String },
    #[error("the worker is shutting down")]
    Stopped,
}

impl DialError {
    /// The peer closed a new connection before anything was sent.
    pub fn closed(host: &str, peer: Option<SocketAddr>) -> Self {
        let address = peer.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        let reason = "it closed the connection at once".to_owned();
        DialError::Connect { host: host.to_owned(), address, reason }
    }
}

/// The step that a dial has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPhase {
    Dns,
    Tcp,
    Proxy,
    Tls,
}

impl fmt::Display for DialPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "waiting for DNS",
            Self::Tcp => "waiting for TCP",
            Self::Proxy => "waiting for the proxy",
            Self::Tls => "waiting for TLS",
        })
    }
}

/// Opens a connection that is ready for a request.
pub(super) async fn connection(
    target: &DialTarget,
    slot: PoolSlot,
) -> Result<Connection, DialError> {
    let phase = Cell::new(DialPhase::Dns);
    match tokio::time::timeout(target.connect_timeout, dial(target, slot, &phase)).await {
        Ok(result) => result,
        Err(_) => {
            let phase = phase.get();
            if phase == DialPhase::Tcp {
                target.dns.request_refresh();
            }
            Err(DialError::Timeout {
                host: target.url.host.clone(),
                after: target.connect_timeout,
                phase,
            })
        }
    }
}

async fn dial(
    target: &DialTarget,
    slot: PoolSlot,
    phase: &Cell<DialPhase>,
) -> Result<Connection, DialError> {
    let version = target.dns.version();
    let url = target.dial_url();
    let addresses = target
        .dns
        .addresses()
        .await
        .map_err(|reason| DialError::Dns { host: url.host.clone(), reason })?;
    let addresses = permitted(target, &addresses)?;
    phase.set(DialPhase::Tcp);
    let start = clock::now();
    let connected = connect_any(&addresses, url.port).await;
    let (mut socket, peer) = connected.map_err(|(address, error)| {
        target.dns.request_refresh();
        DialError::Connect { host: url.host.clone(), address, reason: error.to_string() }
    })?;
    let round_trip = slot.pool().record_connect_time(clock::since(start));
    if let Some(proxy) = &target.proxy {
        phase.set(DialPhase::Proxy);
        let tunnel = tunnel::connect(&mut socket, proxy, &target.url).await;
        tunnel.map_err(|error| proxy_error(target, &proxy.url.authority, error))?;
    }
    phase.set(DialPhase::Tls);
    let stream = start_tls(target, socket.clone()).await?;
    Ok(Connection::new(
        ConnectionInner::new(stream, socket, peer, version, round_trip, slot),
        false,
    ))
}

/// The addresses of the target's scope.
fn permitted(target: &DialTarget, found: &[IpAddr]) -> Result<Vec<IpAddr>, DialError> {
    let permitted = found.iter().copied().filter(|address| target.scope.permits(*address));
    let permitted: Vec<IpAddr> = permitted.collect();
    match (permitted.is_empty(), found.first()) {
        (true, Some(&address)) => {
            Err(DialError::PrivateAddress { host: target.dial_url().host.clone(), address })
        }
        _ => Ok(permitted),
    }
}

/// Starts TLS if the target requires it.
async fn start_tls(target: &DialTarget, socket: SharedSocket) -> Result<Transport, DialError> {
    let Some(tls) = &target.tls else { return Ok(Transport::Plain(socket)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    match connector.connect(tls.server_name.clone(), socket).await {
        Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
        Err(error) => Err(DialError::Tls {
            host: target.url.host.clone(),
            reason: super::tls::explain(&error),
        }),
    }
}

fn proxy_error(target: &DialTarget, proxy: &str, error: ProxyConnectError) -> DialError {
    let (status, reason) = match error {
        ProxyConnectError::Status(407) => (
            Some(407),
            "it requires credentials, 407 (put them in its URL: `http://user:password@...`)"
                .to_owned(),
        ),
        ProxyConnectError::Status(status) => (Some(status), format!("it returned {status}")),
        ProxyConnectError::Malformed(reason) => (None, reason.to_owned()),
        ProxyConnectError::Io(error) => (None, error.to_string()),
    };
    DialError::Proxy { proxy: proxy.to_owned(), host: target.url.host.clone(), status, reason }
}

type ConnectResult = Result<(SharedSocket, SocketAddr), (SocketAddr, io::Error)>;

/// Connects to the first address that accepts; the last error if none does.
async fn connect_any(addresses: &[IpAddr], port: u16) -> ConnectResult {
    if let [only] = addresses {
        return connect(SocketAddr::new(*only, port)).await;
    }
    let mut next =
        interleave_families(addresses).into_iter().map(|address| SocketAddr::new(address, port));
    let mut pending = JoinSet::new();
    let mut failed = (SocketAddr::from(([0; 4], port)), io::Error::other("it has no address"));
    loop {
        let has_more = next.len() > 0;
        tokio::select! {
            result = pending.join_next() => match result {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => failed = error,
                None if !has_more => return Err(failed),
                Some(Err(_)) | None => {}
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if has_more => {}
        }
        if let Some(address) = next.next() {
            pending.spawn(connect(address));
        }
    }
}

async fn connect(address: SocketAddr) -> ConnectResult {
    let connected = TcpStream::connect(address).await.and_then(SharedSocket::new);
    connected.map(|socket| (socket, address)).map_err(|error| (address, error))
}

/// Alternates the address families, beginning with the preferred one.
fn interleave_families(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut interleaved = Vec::with_capacity(addresses.len());
    for at in 0..first.len().max(second.len()) {
        interleaved.extend(first.get(at));
        interleaved.extend(second.get(at));
    }
    interleaved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|address| address.parse().expect("an address")).collect()
    }

    #[test]
    fn address_families_alternate_beginning_with_the_preferred_one() {
        assert_eq!(
            interleave_families(&addresses("::1 ::2 ::3 10.0.0.1 10.0.0.2")),
            addresses("::1 10.0.0.1 ::2 10.0.0.2 ::3")
        );
        assert_eq!(interleave_families(&addresses("10.0.0.1 ::1")), addresses("10.0.0.1 ::1"));
    }
}
