//! Dial targets: the part of a provider's configuration that its connections depend on.
//!
//! Targets with the same configuration have the same id, so that their pools survive a reload. The
//! connect timeout and the connection limit are not part of the id; a reload retunes them.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::address_scope::AddressScope;
use super::dns::{DnsEntry, Resolver};
use crate::policy::sections::model::{ClientTls, ForwardProxy, Url};

/// Immutable, and shared by all workers.
pub struct DialTarget {
    id: u64,
    pub(super) scope: AddressScope,
    pub(super) url: Url,
    pub(super) tls: Option<TargetTls>,
    pub(super) proxy: Option<ForwardProxy>,
    /// Time limit for a whole dial.
    pub(super) connect_timeout: Duration,
    /// Limit for each worker.
    pub(super) max_connections: usize,
    /// The entry of the proxy if there is one.
    pub(super) dns: Arc<DnsEntry>,
}

#[derive(Clone)]
pub(super) struct TargetTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// Why the policy's settings cannot be used.
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

impl DialTarget {
    pub fn new(
        url: &Url,
        tls: &ClientTls,
        proxy: Option<&ForwardProxy>,
        connect: Duration,
        connections: usize,
        resolver: &Resolver,
    ) -> Result<Arc<DialTarget>, TargetError> {
        Self::within(AddressScope::Any, url, tls, proxy, connect, connections, resolver)
    }

    /// A target that is dialled only at addresses of `scope`.
    pub fn within(
        scope: AddressScope,
        url: &Url,
        tls: &ClientTls,
        proxy: Option<&ForwardProxy>,
        connect: Duration,
        connections: usize,
        resolver: &Resolver,
    ) -> Result<Arc<DialTarget>, TargetError> {
        if let Some(proxy) = proxy.filter(|proxy| proxy.url.https) {
            return Err(TargetError::ProxyScheme { authority: proxy.url.authority.clone() });
        }
        let dialled = proxy.map_or(url, |proxy| &proxy.url);
        Ok(Arc::new(DialTarget {
            id: target_id(scope, url, tls, proxy),
            scope,
            url: url.clone(),
            tls: if url.https { Some(TargetTls::new(url, tls, resolver)?) } else { None },
            proxy: proxy.cloned(),
            connect_timeout: connect,
            max_connections: connections.max(1),
            dns: resolver.entry(&dialled.host),
        }))
    }

    /// Equal for targets that can share connections.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The address to dial: the proxy's if there is one.
    pub(super) fn dial_url(&self) -> &Url {
        self.proxy.as_ref().map_or(&self.url, |proxy| &proxy.url)
    }
}

impl TargetTls {
    fn new(url: &Url, tls: &ClientTls, resolver: &Resolver) -> Result<Self, TargetError> {
        let name = tls.server_name.as_ref().unwrap_or(&url.host);
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| TargetError::ServerName { name: name.clone() })?;
        Ok(Self { config: resolver.tls.config(tls)?, server_name })
    }
}

fn target_id(scope: AddressScope, url: &Url, tls: &ClientTls, proxy: Option<&ForwardProxy>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (scope, url.https, &url.host, url.port).hash(&mut hasher);
    if url.https {
        tls.hash(&mut hasher);
    }
    proxy.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Debug for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}:{})", self.url.host, self.url.port)
    }
}
