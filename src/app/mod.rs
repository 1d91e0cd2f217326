//! Wires the parts: start order, accepting connections, shutdown order.
//!
//! The calling thread accepts connections, handles signals, and is the first worker, so that a single
//! worker serves connections on the thread that accepted them. Each other worker has its own thread.
//! The control plane (admin API, DNS, policy watcher, degradation) has one more thread, so that it
//! never delays a request.

mod control_plane;
mod core_dumps;
mod descriptors;
mod front;
mod heartbeat;
mod listener;
mod service_manager;
mod shutdown;
mod signals;
mod sockets;
mod start;
mod store_dir;
mod workers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use listener::ListenAddress;
pub use shutdown::Shutdown;
pub use start::run;
pub use store_dir::StoreDir;

use crate::admin::TokenError;
use crate::fleet;
use crate::policy::yaml::diagnostic::Diagnostic;
use crate::snapshot::build::BuildError;
use crate::store::OpenError;

/// The settings of `outrigger run`.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of policies, or one file.
    pub policies: PathBuf,
    pub listen: ListenAddress,
    pub admin: Option<SocketAddr>,
    /// `env:NAME`, `file:PATH` or the token itself.
    pub admin_token: Option<String>,
    pub metrics: Option<SocketAddr>,
    /// At least 1.
    pub workers: usize,
    /// Use file system events beside the poll.
    pub watch: bool,
    pub poll: Duration,
    pub data: StoreDir,
    /// `None`: the host is in no fleet.
    pub fleet: Option<fleet::FleetOptions>,
}

/// The reason why the sidecar did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the policy has {} problems", .0.len())]
    Policy(Vec<Diagnostic>),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot listen on {address}: {source} ({hint})")]
    Bind { address: String, source: std::io::Error, hint: &'static str },
    #[error(
        "the admin API on {0} would be open to other hosts (set --admin-token file:PATH, or keep it on loopback and serve scrapes with --metrics {0})"
    )]
    OpenAdmin(SocketAddr),
    #[error("the socket from the service manager at descriptor {descriptor} {reason}")]
    Socket { descriptor: usize, reason: &'static str },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot start a thread or an async runtime: {0}")]
    System(#[from] std::io::Error),
}
