//! When the certificates and tokens that a policy uses expire.

use std::time::{Duration, SystemTime};

use super::token_expiry::token_expiry;
use crate::policy::sections::auth::Auth;
use crate::policy::sections::model::{Policy, ProviderPolicy};
use crate::upstream::tls;

/// A certificate is replaced by people, or by a program some weeks before.
const CERTIFICATE_NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A token is replaced by a program, minutes before.
const TOKEN_NOTICE: Duration = Duration::from_secs(5 * 60);

/// The kind of what expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiringKind {
    /// That of `server.tls`.
    ServerCertificate,
    /// `tls.client_cert` of a provider.
    ClientCertificate,
    /// A JSON Web Token among the credentials of a provider.
    Token,
}

/// The first certificate or token of its kind that expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialExpiry {
    pub kind: ExpiringKind,
    /// A provider, or `server`.
    pub owner: String,
    /// As the policy refers to it: a path, `file:PATH` or `env:NAME`.
    pub reference: String,
    pub at: SystemTime,
}

impl ExpiringKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            ExpiringKind::ServerCertificate => "server_certificate",
            ExpiringKind::ClientCertificate => "client_certificate",
            ExpiringKind::Token => "token",
        }
    }

    /// How long before the end the replacement is late.
    pub const fn notice(self) -> Duration {
        match self {
            ExpiringKind::ServerCertificate | ExpiringKind::ClientCertificate => CERTIFICATE_NOTICE,
            ExpiringKind::Token => TOKEN_NOTICE,
        }
    }
}

/// At most one of each kind for each owner.
pub fn expiries(policy: &Policy) -> Vec<CredentialExpiry> {
    let server = policy.server.tls.iter().filter_map(|identity| {
        Some(CredentialExpiry {
            kind: ExpiringKind::ServerCertificate,
            owner: "server".to_owned(),
            reference: identity.cert.path.display().to_string(),
            at: tls::expiry(&identity.cert.bytes)?,
        })
    });
    let of_providers = policy.providers.iter().flat_map(of_provider);
    server.chain(of_providers).collect()
}

fn of_provider(provider: &ProviderPolicy) -> impl Iterator<Item = CredentialExpiry> {
    let expiry = |kind, reference: String, at| {
        let owner = provider.name.clone();
        CredentialExpiry { kind, owner, reference, at }
    };
    let certificate = provider.tls.client_cert.iter().filter_map(|cert| {
        let at = tls::expiry(&cert.bytes)?;
        Some(expiry(ExpiringKind::ClientCertificate, cert.path.display().to_string(), at))
    });
    let credentials = provider.addresses.iter().flat_map(|endpoint| match &endpoint.auth {
        Auth::Credentials(all) => all.as_slice(),
        Auth::None | Auth::Passthrough => &[],
    });
    let token = credentials.filter_map(|credential| {
        let at = token_expiry(credential.value.to_str().ok()?)?;
        Some(expiry(ExpiringKind::Token, credential.reference.clone(), at))
    });
    certificate.min_by_key(|one| one.at).into_iter().chain(token.min_by_key(|one| one.at))
}
