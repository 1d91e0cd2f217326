//! The section `server`: the sidecar itself; and certificates and keys: PEM files that are read when
//! the policy is loaded.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;

use super::rewrite::SetHeader;
use super::url::{PUBLIC, PostTo};
use crate::policy::section::{Checker, Map, Share, Size, section, text_form, texts, words};
use crate::policy::yaml::tree::NodeId;
use crate::policy::yaml::units::{DAY, MS, SECOND};

section! {
    /// The sidecar itself; in one file at most.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Server {
        /// Connections beyond this receive 503 and are closed.
        connections: usize = 10_000, in 1..=1_000_000;
        /// Memory of all replay and stream buffers together: three quarters hold body bytes, the rest is reserved for overhead.
        buffered: u64 as Size = 256 << 20, in 1 << 20..=1 << 40;
        /// The largest head of a request.
        header_bytes: usize as Size = 64 << 10, in 8 << 10..=1 << 20;
        /// Time limit for receiving the head of a request.
        header_time: Duration = 10 * SECOND, in MS..=600 * SECOND;
        /// The minimum average rate of a request body, in bytes per second, beyond the time that `timeouts.idle` allows for one gap; 0 for none.
        body_rate: u64 as Size = 240, in 0..=1 << 30;
        /// How long an idle connection is kept open.
        keep_alive: Duration = 75 * SECOND, in MS..=DAY;
        /// Whether `Via`, `Forwarded` and `X-Forwarded-*` are added to each request.
        forwarded: Forwarded = Forwarded::Off;
        /// The listener's certificate and key; without them it speaks plain HTTP.
        tls: Option<Identity>;
        /// One line for each request.
        access_log: AccessLog;
        /// Where a span of each request and of each attempt is sent (OpenTelemetry); without it there are no spans.
        traces: Option<Traces>;
        /// Requests per second of each worker whose records are kept for `GET /api/requests`; above it, records are missing unless the access log is JSON. 0 keeps none.
        recent_requests: u32 = 50, in 0..=100_000;
        /// After SIGTERM: how long the sidecar reports not ready and still accepts connections.
        drain_delay: Duration = Duration::ZERO, in Duration::ZERO..=DAY;
        /// After `drain_delay`: how long requests may take to finish.
        drain_timeout: Duration = 30 * SECOND, in Duration::ZERO..=DAY;
    }
}

section! {
    /// Where the access log goes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AccessLog {
        /// `stderr`, `stdout`, `none`, or a file, which is opened again when it was moved.
        to: LogTarget = LogTarget::Stderr;
        /// Whether a line is a JSON object or a text.
        format: LogFormat = LogFormat::Json;
    }
}

section! {
    /// Where the spans of requests and attempts go: OTLP over HTTP, in JSON.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Traces, finish needs_the_feature {
        /// The URL of the receiver; without a path, `/v1/traces` is added.
        endpoint: PostTo as OtlpUrl, like "http://127.0.0.1:4318/v1/traces";
        /// Headers of each export; a value may be a secret.
        headers: Vec<(HeaderName, SetHeader)> as Map<HeaderName, SetHeader>;
        /// The share of new traces that are recorded. A request with a valid `traceparent` follows its sampled flag.
        sample: f64 as Share = 1.0, in 0.0..=1.0;
        /// `service.name` of the spans.
        service_name: String = "outrigger".to_owned();
    }
}

texts! {
    /// The URL of a receiver of OTLP over HTTP.
    struct OtlpUrl for PostTo: "a URL", ValueShape::named("URL"), otlp_url, PostTo::to_string;
}

/// Without a path, the path of traces is added, as in `OTEL_EXPORTER_OTLP_ENDPOINT`.
fn otlp_url(text: &str) -> Result<PostTo, String> {
    if text.contains("${") {
        return Err(PUBLIC.to_owned());
    }
    let to = PostTo::read(text)?;
    match to.target.path_and_query().is_none_or(|target| target == "/") {
        true => PostTo::read(&format!("{}{OTLP_TRACES}", text.trim_end_matches('/'))),
        false => Ok(to),
    }
}

fn needs_the_feature(_: &mut Traces, node: NodeId, check: &mut Checker<'_>) {
    if !cfg!(feature = "otel") {
        check.error_on_key(node, "this build sends no traces: it lacks the cargo feature `otel`");
    }
}

words! {
    /// Whether `Via`, `Forwarded` and `X-Forwarded-*` are added to each request.
    pub enum Forwarded { Off = "off", Append = "append", }
    pub enum LogFormat { Json = "json", Text = "text", }
}

/// The path of a receiver of traces.
const OTLP_TRACES: &str = "/v1/traces";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stderr,
    Stdout,
    File(PathBuf),
    None,
}

texts! {
    impl LogTarget for LogTarget: "text", ValueShape::text(), log_target, |target: &LogTarget| match target {
        LogTarget::Stderr => "stderr".to_owned(),
        LogTarget::Stdout => "stdout".to_owned(),
        LogTarget::None => "none".to_owned(),
        LogTarget::File(path) => path.display().to_string(),
    };
}

fn log_target(text: &str) -> Result<LogTarget, String> {
    match text {
        "stderr" => Ok(LogTarget::Stderr),
        "stdout" => Ok(LogTarget::Stdout),
        "none" => Ok(LogTarget::None),
        path if path.is_empty() || path.ends_with('/') => {
            let expected = "`stderr`, `stdout`, `none` or the path of a file";
            Err(format!("`{path}` is not a file: expected {expected}"))
        }
        path => Ok(LogTarget::File(path.into())),
    }
}

// === certificates and keys ===

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
        /// A PEM file with the roots that are trusted instead of the system's.
        ca: Option<Pem> as Option<Certificate>;
        /// A PEM file with the certificate that the sidecar presents; needs `client_key`.
        client_cert: Option<Pem> as Option<Certificate>;
        /// A PEM file with the private key of `client_cert`.
        client_key: Option<Pem> as Option<PrivateKey>;
        /// The name that is requested (SNI) and verified instead of the URL's host.
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
    if let [given] = check.present_keys(node, &["client_cert", "client_key"])[..] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_traces_is_added_to_a_receiver_without_one() {
        for (text, whole) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example.com/otlp/v1/traces", "https://otel.example.com/otlp/v1/traces"),
            ("https://otel.example.com/x?tenant=1", "https://otel.example.com/x?tenant=1"),
        ] {
            assert_eq!(otlp_url(text).expect("a URL").to_string(), whole);
        }
        for text in ["127.0.0.1:4318", "http://${env:HOST}/", "http://me:secret@host/v1/traces"] {
            assert!(otlp_url(text).is_err(), "{text}");
        }
    }
}
