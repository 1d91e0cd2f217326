//! The listener: TLS with certificate renewal at run time, and Unix sockets.
//!
//! A renewal must not cost a connection or a request. After a broken renewal the last valid
//! certificate stays active; the same holds for credentials.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger::upstream::tls::provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::fixtures::{api, chat, last_load, policy, route};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Origin, PATIENCE, Sidecar, Signal};

const NAME: &str = "sidecar.test";

/// A certificate for [`NAME`] with its key, in PEM, and the DER form for a trust store.
struct Identity {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Identity {
    fn new() -> Self {
        Self::valid_until(2500)
    }

    /// A certificate that is valid until the first day of a year.
    fn valid_until(year: i32) -> Self {
        let mut params =
            rcgen::CertificateParams::new(vec![NAME.to_owned()]).expect("a valid name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    fn write(&self, folder: &Path) {
        replace_file(&folder.join("tls.crt"), &self.cert);
        replace_file(&folder.join("tls.key"), &self.key);
    }
}

/// Replaces a file atomically.
fn replace_file(file: &Path, text: &str) {
    let temporary = file.with_extension("new");
    fs::write(&temporary, text).expect("a write");
    fs::rename(&temporary, file).expect("a rename");
}

/// Starts a sidecar with this identity; returns the folder of its certificate too.
fn start_with_tls(origin: &Origin, identity: &Identity, server: &str) -> (Sidecar, PathBuf) {
    let builder = Sidecar::builder();
    let folder = builder.policies().with_file_name("tls");
    fs::create_dir(&folder).expect("a folder for the certificate");
    identity.write(&folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let tls = format!("tls: {{ cert: {}, key: {} }}", path("tls.crt"), path("tls.key"));
    let server = format!("server: {{ {tls}{server} }}\n");
    let yaml = policy(&[("a", &origin.url(), "")], &(route("providers: [a]") + &server));
    (builder.policy("policy", &yaml).start(), folder)
}

/// A TLS connection of a client that trusts only these identities.
fn connect(sidecar: &Sidecar, trusted: &[&Identity]) -> Tls {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.der.clone()).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = sidecar.url("");
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    let name = NAME.try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(connection, stream)
}

/// Sends one request, keeps the connection open, and returns the response.
fn exchange(stream: &mut (impl Read + Write)) -> String {
    let body = "{\"model\":\"m\"}";
    let head = format!("POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("a request can be sent");
    let mut response = Vec::new();
    while !response.ends_with(b"\"total_tokens\":11}}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more of the response");
        response.push(byte[0]);
    }
    String::from_utf8(response).expect("text")
}

/// The certificate that the sidecar presents on a new connection.
fn presented_certificate(sidecar: &Sidecar, trusted: &[&Identity]) -> CertificateDer<'static> {
    let mut tls = connect(sidecar, trusted);
    assert!(exchange(&mut tls).starts_with("HTTP/1.1 200"));
    let chain = tls.conn.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}

#[test]
fn an_expired_certificate_is_a_problem_until_it_is_renewed() {
    let origin = Origin::start(Behaviour::Chat);
    let (sidecar, folder) = start_with_tls(&origin, &Identity::valid_until(2020), "");
    let problems = |sidecar: &Sidecar| api(sidecar, "/api/status")["problems"].clone();
    let problem = &problems(&sidecar)[0];
    assert_eq!(
        (&problem["code"], &problem["severity"]),
        (&json!("credential_expiring"), &json!("critical"))
    );
    let what = problem["what"].as_str().expect("text");
    assert!(what.ends_with("tls.crt of server.tls expired at 2020-01-01T00:00:00.000Z"), "{what}");
    let expiry = "outrigger_credential_expiry_timestamp_seconds{kind=\"server_certificate\",owner=\"server\"}";
    assert_eq!(sidecar.metric(expiry), Some(1_577_836_800.0));
    Identity::new().write(&folder);
    sidecar.wait_until(|sidecar| problems(sidecar) == json!([]));
}

#[test]
fn a_tls_listener_accepts_only_tls() {
    let (origin, identity) = (Origin::start(Behaviour::Chat), Identity::new());
    let (sidecar, _) = start_with_tls(&origin, &identity, "");
    let mut tls = connect(&sidecar, &[&identity]);
    for _ in 0..3 {
        assert!(exchange(&mut tls).starts_with("HTTP/1.1 200"));
    }
    let mut plain = RawClient::to(&sidecar.url("/"));
    plain.write_best_effort("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(!plain.read_to_close().contains("HTTP/1.1 200"));
    let mut untrusting = connect(&sidecar, &[&Identity::new()]);
    untrusting
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect_err("an untrusted certificate");
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_missing_handshake_ends_after_header_time() {
    let (origin, identity) = (Origin::start(Behaviour::Chat), Identity::new());
    let (sidecar, _) = start_with_tls(&origin, &identity, ", header_time: 300ms");
    assert_eq!(RawClient::to(&sidecar.url("/")).read_to_close(), "");
    assert!(exchange(&mut connect(&sidecar, &[&identity])).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_renewed_certificate_is_used_for_new_connections_and_old_ones_stay_open() {
    let origin = Origin::start(Behaviour::Chat);
    let (old, new) = (Identity::new(), Identity::new());
    let (sidecar, folder) = start_with_tls(&origin, &old, "");
    let mut before = connect(&sidecar, &[&old]);
    assert!(exchange(&mut before).starts_with("HTTP/1.1 200"));
    new.write(&folder);
    sidecar.wait_until(|sidecar| presented_certificate(sidecar, &[&old, &new]) == new.der);
    assert!(exchange(&mut before).starts_with("HTTP/1.1 200"), "the old connection was closed");
}

#[test]
fn an_unusable_certificate_leaves_the_old_one_active() {
    let origin = Origin::start(Behaviour::Chat);
    let (old, new) = (Identity::new(), Identity::new());
    let (sidecar, folder) = start_with_tls(&origin, &old, "");
    let truncated = &new.cert[..new.cert.len() / 2];
    for (cert, key) in [("no certificate", &old.key), (truncated, &old.key), (&*old.cert, &new.key)]
    {
        let at = last_load(&sidecar)["at"].clone();
        replace_file(&folder.join("tls.crt"), cert);
        replace_file(&folder.join("tls.key"), key);
        sidecar.wait_until(|sidecar| {
            let last = last_load(sidecar);
            last["at"] != at && last["result"] == "rejected"
        });
        let problems = last_load(&sidecar)["problems"].to_string();
        assert!(problems.contains("tls"), "{problems}");
        assert_eq!(presented_certificate(&sidecar, &[&old, &new]), old.der, "{problems}");
        assert_eq!(sidecar.metric("outrigger_policy_valid"), Some(0.0));
    }
    new.write(&folder);
    sidecar.wait_until(|sidecar| presented_certificate(sidecar, &[&old, &new]) == new.der);
}

#[test]
fn a_unix_socket_is_served_and_removed_at_exit() {
    let origin = Origin::start(Behaviour::Chat);
    let yaml = policy(&[("a", &origin.url(), "")], &route("providers: [a]"));
    let home = tempfile::TempDir::new().expect("a folder");
    let socket = home.path().join("outrigger.sock");
    let start = || {
        let listen = format!("unix:{}", socket.display());
        Sidecar::builder().policy("policy", &yaml).listen(&listen).start()
    };
    let mut sidecar = start();
    let mut client = UnixStream::connect(&socket).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    for _ in 0..3 {
        assert!(exchange(&mut client).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(origin.count(), 3);
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!socket.exists(), "the socket was not removed");
    // A killed sidecar leaves its socket behind, and the next one replaces it.
    let mut killed = start();
    killed.signal(Signal::Kill);
    killed.wait_for_exit();
    assert!(socket.exists());
    let _next = start();
    let mut client = UnixStream::connect(&socket).expect("a connection");
    assert!(exchange(&mut client).starts_with("HTTP/1.1 200"));
}

/// A request that the origin never responds to.
const SLOW_REQUEST: &[u8] = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn a_client_disconnect_is_detected_over_tls_and_unix_sockets() {
    let origin = Origin::start(Behaviour::Silent);
    let cancels = |mut client: Box<dyn Write>| {
        client.write_all(SLOW_REQUEST).expect("a request is sent");
        origin.wait_for_in_flight(1);
        drop(client);
        origin.wait_for_in_flight(0);
    };
    let identity = Identity::new();
    let (over_tls, _) = start_with_tls(&origin, &identity, "");
    cancels(Box::new(connect(&over_tls, &[&identity])));
    let home = tempfile::TempDir::new().expect("a folder");
    let socket = home.path().join("outrigger.sock");
    let yaml = policy(&[("a", &origin.url(), "")], &route("providers: [a]"));
    let listen = format!("unix:{}", socket.display());
    let _sidecar = Sidecar::builder().policy("policy", &yaml).listen(&listen).start();
    cancels(Box::new(UnixStream::connect(&socket).expect("a connection")));
}

#[test]
fn a_rotated_credential_is_used_and_a_missing_one_leaves_the_old_one_active() {
    let origin = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder();
    let file = builder.policies().with_file_name("key");
    replace_file(&file, "first\n");
    let auth = format!("auth: {{ bearer: \"${{file:{}}}\" }}", file.display());
    let yaml = policy(&[("a", &origin.url(), &auth)], &route("providers: [a]"));
    let sidecar = builder.policy("policy", &yaml).start();
    let used_credential = |sidecar: &Sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        origin.last().headers.get("authorization").expect("a credential").to_owned()
    };
    assert_eq!(used_credential(&sidecar), "Bearer first");
    fs::remove_file(&file).expect("the file is there");
    sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
    let problems = last_load(&sidecar)["problems"].to_string();
    assert!(problems.contains(&file.display().to_string()), "{problems}");
    assert_eq!(used_credential(&sidecar), "Bearer first");
    replace_file(&file, "second\n");
    sidecar.wait_until(|sidecar| used_credential(sidecar) == "Bearer second");
}
