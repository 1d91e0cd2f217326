//! The listener: bound once, TCP or a Unix socket, and left with nobody waiting at it.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use super::StartError;
use crate::proxy::downstream::worker::AcceptedConnection;

/// Where applications connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The open listener; a socket file goes when it is dropped.
pub(super) enum Accept {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Accept {
    pub(super) fn bind(listen: &Listen) -> Result<Accept, StartError> {
        let bind = |what: String, source, hint| StartError::Bind { what, source, hint };
        match listen {
            Listen::Tcp(address) => {
                let socket = || {
                    let socket = StdTcpListener::bind(address)?;
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket)
                };
                let hint = "is another sidecar running? choose another with --listen";
                socket().map(Accept::Tcp).map_err(|e| bind(address.to_string(), e, hint))
            }
            Listen::Unix(path) => {
                remove_stale_socket(path);
                let hint = "does its directory exist, and may this user write there?";
                UnixListener::bind(path)
                    .map(|listener| Accept::Unix(listener, path.clone()))
                    .map_err(|e| bind(format!("unix:{}", path.display()), e, hint))
            }
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Accept::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |address| format!("http://{address}")),
            Accept::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    pub(super) async fn next(&self) -> std::io::Result<AcceptedConnection> {
        match self {
            Accept::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(AcceptedConnection::Tcp(stream.into_std()?, peer))
            }
            Accept::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(AcceptedConnection::Unix(stream.into_std()?))
            }
        }
    }

    /// A connection that was made and not yet accepted: closing the listener would reset it.
    pub(super) fn waiting(&self) -> Option<AcceptedConnection> {
        let listener = match self {
            Accept::Tcp(listener) => SockRef::from(listener),
            Accept::Unix(listener, _) => SockRef::from(listener),
        };
        let (socket, peer) = listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        match self {
            Accept::Tcp(_) => {
                socket.set_tcp_nodelay(true).ok()?;
                Some(AcceptedConnection::Tcp(socket.into(), peer.as_socket()?))
            }
            Accept::Unix(..) => Some(AcceptedConnection::Unix(socket.into())),
        }
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        if let Accept::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that nobody listens on is what a sidecar that was killed left behind.
fn remove_stale_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}
