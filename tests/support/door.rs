//! A loopback port of a test's own, and who stands at it.
//!
//! The port is bound twice: by a socket that never listens, which keeps it ours while nobody does, and by
//! whoever listens just then. A process that a test starts can be that one, and be started again.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{PATIENCE, TURN};

/// A port that nobody else is given, of the kernel's choosing.
#[derive(Debug)]
pub struct Reserved(Socket);

/// Who stands at the port.
#[derive(Debug)]
pub enum Door {
    Open(TcpListener),
    Refusing,
    /// A listener whose queue is full, and the connections that fill it: SYNs are dropped.
    Dropping(Socket, Vec<StdStream>),
}

// === impl Reserved ===

impl Reserved {
    pub fn port() -> Self {
        Self(bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("an IPv4 address")
    }
}

// === impl Door ===

impl Door {
    pub fn open(address: SocketAddr) -> Self {
        let socket = bind(address);
        socket.listen(1024).expect("a port of ours can be listened on");
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        Door::Open(TcpListener::from_std(socket.into()).expect("a runtime is at hand"))
    }

    /// Fills the queue of a listener that accepts nothing until connecting fails.
    pub fn dropping(address: SocketAddr) -> Self {
        let socket = bind(address);
        socket.listen(0).expect("a port of ours can be listened on");
        let patience = Duration::from_millis(50);
        let mut fillers = Vec::new();
        while let Ok(filler) = StdStream::connect_timeout(&address, patience) {
            fillers.push(filler);
            assert!(fillers.len() < 64, "a listener with a queue of none took 64 connections");
        }
        Door::Dropping(socket, fillers)
    }

    /// The next connection; never, where nobody may come in.
    pub async fn accept(&self) -> TcpStream {
        match self {
            Door::Open(listener) => listener.accept().await.expect("a connection can be taken").0,
            _ => std::future::pending().await,
        }
    }
}

/// Linux lets a port be bound again, under SO_REUSEADDR, beside a socket that does not listen. One
/// that did is held for a moment longer by a process that another test is starting just then, until
/// that process has become its program.
fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR can be set");
    let began = Instant::now();
    loop {
        match socket.bind(&address.into()) {
            Ok(()) => return socket,
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => {
                std::thread::park_timeout(TURN);
            }
            Err(error) => panic!("a loopback port can be bound: {error}"),
        }
    }
}
