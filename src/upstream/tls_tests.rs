//! TLS: trusted roots, client certificates, and error messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::test_server::*;
use super::{DialError, DialTarget, TargetError, tls};
use crate::policy::sections::model::{ClientTls, Identity, Pem};

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
                .expect("an authority"),
        )
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { cert: pem("cert.pem", &cert.pem()), key: pem("key.pem", &key.serialize_pem()) }
    }

    pub(super) fn pem(&self) -> Pem {
        pem("ca.pem", &self.0.pem())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        roots
    }
}

fn pem(path: &str, text: &str) -> Pem {
    Pem { path: path.into(), bytes: text.as_bytes().to_vec() }
}

/// A server named `api.test`. With `clients`, it requires client certificates by that authority.
pub(super) fn acceptor(authority: &Authority, clients: Option<&Authority>) -> TlsAcceptor {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let identity = authority.issue("api.test");
    let cert = CertificateDer::from_pem_slice(&identity.cert.bytes).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&identity.key.bytes).expect("a key");
    let provider = tls::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider)
                .build()
                .expect("a verifier"),
        ),
    };
    let mut config = builder.with_single_cert(vec![cert], key).expect("a server");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}

pub(super) async fn tls_origin(acceptor: TlsAcceptor) -> SocketAddr {
    let serve = move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                hello(stream).await;
            }
        }
    };
    origin(serve).await.0
}

fn secure(
    host: &str,
    address: SocketAddr,
    tls: &ClientTls,
) -> Result<Arc<DialTarget>, TargetError> {
    DialTarget::new(
        &url("https", host, address.port()),
        tls,
        None,
        CONNECT,
        8,
        &resolves_to(&["127.0.0.1"]),
    )
}

/// A server with a certificate that signed itself and is marked as an authority, as
/// `openssl req -x509` writes it.
fn self_signed(days: std::ops::Range<i64>) -> (Pem, TlsAcceptor) {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["api.test".to_owned()]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let now = std::time::SystemTime::now();
    let at = |days: i64| {
        let away = Duration::from_secs(days.unsigned_abs() * 86_400);
        if days < 0 { now - away } else { now + away }
    };
    (params.not_before, params.not_after) = (at(days.start).into(), at(days.end).into());
    let cert = params.self_signed(&key).expect("a certificate").pem();
    let der = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![der], key).expect("a server");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (pem("own.pem", &cert), Arc::new(config).into())
}

#[test]
fn a_self_signed_certificate_is_trusted_as_its_own_authority_and_by_its_name_alone() {
    worker(async {
        let (cert, acceptor) = self_signed(-1..1);
        let address = tls_origin(acceptor).await;
        let tls = ClientTls { ca: Some(cert.clone()), ..ClientTls::default() };
        let connect = async |host: &str, tls: &ClientTls| {
            pools().dial(&secure(host, address, tls).expect("a target")).await
        };
        let connection = connect("api.test", &tls).await.expect("a connection");
        assert_eq!(exchange(connection).await, "hi");
        let other = connect("other.test", &tls).await.expect_err("another name");
        assert!(other.to_string().contains("is for another name"), "{other}");
        let (foreign, _) = self_signed(-1..1);
        let tls = ClientTls { ca: Some(foreign), ..ClientTls::default() };
        let untrusted = connect("api.test", &tls).await.expect_err("another certificate");
        assert!(untrusted.to_string().contains("give it as `tls.ca`"), "{untrusted}");
    });
}

#[test]
fn a_self_signed_certificate_expires() {
    worker(async {
        let (cert, acceptor) = self_signed(-2..-1);
        let address = tls_origin(acceptor).await;
        let tls = ClientTls { ca: Some(cert), ..ClientTls::default() };
        let target = secure("api.test", address, &tls).expect("a target");
        let error = pools().dial(&target).await.expect_err("an expired certificate");
        assert!(error.to_string().contains("has expired"), "{error}");
    });
}

#[test]
fn a_configured_authority_is_trusted_and_the_connection_reused() {
    worker(async {
        let authority = Authority::new();
        let address = tls_origin(acceptor(&authority, None)).await;
        let tls = ClientTls { ca: Some(authority.pem()), ..ClientTls::default() };
        let (pools, target) = (pools(), secure("api.test", address, &tls).expect("a target"));
        assert_eq!(exchange(pools.dial(&target).await.expect("a connection")).await, "hi");
        pools.age(&target, Duration::from_secs(1));
        assert_eq!(exchange(pools.idle(&target, crate::clock::now()).expect("idle")).await, "hi");
    });
}

#[test]
fn a_certificate_by_another_authority_is_rejected_with_an_explanation() {
    worker(async {
        let address = tls_origin(acceptor(&Authority::new(), None)).await;
        let tls = ClientTls { ca: Some(Authority::new().pem()), ..ClientTls::default() };
        let error = dialled(&secure("api.test", address, &tls).expect("a target"))
            .await
            .expect_err("untrusted");
        assert_eq!(
            error.to_string(),
            "TLS handshake with api.test failed: its certificate was issued by an untrusted authority (check `tls.ca`)"
        );
    });
}

#[test]
fn the_server_name_is_sent_and_verified() {
    worker(async {
        let authority = Authority::new();
        let address = tls_origin(acceptor(&authority, None)).await;
        let mut tls = ClientTls { ca: Some(authority.pem()), ..ClientTls::default() };
        let error = dialled(&secure("10-0-0-1.test", address, &tls).expect("a target"))
            .await
            .expect_err("misnamed");
        assert!(error.to_string().contains("its certificate is for another name"), "{error}");
        tls.server_name = Some("api.test".to_owned());
        let connection = dialled(&secure("10-0-0-1.test", address, &tls).expect("a target")).await;
        assert_eq!(exchange(connection.expect("a connection")).await, "hi");
    });
}

#[test]
fn a_client_certificate_is_sent_on_request() {
    worker(async {
        let (authority, clients) = (Authority::new(), Authority::new());
        let address = tls_origin(acceptor(&authority, Some(&clients))).await;
        let mut tls = ClientTls { ca: Some(authority.pem()), ..ClientTls::default() };
        // TLS 1.3: the server refuses us after our side of the handshake is done.
        let refused = match dialled(&secure("api.test", address, &tls).expect("a target")).await {
            Ok(connection) => connection.send(get(), line).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
        let Identity { cert, key } = clients.issue("sidecar");
        (tls.client_cert, tls.client_key) = (Some(cert), Some(key));
        let connection = dialled(&secure("api.test", address, &tls).expect("a target")).await;
        assert_eq!(exchange(connection.expect("a connection")).await, "hi");
    });
}

#[test]
fn the_error_of_a_server_without_tls_says_so() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        })
        .await;
        let tls = ClientTls { ca: Some(Authority::new().pem()), ..ClientTls::default() };
        let error = dialled(&secure("api.test", address, &tls).expect("a target"))
            .await
            .expect_err("no TLS");
        assert!(matches!(error, DialError::Tls { .. }), "{error}");
    });
}

#[test]
fn the_error_of_an_invalid_pem_file_names_its_path() {
    worker(async {
        let address = SocketAddr::from(([127, 0, 0, 1], 443));
        let refuse =
            |tls: &ClientTls| secure("api.test", address, tls).expect_err("not PEM").to_string();
        let mut tls = ClientTls { ca: Some(pem("/etc/corp.pem", "hello")), ..ClientTls::default() };
        assert_eq!(
            refuse(&tls),
            "/etc/corp.pem: it holds no `-----BEGIN CERTIFICATE-----`, expected certificates of authorities in PEM"
        );
        let authority = Authority::new();
        let (one, other) = (authority.issue("a.test"), authority.issue("b.test"));
        tls.ca = Some(authority.pem());
        (tls.client_cert, tls.client_key) = (Some(one.cert.clone()), Some(one.cert.clone()));
        assert_eq!(
            refuse(&tls),
            "cert.pem: it holds no `-----BEGIN PRIVATE KEY-----`, expected a private key in PEM"
        );
        (tls.client_cert, tls.client_key) = (Some(one.cert), Some(other.key));
        assert!(
            refuse(&tls).ends_with("expected the private key of cert.pem in PEM"),
            "{}",
            refuse(&tls)
        );
        (tls.client_cert, tls.client_key) = (None, None);
        tls.server_name = Some("not a name".to_owned());
        assert!(refuse(&tls).starts_with("`not a name` cannot be the name of a TLS server"));
    });
}

#[test]
fn the_systems_authorities_do_not_trust_the_test_authority() {
    worker(async {
        let address = tls_origin(acceptor(&Authority::new(), None)).await;
        match secure("api.test", address, &ClientTls::default()) {
            Ok(target) => {
                let error = dialled(&target).await.expect_err("untrusted").to_string();
                assert!(
                    error.contains("its certificate was issued by an untrusted authority"),
                    "{error}"
                );
            }
            // A machine without any.
            Err(error) => assert!(matches!(error, TargetError::SystemRoots { .. }), "{error}"),
        }
    });
}

#[test]
fn sessions_are_shared_by_targets_with_equal_configuration() {
    worker(async {
        let resolver = resolves_to(&["127.0.0.1"]);
        let tls = ClientTls { ca: Some(Authority::new().pem()), ..ClientTls::default() };
        let config = |host: &str, tls: &ClientTls| {
            let target =
                DialTarget::new(&url("https", host, 443), tls, None, CONNECT, 8, &resolver);
            Arc::clone(&target.expect("a target").tls.as_ref().expect("TLS").config)
        };
        let first = config("a.test", &tls);
        assert!(Arc::ptr_eq(&first, &config("b.test", &tls)));
        let other = ClientTls { ca: Some(Authority::new().pem()), ..ClientTls::default() };
        assert!(!Arc::ptr_eq(&first, &config("a.test", &other)));
    });
}

#[test]
fn targets_with_other_roots_do_not_share_connections() {
    worker(async {
        let ca = Some(Authority::new().pem());
        let id = |server_name: Option<&str>, ca: &Option<Pem>| {
            let server_name = server_name.map(str::to_owned);
            let tls = ClientTls { ca: ca.clone(), server_name, ..ClientTls::default() };
            secure("api.test", ([127, 0, 0, 1], 443).into(), &tls).expect("a target").id()
        };
        assert_eq!(id(None, &ca), id(None, &ca));
        assert_ne!(id(None, &ca), id(Some("other.test"), &ca));
        assert_ne!(id(None, &ca), id(None, &Some(Authority::new().pem())));
    });
}
