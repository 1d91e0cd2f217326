//! Certificates for a Redis that speaks TLS: an authority, a server and a client of its own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Files in a folder: `ca.pem`, `server.pem` and `client.pem`, each of the two with its `.key`.
#[derive(Clone, Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn write(folder: &Path) -> Self {
        let written = Self(folder.to_owned());
        let issuer = authority();
        written.write_file("ca.pem", &issuer.pem());
        for (name, purpose) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate().expect("a key");
            let mut params =
                CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])
                    .expect("names of a certificate");
            params.extended_key_usages = vec![purpose];
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            written.write_file(&format!("{name}.pem"), &certificate.pem());
            written.write_file(&format!("{name}.key"), &key.serialize_pem());
        }
        written
    }

    /// The query of a URL with these certificates.
    pub fn query(&self) -> String {
        format!("{}&cert={}&key={}", self.ca(), self.path("client.pem"), self.path("client.key"))
    }

    /// The query of a URL with only the authority.
    pub fn ca(&self) -> String {
        format!("ca={}", self.path("ca.pem"))
    }

    /// The arguments of `redis-server`.
    pub fn arguments(&self) -> String {
        format!(
            "--tls-ca-cert-file {} --tls-cert-file {} --tls-key-file {} --tls-auth-clients yes",
            self.path("ca.pem"),
            self.path("server.pem"),
            self.path("server.key")
        )
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write_file(&self, name: &str, pem: &str) {
        fs::write(self.0.join(name), pem).expect("a certificate can be written");
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("names of an authority");
    // Not the name of a certificate that it signs, which would count as self-signed.
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority's certificate")
}
