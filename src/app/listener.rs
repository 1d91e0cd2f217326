//! The listener where applications connect: TCP or a Unix socket, bound once.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use super::StartError;
use super::sockets::ActivatedListener;
use crate::proxy::downstream::worker::AcceptedConnection;

/// The address where applications connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The open listener. Dropping it removes the file of a Unix socket that it made.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Made by the service manager, which keeps it.
    is_foreign: bool,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("`unix:` has no path (expected unix:/path/to/socket)".to_owned()),
            Some(path) => Ok(ListenAddress::Unix(path.into())),
            None => text.parse().map(ListenAddress::Tcp).map_err(|_| {
                format!(
                    "`{text}` is not an address (expected IP:PORT such as 127.0.0.1:8700, or \
                     unix:/run/outrigger.sock)"
                )
            }),
        }
    }
}

impl Listener {
    /// Uses the socket of the service manager instead of the address, if there is one. Needs a
    /// runtime.
    pub(super) fn open(
        address: &ListenAddress,
        activated: Option<ActivatedListener>,
    ) -> Result<Listener, StartError> {
        match activated {
            None => Listener::bind(address),
            Some(ActivatedListener::Tcp(listener)) => {
                Ok(Listener::Tcp(TcpListener::from_std(listener)?))
            }
            Some(ActivatedListener::Unix(listener)) => {
                let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
                let file = SocketFile { path: path.unwrap_or_default(), is_foreign: true };
                Ok(Listener::Unix(UnixListener::from_std(listener)?, file))
            }
        }
    }

    fn bind(address: &ListenAddress) -> Result<Listener, StartError> {
        let error = |address, source, hint| StartError::Bind { address, source, hint };
        match address {
            ListenAddress::Tcp(address) => {
                let bind = || {
                    let listener = StdTcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                };
                let hint = "is another sidecar running? choose another address with --listen";
                bind().map(Listener::Tcp).map_err(|e| error(address.to_string(), e, hint))
            }
            ListenAddress::Unix(path) => {
                remove_stale_socket(path);
                let hint = "does its directory exist, and may this user write there?";
                UnixListener::bind(path)
                    .map(|listener| Listener::Unix(listener, SocketFile::own(path)))
                    .map_err(|e| error(format!("unix:{}", path.display()), e, hint))
            }
        }
    }

    /// The address for logs and status.
    pub(super) fn name(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |address| format!("http://{address}")),
            Listener::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    pub(super) async fn next(&self) -> std::io::Result<AcceptedConnection> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // It fails on some systems when the client has already closed.
                let _ = stream.set_nodelay(true);
                Ok(AcceptedConnection::Tcp(stream.into_std()?, peer))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(AcceptedConnection::Unix(stream.into_std()?))
            }
        }
    }

    /// A connection in the backlog, if any. Closing the listener would reset it.
    pub(super) fn pending(&self) -> Option<AcceptedConnection> {
        let listener = match self {
            Listener::Tcp(listener) => SockRef::from(listener),
            Listener::Unix(listener, _) => SockRef::from(listener),
        };
        let (socket, peer) = listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        match self {
            Listener::Tcp(_) => {
                let _ = socket.set_tcp_nodelay(true);
                Some(AcceptedConnection::Tcp(socket.into(), peer.as_socket()?))
            }
            Listener::Unix(..) => Some(AcceptedConnection::Unix(socket.into())),
        }
    }
}

impl SocketFile {
    fn own(path: &Path) -> SocketFile {
        SocketFile { path: path.to_owned(), is_foreign: false }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, file) = self
            && !file.is_foreign
        {
            let _ = std::fs::remove_file(&file.path);
        }
    }
}

/// A killed sidecar leaves its socket file behind, and nothing listens on it.
fn remove_stale_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}
