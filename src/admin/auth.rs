//! Who may ask the admin side for what.
//!
//! On loopback, reading is free to whoever is on the host, and so is changing where no token is set.
//! A browser on the same host is not: a page from elsewhere could send it here. So a `Host` that is
//! no name of the loopback is refused (DNS rebinding), and a change that a page of another origin
//! made too (Fetch Metadata, `Origin`). Off loopback everything but health needs the token.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::Shown;
use crate::proxy::downstream::problem::{PROBLEM_JSON, problem_document};
use crate::telemetry::metrics::AdminLabels;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SHORTEST: usize = 16;

/// What the admin side asks of whom.
#[derive(Debug)]
pub struct Access {
    pub token: Option<Token>,
    /// Bound where only this host can reach it.
    pub on_loopback: bool,
}

/// A secret of which only the hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// Why a text is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("the admin token has {0} characters (expected at least {SHORTEST})")]
    Short(usize),
    #[error("the admin token cannot be read from {0}: {1}")]
    Unreadable(String, String),
}

impl Token {
    /// Takes `env:NAME`, `file:PATH`, or the token itself.
    ///
    /// # Errors
    /// When there is none, or it is short.
    pub fn read(source: &str) -> Result<Token, TokenError> {
        token_text(source).map(|text| Token::of(&text))
    }

    fn of(text: &str) -> Token {
        Token(Sha256::digest(text).into())
    }

    /// Hashes are compared, so that the time taken tells nothing of the token.
    fn opens(&self, given: &str) -> bool {
        Token::of(given).0 == self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The token that `env:NAME`, `file:PATH` or the text itself gives.
///
/// # Errors
/// When there is none, or it is short.
pub fn token_text(source: &str) -> Result<String, TokenError> {
    let unreadable = |why: String| TokenError::Unreadable(source.to_owned(), why);
    let text = match source.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|why| unreadable(why.to_string()))?,
        Some(("file", path)) => {
            std::fs::read_to_string(path).map_err(|why| unreadable(why.to_string()))?
        }
        _ => source.to_owned(),
    };
    let text = text.trim().to_owned();
    if text.len() < SHORTEST { Err(TokenError::Short(text.len())) } else { Ok(text) }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    WrongHost,
    NoToken,
    CrossSite,
}

/// Lets through what may pass, and refuses the rest with the reason.
pub async fn guard(State(shown): State<Arc<Shown>>, request: Request, next: Next) -> Response {
    let health = matches!(request.uri().path(), "/healthz" | "/readyz");
    match refusal(&shown.access, request.method(), request.headers()).filter(|_| !health) {
        None => next.run(request).await,
        Some(refusal) => {
            let labels = AdminLabels { action: "refused", result: refusal.name() };
            shown.live.metrics.admin_changes.get_or_create_owned(&labels).inc();
            tracing::warn!(
                method = %request.method(),
                path = request.uri().path(),
                why = refusal.name(),
                "audit: admin request refused"
            );
            refusal.into_response()
        }
    }
}

fn refusal(access: &Access, method: &Method, headers: &HeaderMap) -> Option<Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if access.on_loopback && !is_loopback_host(host) {
        return Some(Refusal::WrongHost);
    }
    if let Some(token) = access.token.as_ref().filter(|_| !reads || !access.on_loopback) {
        let given = text(AUTHORIZATION).and_then(|value| value.split_once(' '));
        let bearer = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !bearer.is_some_and(|(_, given)| token.opens(given.trim())) {
            return Some(Refusal::NoToken);
        }
    }
    (!reads && is_cross_site(text(SEC_FETCH_SITE), headers.get(ORIGIN), host))
        .then_some(Refusal::CrossSite)
}

/// A program sends neither header; a page's own script sends both, with our host.
fn is_cross_site(site: Option<&str>, origin: Option<&HeaderValue>, host: &str) -> bool {
    let from_elsewhere = site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let ours = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    from_elsewhere || origin.is_some_and(|origin| !ours(origin))
}

fn is_loopback_host(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, after)) if port(after) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Refusal::WrongHost => "wrong_host",
            Refusal::NoToken => "no_token",
            Refusal::CrossSite => "cross_site",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Refusal::WrongHost => (
                StatusCode::FORBIDDEN,
                "the Host header is no name of this host's loopback (use 127.0.0.1 or localhost)",
            ),
            Refusal::NoToken => {
                (StatusCode::UNAUTHORIZED, "send the admin token: `Authorization: Bearer TOKEN`")
            }
            Refusal::CrossSite => {
                (StatusCode::FORBIDDEN, "a page of another origin may not change anything here")
            }
        };
        let mut response = problem(status, self.name(), detail);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error of the API as problem JSON (RFC 9457).
pub fn problem(status: StatusCode, name: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("error");
    let name = format!("admin:{}", name.replace('_', "-"));
    let body = problem_document(&name, title, status.as_u16(), detail);
    (status, [(CONTENT_TYPE, PROBLEM_JSON)], body.to_string()).into_response()
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
    fn hosts_of_the_loopback_pass_and_others_do_not() {
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
    fn a_change_needs_the_token_where_one_is_set_and_never_comes_from_another_site() {
        let long = "a-token-that-is-long-enough";
        let free = Access { token: None, on_loopback: true };
        let token = Some(Token::read(long).expect("a token"));
        let kept = Access { token: token.clone(), on_loopback: true };
        let away = Access { token, on_loopback: false };
        let host = ("host", "127.0.0.1:8701");
        let bearer = ("authorization", "Bearer a-token-that-is-long-enough");
        let (get, post) = (Method::GET, Method::POST);
        let no = [Some(Refusal::NoToken), Some(Refusal::CrossSite), Some(Refusal::WrongHost)];
        for (access, method, lines, expected) in [
            (&free, &post, vec![host], None),
            (&free, &get, vec![("host", "evil.example")], no[2]),
            (&kept, &get, vec![host], None),
            (&kept, &post, vec![host], no[0]),
            (&kept, &post, vec![host, bearer], None),
            (&kept, &post, vec![host, ("authorization", "Bearer another")], no[0]),
            (
                &kept,
                &post,
                vec![host, ("authorization", "Basic a-token-that-is-long-enough")],
                no[0],
            ),
            (&away, &get, vec![("host", "10.0.0.7:8701")], no[0]),
            (&away, &get, vec![("host", "10.0.0.7:8701"), bearer], None),
            (&free, &post, vec![host, ("sec-fetch-site", "cross-site")], no[1]),
            (&free, &post, vec![host, ("sec-fetch-site", "same-site")], no[1]),
            (&free, &post, vec![host, ("origin", "http://evil.example")], no[1]),
            (&free, &post, vec![host, ("origin", "null")], no[1]),
            (&free, &post, vec![host, ("origin", "http://127.0.0.1:8701")], None),
            (&free, &get, vec![host, ("origin", "http://evil.example")], None),
        ] {
            assert_eq!(refusal(access, method, &headers(&lines)), expected, "{method} {lines:?}");
        }
    }

    #[test]
    fn a_token_is_not_short_and_is_never_shown() {
        assert!(matches!(Token::read("short"), Err(TokenError::Short(5))));
        assert!(matches!(Token::read("file:/nonexistent"), Err(TokenError::Unreadable(..))));
        assert_eq!(format!("{:?}", Token::read("a-token-that-is-long").expect("long")), "Token");
    }
}
