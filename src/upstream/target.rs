//! Where an address is dialled and how: the part of a provider that connections depend on.
//!
//! Targets that are configured alike have the same id, so that their pools survive a reload;
//! how long a dial may take and how many connections there may be are retuned, not part of it.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::dns::{Name, Resolver};
use crate::policy::sections::model::{ClientTls, ForwardProxy, Url};

/// Immutable, and shared by all workers.
pub struct Target {
    id: u64,
    pub(super) url: Url,
    pub(super) tls: Option<Tls>,
    pub(super) proxy: Option<ForwardProxy>,
    /// For the whole of a dial.
    pub(super) connect: Duration,
    /// A worker's.
    pub(super) connections: usize,
    /// Of the proxy, where there is one.
    pub(super) name: Arc<Name>,
}

#[derive(Clone)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// Why a target cannot be made of what the policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{}: {reason}, expected {expected} in PEM", .path.display())]
    Pem { path: PathBuf, expected: String, reason: String },
    #[error(
        "cannot use the system's certificate authorities: {reason} (install ca-certificates, or name a file with `tls.ca`)"
    )]
    SystemRoots { reason: String },
    #[error(
        "`{name}` cannot be the name of a TLS server, expected a DNS name or an IP address (see `tls.server_name`)"
    )]
    ServerName { name: String },
    #[error("proxy https://{authority}: a proxy over TLS is not supported, expected http://")]
    ProxyScheme { authority: String },
    #[error("cannot set up TLS: {reason}")]
    Tls { reason: String },
}

impl Target {
    pub fn new(
        url: &Url,
        tls: &ClientTls,
        proxy: Option<&ForwardProxy>,
        connect: Duration,
        connections: usize,
        resolver: &Resolver,
    ) -> Result<Arc<Target>, TargetError> {
        if let Some(proxy) = proxy.filter(|proxy| proxy.url.https) {
            return Err(TargetError::ProxyScheme { authority: proxy.url.authority.clone() });
        }
        let dialled = proxy.map_or(url, |proxy| &proxy.url);
        Ok(Arc::new(Target {
            id: identify(url, tls, proxy),
            url: url.clone(),
            tls: if url.https { Some(Tls::new(url, tls, resolver)?) } else { None },
            proxy: proxy.cloned(),
            connect,
            connections: connections.max(1),
            name: resolver.name(&dialled.host),
        }))
    }

    /// Equal where the same connections serve.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What is dialled: the proxy, where there is one.
    pub(super) fn dialled(&self) -> &Url {
        self.proxy.as_ref().map_or(&self.url, |proxy| &proxy.url)
    }
}

impl Tls {
    fn new(url: &Url, tls: &ClientTls, resolver: &Resolver) -> Result<Self, TargetError> {
        let name = tls.server_name.as_ref().unwrap_or(&url.host);
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| TargetError::ServerName { name: name.clone() })?;
        Ok(Self { config: resolver.tls.config(tls)?, server_name })
    }
}

fn identify(url: &Url, tls: &ClientTls, proxy: Option<&ForwardProxy>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (url.https, &url.host, url.port).hash(&mut hasher);
    if url.https {
        tls.hash(&mut hasher);
    }
    proxy.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}:{})", self.url.host, self.url.port)
    }
}
