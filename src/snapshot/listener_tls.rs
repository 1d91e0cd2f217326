//! TLS for the listener, from `server.tls`.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::policy::sections::model::Identity;
use crate::upstream::tls;

#[derive(Debug, Error)]
pub enum ListenerTlsError {
    #[error("{path} contains no certificate (expected PEM with `BEGIN CERTIFICATE`)")]
    Certificate { path: String },
    #[error("{path} contains no private key (expected PEM with `BEGIN PRIVATE KEY`)")]
    Key { path: String },
    #[error("certificate and private key do not match: {0}")]
    Pair(#[from] rustls::Error),
}

/// Builds the listener's TLS configuration; `None` for plain HTTP.
///
/// # Errors
/// When a file contains no certificate or key, or they do not match.
pub fn server_config(
    identity: Option<&Identity>,
) -> Result<Option<Arc<ServerConfig>>, ListenerTlsError> {
    let Some(identity) = identity else { return Ok(None) };
    let path = |path: &std::path::Path| path.display().to_string();
    let chain = CertificateDer::pem_slice_iter(&identity.cert.bytes)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| ListenerTlsError::Certificate { path: path(&identity.cert.path) })?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key.bytes)
        .map_err(|_| ListenerTlsError::Key { path: path(&identity.key.path) })?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
