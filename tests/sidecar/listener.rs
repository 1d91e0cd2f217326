//! Where applications connect: TLS with a certificate that is renewed while everything runs, and a
//! Unix socket.
//!
//! What a renewal must not do is cost a connection or a request; what a broken one must not do is
//! take anything away: the last good certificate, like the last good credential, stays in force.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger::upstream::tls::provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::fixtures::{api, chat, policy, route};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Origin, PATIENCE, Sidecar, Signal};

const NAME: &str = "sidecar.test";

/// A certificate for [`NAME`] and its key, in PEM, and whoever trusts it.
struct Identity {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Identity {
    fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate");
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Self { cert, key, der: made.cert.der().clone() }
    }

    fn write(&self, folder: &Path) {
        put(&folder.join("tls.crt"), &self.cert);
        put(&folder.join("tls.key"), &self.key);
    }
}

/// Replaces a file at once.
fn put(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).expect("a write");
    fs::rename(&beside, file).expect("the new file takes the old one's place");
}

/// A sidecar that listens with this identity; where its files are.
fn scene(origin: &Origin, identity: &Identity, server: &str) -> (Sidecar, PathBuf) {
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

/// A TLS connection by a client that trusts these and nobody else.
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

/// One request on a connection that is kept; the head of the answer.
fn ask(stream: &mut (impl Read + Write)) -> String {
    let body = "{\"model\":\"m\"}";
    let head = format!("POST /v1 HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("a request can be sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\"total_tokens\":11}}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more of the answer");
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("text")
}

/// The certificate that a new connection is shown.
fn shown(sidecar: &Sidecar, trusted: &[&Identity]) -> CertificateDer<'static> {
    let mut tls = connect(sidecar, trusted);
    assert!(ask(&mut tls).starts_with("HTTP/1.1 200"));
    let chain = tls.conn.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}

fn last_load(sidecar: &Sidecar) -> serde_json::Value {
    api(sidecar, "/api/policies")["last_load"].clone()
}

#[test]
fn requests_come_over_tls_and_over_nothing_else() {
    let (origin, identity) = (Origin::start(Behaviour::Chat), Identity::new());
    let (sidecar, _) = scene(&origin, &identity, "");
    let mut tls = connect(&sidecar, &[&identity]);
    for _ in 0..3 {
        assert!(ask(&mut tls).starts_with("HTTP/1.1 200"));
    }
    let mut plain = RawClient::to(&sidecar.url("/"));
    plain.offer("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(!plain.read_to_close().contains("HTTP/1.1 200"));
    let mut stranger = connect(&sidecar, &[&Identity::new()]);
    stranger
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect_err("a certificate of nobody's");
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_handshake_that_is_never_made_ends_with_header_time() {
    let (origin, identity) = (Origin::start(Behaviour::Chat), Identity::new());
    let (sidecar, _) = scene(&origin, &identity, ", header_time: 300ms");
    assert_eq!(RawClient::to(&sidecar.url("/")).read_to_close(), "");
    assert!(ask(&mut connect(&sidecar, &[&identity])).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_the_old_ones_go_on() {
    let origin = Origin::start(Behaviour::Chat);
    let (old, new) = (Identity::new(), Identity::new());
    let (sidecar, folder) = scene(&origin, &old, "");
    let mut before = connect(&sidecar, &[&old]);
    assert!(ask(&mut before).starts_with("HTTP/1.1 200"));
    new.write(&folder);
    sidecar.wait_until(|sidecar| shown(sidecar, &[&old, &new]) == new.der);
    assert!(ask(&mut before).starts_with("HTTP/1.1 200"), "the old connection goes on");
}

#[test]
fn a_certificate_that_cannot_be_used_leaves_the_old_one_in_force() {
    let origin = Origin::start(Behaviour::Chat);
    let (old, new) = (Identity::new(), Identity::new());
    let (sidecar, folder) = scene(&origin, &old, "");
    let torn = &new.cert[..new.cert.len() / 2];
    for (cert, key) in [("no certificate", &old.key), (torn, &old.key), (&*old.cert, &new.key)] {
        let at = last_load(&sidecar)["at"].clone();
        put(&folder.join("tls.crt"), cert);
        put(&folder.join("tls.key"), key);
        sidecar.wait_until(|sidecar| {
            let last = last_load(sidecar);
            last["at"] != at && last["result"] == "rejected"
        });
        let problems = last_load(&sidecar)["problems"].to_string();
        assert!(problems.contains("tls"), "{problems}");
        assert_eq!(shown(&sidecar, &[&old, &new]), old.der, "{problems}");
        assert_eq!(sidecar.metric("outrigger_policy_valid"), Some(0.0));
    }
    new.write(&folder);
    sidecar.wait_until(|sidecar| shown(sidecar, &[&old, &new]) == new.der);
}

#[test]
fn a_socket_in_the_file_system_is_served_and_removed_at_the_end() {
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
        assert!(ask(&mut client).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(origin.count(), 3);
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!socket.exists(), "a socket that nobody listens on stays behind");
    // One that was killed leaves its socket; the next one takes its place.
    let mut killed = start();
    killed.signal(Signal::Kill);
    killed.wait_for_exit();
    assert!(socket.exists());
    let _next = start();
    let mut client = UnixStream::connect(&socket).expect("a connection");
    assert!(ask(&mut client).starts_with("HTTP/1.1 200"));
}

/// What a client sends to be served for as long as it stays.
const ASKS: &[u8] = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn a_client_that_leaves_is_seen_over_tls_and_over_a_socket_too() {
    let origin = Origin::start(Behaviour::Silent);
    let cancels = |mut client: Box<dyn Write>| {
        client.write_all(ASKS).expect("a request is sent");
        origin.wait_for_in_flight(1);
        drop(client);
        origin.wait_for_in_flight(0);
    };
    let identity = Identity::new();
    let (over_tls, _) = scene(&origin, &identity, "");
    cancels(Box::new(connect(&over_tls, &[&identity])));
    let home = tempfile::TempDir::new().expect("a folder");
    let socket = home.path().join("outrigger.sock");
    let yaml = policy(&[("a", &origin.url(), "")], &route("providers: [a]"));
    let listen = format!("unix:{}", socket.display());
    let _sidecar = Sidecar::builder().policy("policy", &yaml).listen(&listen).start();
    cancels(Box::new(UnixStream::connect(&socket).expect("a connection")));
}

#[test]
fn a_rotated_credential_is_used_and_one_that_is_gone_takes_nothing_away() {
    let origin = Origin::start(Behaviour::Chat);
    let builder = Sidecar::builder();
    let file = builder.policies().with_file_name("key");
    put(&file, "first\n");
    let auth = format!("auth: {{ bearer: \"${{file:{}}}\" }}", file.display());
    let yaml = policy(&[("a", &origin.url(), &auth)], &route("providers: [a]"));
    let sidecar = builder.policy("policy", &yaml).start();
    let used = |sidecar: &Sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        origin.last().headers.get("authorization").expect("a credential").to_owned()
    };
    assert_eq!(used(&sidecar), "Bearer first");
    fs::remove_file(&file).expect("the file is there");
    sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
    let problems = last_load(&sidecar)["problems"].to_string();
    assert!(problems.contains(&file.display().to_string()), "{problems}");
    assert_eq!(used(&sidecar), "Bearer first");
    put(&file, "second\n");
    sidecar.wait_until(|sidecar| used(sidecar) == "Bearer second");
}
