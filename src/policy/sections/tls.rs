//! Certificates and keys: PEM files that are read when the policy is loaded.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use crate::policy::section::{Checker, Display, Form, Reference, ValueShape, section, text_form};
use crate::policy::yaml::tree::NodeId;

section! {
    /// A certificate and its private key.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub struct Identity {
        /// A PEM file with the certificate, and those between it and the root.
        cert: Pem as PemOf<Certificate>, like "cert.pem";
        /// A PEM file with the certificate's private key.
        key: Pem as PemOf<PrivateKey>, like "key.pem";
    }
}

section! {
    /// How the provider's certificate is verified, and what the sidecar presents.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ClientTls, finish both_or_neither {
        /// A PEM file with the roots that are trusted in place of the system's.
        ca: Option<Pem> as Option<PemOf<Certificate>>;
        /// A PEM file with the certificate that the sidecar presents; needs `client_key`.
        client_cert: Option<Pem> as Option<PemOf<Certificate>>;
        /// A PEM file with the private key of `client_cert`.
        client_key: Option<Pem> as Option<PemOf<PrivateKey>>;
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
        check.error_on_key(node, format!("`{given}` needs a `{other}` beside it"));
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

/// A file with at least one block of this kind.
#[derive(Debug)]
pub struct PemOf<B>(PhantomData<B>);

pub trait Block {
    const NAME: &'static str;
}

#[derive(Debug)]
pub struct Certificate;

/// `PRIVATE KEY`, `RSA PRIVATE KEY`, `EC PRIVATE KEY`.
#[derive(Debug)]
pub struct PrivateKey;

impl Block for Certificate {
    const NAME: &'static str = "CERTIFICATE";
}

impl Block for PrivateKey {
    const NAME: &'static str = "PRIVATE KEY";
}

impl<B: Block> Form<Pem> for PemOf<B> {
    const INLINE: bool = true;

    fn read(node: NodeId, check: &mut Checker<'_>) -> Option<Pem> {
        let path = PathBuf::from(check.text(node, "the path of a file")?);
        let bytes = check.file(node, &path)?;
        let end = format!("{}-----", B::NAME);
        let begins =
            |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&end);
        if !String::from_utf8_lossy(&bytes).lines().any(begins) {
            let (path, block) = (path.display(), B::NAME.to_lowercase());
            check.error(node, format!("`{path}` holds no {block}: expected a PEM file"));
            return None;
        }
        Some(Pem { path, bytes })
    }

    fn show(value: &Pem, out: &mut Display<'_>) {
        out.secret(value.path.display().to_string(), &value.bytes);
    }

    fn describe(_: &mut Reference) -> ValueShape {
        ValueShape::named("file")
    }
}

text_form! {
    struct ServerName for String {
        read(node, check) {
            let name = check.text(node, "the name of a server")?;
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
            if name.is_empty() || !name.chars().all(good) {
                check.error(node, format!("`{name}` is not the name of a server"));
                return None;
            }
            Some(name.to_owned())
        }
        show(value, out) { String::show(value, out); }
        describe(_) { ValueShape::named("host") }
    }
}
