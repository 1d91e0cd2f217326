//! TLS towards providers: trusted roots and client certificates.
//!
//! The roots are the system's, or only those of `tls.ca`. ALPN offers HTTP/1.1. Targets with the
//! same settings share one configuration across workers and reloads, so that a new connection can
//! resume the session of an earlier one.

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_platform_verifier::BuilderVerifierExt;

use super::target::TargetError;
use crate::policy::sections::model::{ClientTls, Identity, Pem};

/// Later than every certificate: the end of the year 9999.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// The cryptography library; aws-lc-rs if both are built in.
#[cfg(feature = "aws-lc-rs")]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The cryptography library; aws-lc-rs if both are built in.
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("TLS needs one of the features `aws-lc-rs` and `ring`");

/// The configurations in use, with the settings that each was built from.
#[derive(Default)]
pub(super) struct TlsConfigs(Mutex<Vec<(ClientTls, Weak<ClientConfig>)>>);

impl TlsConfigs {
    pub(super) fn config(&self, tls: &ClientTls) -> Result<Arc<ClientConfig>, TargetError> {
        // The server name belongs to the target, not to the configuration.
        let key = ClientTls { server_name: None, ..tls.clone() };
        let mut configs = self.0.lock();
        configs.retain(|(_, config)| config.strong_count() > 0);
        let known = configs.iter().find(|(settings, _)| *settings == key);
        if let Some(config) = known.and_then(|(_, config)| config.upgrade()) {
            return Ok(config);
        }
        let config = Arc::new(build(&key)?);
        configs.push((key, Arc::downgrade(&config)));
        Ok(config)
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConfigs")
    }
}

fn build(tls: &ClientTls) -> Result<ClientConfig, TargetError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetError::Tls { reason: error.to_string() })?;
    let builder = match &tls.ca {
        Some(ca) => builder.dangerous().with_custom_certificate_verifier(verifier(ca)?),
        None => builder
            .with_platform_verifier()
            .map_err(|error| TargetError::SystemRoots { reason: error.to_string() })?,
    };
    let mut config = match tls.identity() {
        Some(identity) => with_identity(builder, &identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts the authorities in `ca`, and certificates of servers that are in it themselves.
fn verifier(ca: &Pem) -> Result<Arc<GivenRoots>, TargetError> {
    let expected = "certificates of authorities";
    let given = certificates(ca, expected)?;
    let mut roots = RootCertStore::empty();
    for certificate in &given {
        roots.add(certificate.clone()).map_err(|error| pem_error(ca, expected, error))?;
    }
    let by_chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let by_chain = by_chain.build().map_err(|error| pem_error(ca, expected, error))?;
    Ok(Arc::new(GivenRoots { by_chain, given }))
}

/// The verifier for `tls.ca`.
///
/// A certificate that signed itself, as `openssl req -x509` writes it, is marked as an authority, and
/// webpki accepts no authority as a server. If the policy names exactly this certificate, it is
/// trusted nevertheless, as by OpenSSL; its dates and its names are still verified.
#[derive(Debug)]
struct GivenRoots {
    by_chain: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for GivenRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.by_chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(error) if is_authority(&error) && self.given.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

/// When the first certificate of a PEM file expires; none if it cannot be read.
///
/// webpki states the date in the error of a certificate that has expired, which each has at the end
/// of time. It checks the dates first, before it looks for an issuer.
pub fn expiry(pem: &[u8]) -> Option<SystemTime> {
    let certificate = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let certificate = webpki::EndEntityCert::try_from(&certificate).ok()?;
    let verified = certificate.verify_for_usage(
        provider().signature_verification_algorithms.all,
        &[],
        &[],
        UnixTime::since_unix_epoch(END_OF_TIME),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    match verified.err()? {
        webpki::Error::CertExpired { not_after, .. } => {
            UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

/// The certificate of the server is marked as that of an authority. The dates were verified before.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(error)) = error else {
        return false;
    };
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    Identity { cert, key }: &Identity,
) -> Result<ClientConfig, TargetError> {
    let chain = certificates(cert, "a client certificate")?;
    let private_key = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| {
        let reason = match error {
            // Other errors may quote a part of the key.
            pem::Error::NoItemsFound => "it holds no `-----BEGIN PRIVATE KEY-----`",
            _ => "it is not PEM",
        };
        pem_error(key, "a private key", reason)
    })?;
    builder.with_client_auth_cert(chain, private_key).map_err(|error| {
        pem_error(key, format_args!("the private key of {}", cert.path.display()), error)
    })
}

fn certificates(pem: &Pem, expected: &str) -> Result<Vec<CertificateDer<'static>>, TargetError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.bytes).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(pem_error(pem, expected, "it holds no `-----BEGIN CERTIFICATE-----`"))
        }
        Ok(found) => Ok(found),
        Err(_) => Err(pem_error(pem, expected, "it is not PEM")),
    }
}

fn pem_error(pem: &Pem, expected: impl fmt::Display, reason: impl fmt::Display) -> TargetError {
    TargetError::Pem {
        path: pem.path.clone(),
        expected: expected.to_string(),
        reason: reason.to_string(),
    }
}

/// Explains why a handshake failed and what to do about it.
pub(super) fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(error) if is_authority(error) => {
            "its certificate is self-signed, or that of an authority (to trust exactly this \
             certificate, give it as `tls.ca`)"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            // `BadSignature`: the issuer has a trusted name and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate was issued by an untrusted authority (check `tls.ca`)".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "its certificate is for another name: {certificate} (see `tls.server_name`)"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("its certificate has expired: {certificate}")
            }
            other => format!("its certificate is not valid: {other}"),
        },
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the handshake (does it speak TLS?)".to_owned()
        }
        None => error.to_string(),
    }
}
