//! Sockets that the service manager opened (socket activation).
//!
//! They stay open in the service manager while the sidecar restarts, so that connections wait in
//! their backlog instead of being refused. `LISTEN_FDNAMES` says which is which: `admin`, `metrics`,
//! and any other name for the socket of applications.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;

use listenfd::ListenFd;
use socket2::SockRef;

use super::StartError;

/// The sockets that were passed to this process.
#[derive(Debug, Default)]
pub(super) struct ActivatedSockets {
    pub listener: Option<ActivatedListener>,
    pub admin: Option<StdTcpListener>,
    pub metrics: Option<StdTcpListener>,
}

/// The socket where applications connect.
#[derive(Debug)]
pub(super) enum ActivatedListener {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

impl ActivatedSockets {
    /// Takes the sockets that the environment announces; none when it is meant for another process.
    ///
    /// # Errors
    /// When a descriptor is no listening socket of the expected kind, or two have the same purpose.
    pub fn from_environment() -> Result<ActivatedSockets, StartError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Ok(ActivatedSockets::default());
        }
        let names = variable("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let (mut passed, mut sockets) = (ListenFd::from_env(), ActivatedSockets::default());
        for index in 0..passed.len() {
            sockets.add(&mut passed, index, names.next().unwrap_or_default())?;
        }
        Ok(sockets)
    }

    fn add(&mut self, passed: &mut ListenFd, index: usize, name: &str) -> Result<(), StartError> {
        let is_taken = match name {
            "admin" => self.admin.replace(tcp(passed, index)?).is_some(),
            "metrics" => self.metrics.replace(tcp(passed, index)?).is_some(),
            _ => self.listener.replace(ActivatedListener::take(passed, index)?).is_some(),
        };
        match is_taken {
            true => Err(rejected(index, "is a second one of its name; one is supported")),
            false => Ok(()),
        }
    }

    /// The address of the admin listener, if it was passed.
    ///
    /// # Errors
    /// When the operating system does not name it.
    pub fn admin_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(StdTcpListener::local_addr).transpose()
    }
}

impl ActivatedListener {
    fn take(passed: &mut ListenFd, index: usize) -> Result<ActivatedListener, StartError> {
        let Ok(Some(listener)) = passed.take_unix_listener(index) else {
            return tcp(passed, index).map(ActivatedListener::Tcp);
        };
        check_listening(SockRef::from(&listener), index)?;
        listener.set_nonblocking(true)?;
        Ok(ActivatedListener::Unix(listener))
    }
}

fn tcp(passed: &mut ListenFd, index: usize) -> Result<StdTcpListener, StartError> {
    let Ok(Some(listener)) = passed.take_tcp_listener(index) else {
        return Err(rejected(index, "is not a TCP socket (ListenStream=)"));
    };
    check_listening(SockRef::from(&listener), index)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn check_listening(socket: SockRef<'_>, index: usize) -> Result<(), StartError> {
    match socket.is_listener() {
        Ok(true) => Ok(()),
        _ => Err(rejected(index, "does not listen (the socket unit needs Accept=no)")),
    }
}

fn rejected(index: usize, reason: &'static str) -> StartError {
    StartError::Socket { descriptor: 3 + index, reason }
}
