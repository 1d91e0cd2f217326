//! A loopback port reserved for one test, and a listener on it that can refuse or drop connections.
//!
//! The port is bound twice: by a socket that never listens, which reserves it while nothing
//! listens, and by the current listener. That listener may be in a process that the test starts
//! and restarts.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{PATIENCE, POLL_INTERVAL};

/// A port chosen by the kernel and given to no other process while this value lives.
#[derive(Debug)]
pub struct ReservedPort(Socket);

/// How a port treats new connections.
#[derive(Debug)]
pub enum PortState {
    Open(TcpListener),
    /// Nothing listens.
    Refusing,
    /// The backlog of the listener is full, so the kernel drops SYNs. Holds the connections that
    /// fill it.
    Dropping(Socket, Vec<StdStream>),
}

// === impl Reserved ===

impl ReservedPort {
    pub fn port() -> Self {
        Self(bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("an IPv4 address")
    }
}

// === impl Door ===

impl PortState {
    pub fn open(address: SocketAddr) -> Self {
        let socket = bind(address);
        socket.listen(1024).expect("the reserved port accepts a listener");
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        PortState::Open(TcpListener::from_std(socket.into()).expect("a runtime is entered"))
    }

    /// Fills the backlog of a listener that accepts nothing until connecting fails.
    pub fn dropping(address: SocketAddr) -> Self {
        let socket = bind(address);
        socket.listen(0).expect("the reserved port accepts a listener");
        let timeout = Duration::from_millis(50);
        let mut fillers = Vec::new();
        while let Ok(filler) = StdStream::connect_timeout(&address, timeout) {
            fillers.push(filler);
            assert!(fillers.len() < 64, "a listener with a backlog of 0 accepted 64 connections");
        }
        PortState::Dropping(socket, fillers)
    }

    /// The next connection; never returns unless the port is open.
    pub async fn accept(&self) -> TcpStream {
        match self {
            PortState::Open(listener) => listener.accept().await.expect("accepting works").0,
            _ => std::future::pending().await,
        }
    }
}

/// Binds with SO_REUSEADDR: Linux allows this next to a bound socket that does not listen.
///
/// Retries on "address in use": a process that another test is forking at this moment inherits the
/// closed listener and holds it until its `exec`.
fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR can be set");
    let began = Instant::now();
    loop {
        match socket.bind(&address.into()) {
            Ok(()) => return socket,
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => {
                std::thread::park_timeout(POLL_INTERVAL);
            }
            Err(error) => panic!("a loopback port can be bound: {error}"),
        }
    }
}
