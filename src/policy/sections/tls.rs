//! Certificates and keys: PEM files that are read when the policy is loaded.

use std::fmt;
use std::path::PathBuf;

use crate::policy::section::{Checker, section, text_form, texts};
use crate::policy::yaml::tree::NodeId;

section! {
    /// A certificate and its private key.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct Identity {
        /// A PEM file with the certificate, and those between it and the root.
        cert: Pem as Certificate, like "cert.pem";
        /// A PEM file with the certificate's private key.
        key: Pem as PrivateKey, like "key.pem";
    }
}

section! {
    /// How the provider's certificate is verified, and what the sidecar presents.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ClientTls, finish both_or_neither {
        /// A PEM file with the roots that are trusted in place of the system's.
        ca: Option<Pem> as Option<Certificate>;
        /// A PEM file with the certificate that the sidecar presents; needs `client_key`.
        client_cert: Option<Pem> as Option<Certificate>;
        /// A PEM file with the private key of `client_cert`.
        client_key: Option<Pem> as Option<PrivateKey>;
        /// Requested (SNI) and verified in place of the URL's host.
        server_name: Option<String> as Option<ServerName>;
    }
}

impl ClientTls {
    /// The certificate that the sidecar presents.
    pub fn identity(&self) -> Option<Identity> {
        let (cert, key) = (self.client_cert.clone()?, self.client_key.clone()?);
        Some(Identity { cert, key })
    }
}

fn both_or_neither(_: &mut ClientTls, node: NodeId, check: &mut Checker<'_>) {
    if let [given] = check.given(node, &["client_cert", "client_key"])[..] {
        let other = if given == "client_cert" { "client_key" } else { "client_cert" };
        check.error_on_key(node, format!("`{given}` needs `{other}` too"));
    }
}

/// A PEM file that was read when the policy was loaded.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pem {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({})", self.path.display())
    }
}

text_form! {
    /// A file with at least one certificate.
    struct Certificate for Pem {
        read(node, check) { pem(node, "CERTIFICATE", check) }
        show(value, out) { out.secret(value.path.display().to_string(), &value.bytes) }
        describe(_) { ValueShape::named("file") }
    }

    /// A file with a `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`.
    struct PrivateKey for Pem {
        read(node, check) { pem(node, "PRIVATE KEY", check) }
        show(value, out) { Certificate::show(value, out) }
        describe(out) { Certificate::describe(out) }
    }
}

/// A file with at least one block of this kind.
fn pem(node: NodeId, block: &str, check: &mut Checker<'_>) -> Option<Pem> {
    let path = PathBuf::from(check.text(node, "the path of a file")?);
    let bytes = check.file(node, &path)?;
    let end = format!("{block}-----");
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&end);
    if !String::from_utf8_lossy(&bytes).lines().any(begins) {
        let (path, block) = (path.display(), block.to_lowercase());
        return check.reject(node, format!("`{path}` holds no {block}: expected a PEM file"));
    }
    Some(Pem { path, bytes })
}

texts! {
    struct ServerName for String: "the name of a server", ValueShape::named("host"), server_name, String::as_str;
}

fn server_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    match !text.is_empty() && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not the name of a server")),
    }
}
