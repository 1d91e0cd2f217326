//! Access control of the admin API.
//!
//! On loopback, reading is free for every process on the host, and so are changes when no token is
//! set. A browser on the host is not trusted: a page of another site could make it send requests.
//! Therefore a `Host` that does not name the loopback interface is rejected (DNS rebinding), and so
//! is a change that a page of another origin sends (Fetch Metadata, `Origin`). Off loopback,
//! everything but health and the files of the dashboard needs the token.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::error::{ApiError, ApiErrorKind};
use super::state::AdminState;
use super::ui;
use crate::clock;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::AdminLabels;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MIN_TOKEN: usize = 16;

/// The rules for access to the API.
#[derive(Debug)]
pub struct Access {
    pub token: Option<Token>,
    /// The listener is bound to the loopback interface.
    pub on_loopback: bool,
    pub rejections: LogLimit,
}

/// The admin token, of which only the hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// The reason why a token cannot be used.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("the admin token has {0} characters (expected at least {MIN_TOKEN})")]
    TooShort(usize),
    #[error("cannot read the admin token from {from}: {error}")]
    Unreadable { from: String, error: String },
}

impl Token {
    /// Reads the token from `env:NAME`, `file:PATH`, or the text itself.
    ///
    /// # Errors
    /// When there is no token, or it is too short.
    pub fn read(source: &str) -> Result<Token, TokenError> {
        read_token(source).map(|text| Token::hash(&text))
    }

    fn hash(text: &str) -> Token {
        Token(Sha256::digest(text).into())
    }

    /// Compares hashes, so that the time taken does not depend on the token.
    fn matches(&self, given: &str) -> bool {
        Token::hash(given).0 == self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The token in `env:NAME`, `file:PATH`, or the text itself.
///
/// # Errors
/// When there is no token, or it is too short.
pub fn read_token(source: &str) -> Result<String, TokenError> {
    let unreadable = |error: String| TokenError::Unreadable { from: source.to_owned(), error };
    let text = match source.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|e| unreadable(e.to_string()))?,
        Some(("file", path)) => {
            std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?
        }
        _ => source.to_owned(),
    };
    let text = text.trim().to_owned();
    if text.len() < MIN_TOKEN { Err(TokenError::TooShort(text.len())) } else { Ok(text) }
}

/// Rejects requests with two `Host` or two `Origin` lines, which may be read in two ways
/// (RFC 9112, 3.2).
pub async fn reject_ambiguous(request: Request, next: Next) -> Response {
    if is_ambiguous(request.headers()) {
        return error(ApiErrorKind::RepeatedHeader).into_response();
    }
    next.run(request).await
}

fn is_ambiguous(headers: &HeaderMap) -> bool {
    [HOST, ORIGIN].iter().any(|name| headers.get_all(name).iter().nth(1).is_some())
}

/// Rejects requests that have no access. Health is open to all, and the dashboard's files need no
/// token.
pub async fn authorize(
    State(admin): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    let health = matches!(request.uri().path(), "/healthz" | "/readyz");
    let headers = request.headers();
    let is_static = ui::is_static(request.method(), request.uri().path(), headers);
    let denial = match is_ambiguous(headers) {
        true => Some(ApiErrorKind::RepeatedHeader),
        false if health => None,
        false if is_static => host_denial(&admin.access, headers),
        false => denial(&admin.access, request.method(), headers),
    };
    match denial {
        None => next.run(request).await,
        Some(denial) => {
            let labels = AdminLabels { action: "rejected", result: denial.as_str() };
            admin.live.metrics.admin_changes.get_or_create_owned(&labels).inc();
            if let Some(rejections) = admin.access.rejections.admit(clock::now()) {
                tracing::warn!(
                    method = %request.method(),
                    path = request.uri().path(),
                    reason = denial.as_str(),
                    rejections,
                    "audit: admin request rejected"
                );
            }
            error(denial).into_response()
        }
    }
}

fn host_denial(access: &Access, headers: &HeaderMap) -> Option<ApiErrorKind> {
    let host = text(headers, HOST).unwrap_or_default();
    (access.on_loopback && !is_loopback_host(host)).then_some(ApiErrorKind::HostNotLoopback)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn denial(access: &Access, method: &Method, headers: &HeaderMap) -> Option<ApiErrorKind> {
    let text = |name: HeaderName| text(headers, name);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if let Some(denial) = host_denial(access, headers) {
        return Some(denial);
    }
    if let Some(token) = access.token.as_ref().filter(|_| !reads || !access.on_loopback) {
        let given = text(AUTHORIZATION).and_then(|value| value.split_once(' '));
        let bearer = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !bearer.is_some_and(|(_, given)| token.matches(given.trim())) {
            return Some(ApiErrorKind::TokenRequired);
        }
    }
    (!reads
        && is_cross_site(text(SEC_FETCH_SITE), headers.get(ORIGIN), text(HOST).unwrap_or_default()))
    .then_some(ApiErrorKind::CrossSite)
}

/// A program sends neither header. A page served from here sends both, with our host.
fn is_cross_site(site: Option<&str>, origin: Option<&HeaderValue>, host: &str) -> bool {
    let other_site = site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let same_origin = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    other_site || origin.is_some_and(|origin| !same_origin(origin))
}

fn is_loopback_host(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The error response for a rejected request.
fn error(denial: ApiErrorKind) -> ApiError {
    let detail = match denial {
        ApiErrorKind::HostNotLoopback => {
            "the Host header does not name the loopback interface (use 127.0.0.1 or localhost)"
        }
        ApiErrorKind::RepeatedHeader => "the request has two Host or two Origin lines",
        ApiErrorKind::TokenRequired => {
            "the admin token is missing or wrong (send `Authorization: Bearer TOKEN`)"
        }
        _ => "pages of other origins cannot make changes",
    };
    ApiError::new(denial, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn only_hosts_that_name_the_loopback_interface_are_accepted() {
        for host in
            ["localhost", "LocalHost:8701", "127.0.0.1:8701", "127.9.9.9", "[::1]:8701", "[::1]"]
        {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8701",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn two_host_or_two_origin_lines_are_ambiguous() {
        let (host, origin) = (("host", "localhost"), ("origin", "http://localhost"));
        for (lines, expected) in [
            (vec![host, origin], false),
            (vec![], false),
            (vec![host, host], true),
            (vec![host, ("host", "evil.example")], true),
            (vec![host, origin, ("origin", "http://evil.example")], true),
        ] {
            assert_eq!(is_ambiguous(&headers(&lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_change_needs_the_token_if_one_is_set_and_is_never_accepted_from_another_site() {
        let long = "a-token-that-is-long-enough";
        let access =
            |token, on_loopback| Access { token, on_loopback, rejections: LogLimit::new() };
        let open = access(None, true);
        let token = Some(Token::read(long).expect("a token"));
        let protected = access(token.clone(), true);
        let remote = access(token, false);
        let host = ("host", "127.0.0.1:8701");
        let bearer = ("authorization", "Bearer a-token-that-is-long-enough");
        let (get, post) = (Method::GET, Method::POST);
        let token_required = Some(ApiErrorKind::TokenRequired);
        let cross_site = Some(ApiErrorKind::CrossSite);
        let wrong_host = Some(ApiErrorKind::HostNotLoopback);
        for (access, method, lines, expected) in [
            (&open, &post, vec![host], None),
            (&open, &get, vec![("host", "evil.example")], wrong_host),
            (&protected, &get, vec![host], None),
            (&protected, &post, vec![host], token_required),
            (&protected, &post, vec![host, bearer], None),
            (&protected, &post, vec![host, ("authorization", "Bearer another")], token_required),
            (
                &protected,
                &post,
                vec![host, ("authorization", "Basic a-token-that-is-long-enough")],
                token_required,
            ),
            (&remote, &get, vec![("host", "10.0.0.7:8701")], token_required),
            (&remote, &get, vec![("host", "10.0.0.7:8701"), bearer], None),
            (&open, &post, vec![host, ("sec-fetch-site", "cross-site")], cross_site),
            (&open, &post, vec![host, ("sec-fetch-site", "same-site")], cross_site),
            (&open, &post, vec![host, ("origin", "http://evil.example")], cross_site),
            (&open, &post, vec![host, ("origin", "null")], cross_site),
            (&open, &post, vec![host, ("origin", "http://127.0.0.1:8701")], None),
            (&open, &get, vec![host, ("origin", "http://evil.example")], None),
        ] {
            assert_eq!(denial(access, method, &headers(&lines)), expected, "{method} {lines:?}");
        }
    }

    #[test]
    fn a_short_token_is_rejected_and_debug_output_hides_the_token() {
        assert!(matches!(Token::read("short"), Err(TokenError::TooShort(5))));
        assert!(matches!(Token::read("file:/nonexistent"), Err(TokenError::Unreadable { .. })));
        assert_eq!(format!("{:?}", Token::read("a-token-that-is-long").expect("long")), "Token");
    }
}
