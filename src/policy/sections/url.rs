//! URLs of providers, forward proxies and webhooks.
//!
//! A request is sent to an `http` or `https` URL with a host, and optionally a port and a path (RFC
//! 3986). A query or fragment would be lost and is rejected. A user name belongs to
//! `auth`; only the URL of a forward proxy may have one, and no message quotes it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};

use super::auth::resolve;
use super::matcher::PathPattern;
use crate::policy::section::{text_form, texts};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    pub https: bool,
    /// Without brackets if it is an IPv6 address.
    pub host: String,
    pub port: u16,
    /// As in the `Host` header: brackets where needed, no default port.
    pub authority: String,
    /// Put before the path of each request; empty, or `/...` without a slash at its end.
    pub path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

texts! {
    impl Url for Url: "a URL", ValueShape::named("URL"), provider_url, Url::to_string;
    impl Callback for Callback: "a URL", ValueShape::named("URL"), callback_url, Callback::to_string;
}

fn provider_url(text: &str) -> Result<Url, String> {
    if text.contains("${") {
        return Err(PUBLIC.to_owned());
    }
    if authority_of(text).contains('@') {
        return Err("the URL has a user name or password: put them under `auth`".to_owned());
    }
    parse_url(text)
}

pub(super) const PUBLIC: &str = "`${...}` is not allowed in this URL: messages and metrics show URLs, so a secret cannot be part of one";

/// `Basic` and the Base64 of `user:password` (RFC 7617), marked sensitive.
pub fn basic(user_and_password: &[u8]) -> Option<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user_and_password))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn authority_of(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn parse_url(text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("`{text}` is not a URL: {why}");
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let https = match scheme.as_deref() {
        Some("https") => true,
        Some("http") => false,
        Some(other) => {
            return Err(wrong(&format!("expected `http` or `https`, found `{other}`")));
        }
        None => {
            let expected = "expected `http://` or `https://` first, like `https://api.example.com`";
            return Err(wrong(expected));
        }
    };
    if text.contains(['?', '#']) {
        return Err(wrong("a query or fragment would be lost: leave it out"));
    }
    let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if !is_host(host, bare) {
        return Err(wrong("expected a host name or an IP address"));
    }
    let default = if https { 443 } else { 80 };
    let port = match authority.as_str()[host.len()..].strip_prefix(':') {
        None => default,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("expected a port from 1 to 65535"))?,
    };
    let host = host.to_ascii_lowercase();
    Ok(Url {
        https,
        authority: if port == default { host.clone() } else { format!("{host}:{port}") },
        host: bare.map_or(host, str::to_ascii_lowercase),
        port,
        path: uri.path().trim_end_matches('/').to_owned(),
    })
}

fn is_host(host: &str, bare: Option<&str>) -> bool {
    if let Some(address) = bare {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() < 64
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    host.len() < 254 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

// === forward proxies ===

/// A proxy that opens tunnels by CONNECT.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ForwardProxy {
    pub url: Url,
    /// `Proxy-Authorization`, from the userinfo of the URL.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForwardProxy({})", self.url.authority)
    }
}

text_form! {
    impl Form<ForwardProxy> for ForwardProxy {
        // The user name and password may be secrets, and are split off before anything is quoted.
        read(node, check) {
            let text = check.text(node, "a URL")?;
            let (user, bare) = split_user(text);
            let url = proxy_url(&bare).map_err(|error| check.error(node, error)).ok();
            let user = match user {
                None => return url.map(|url| ForwardProxy { url, authorization: None }),
                Some(user) if user.contains("${") => resolve(node, user, check)?.text.into_bytes(),
                Some(user) => percent_decoded(user).or_else(|| {
                    check.error(node, "the user name or password has a `%` without two hexadecimal digits: write `%25` for a percent sign");
                    None
                })?,
            };
            url.map(|url| ForwardProxy { url, authorization: basic(&user) })
        }
        show(value, out) {
            match &value.authorization {
                Some(authorization) => {
                    out.secret(format!("{} with credentials", value.url), authorization.as_bytes());
                }
                None => out.text(value.url.to_string()),
            }
        }
        describe(_) { ValueShape::named("URL") }
    }
}

/// The user name and password of a proxy's URL as written, and the URL without them.
fn split_user(text: &str) -> (Option<&str>, String) {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (user, rest))) => (Some(user), format!("{scheme}://{rest}")),
        None => (None, text.to_owned()),
    }
}

fn proxy_url(text: &str) -> Result<Url, String> {
    if text.contains("${") {
        return Err("only the user name and password of a proxy may be secrets".to_owned());
    }
    let url = parse_url(text)?;
    match url.path.as_str() {
        "" => Ok(url),
        path => Err(format!(
            "the URL of a proxy has no path, because the proxy receives CONNECT: leave `{path}` out"
        )),
    }
}

/// `%41` is `A`; `None` where a `%` has no two hexadecimal digits.
pub fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(out)
}

// === webhooks ===

/// An allowed callback: scheme, host and port must be equal, the path must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// As a route's path: exact, `*` for one segment, `**` for the rest.
    pub path: String,
}

impl Callback {
    /// Whether a result may be posted there.
    pub fn allows(&self, to: &PostTo) -> bool {
        let Url { https, host, port, .. } = &to.url;
        (*https, host, *port) == (self.https, &self.host, self.port)
            && PathPattern::parse(&self.path).is_ok_and(|pattern| pattern.matches(&to.path))
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.https { ("https", 443) } else { ("http", 80) };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]", self.host)?,
            false => write!(f, "{scheme}://{}", self.host)?,
        }
        match self.port == usual {
            true => f.write_str(&self.path),
            false => write!(f, ":{}{}", self.port, self.path),
        }
    }
}

/// `https://host[:port]/path`, with `*` and `**` in the path.
fn callback_url(text: &str) -> Result<Callback, String> {
    if text.contains("${") {
        return Err(PUBLIC.to_owned());
    }
    let authority = authority_of(text);
    if authority.contains('@') {
        return Err("the URL has a user name or password: a callback must have none".to_owned());
    }
    if authority.contains('*') {
        return Err(format!(
            "`{text}`: `*` and `**` are allowed in the path only: list each host separately"
        ));
    }
    let Url { https, host, port, .. } = parse_url(text)?;
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.strip_prefix(authority).unwrap_or_default().to_owned();
    if path.is_empty() {
        return Err(format!(
            "`{text}` has no path: expected one, like `{text}/**` for everything there"
        ));
    }
    PathPattern::parse(&path)?;
    Ok(Callback { https, host, port, path })
}

/// The URL that one result, notification or batch of spans is posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostTo {
    pub url: Url,
    path: String,
    /// Path and query.
    pub target: Uri,
}

impl fmt::Display for PostTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.url.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.url.authority, self.target)
    }
}

impl PostTo {
    /// # Errors
    /// The reason why it is not such a URL. A path that a server may resolve to another one than was
    /// allowed is rejected.
    pub fn read(text: &str) -> Result<PostTo, String> {
        let (before, query) = text.split_once('?').map_or((text, ""), |(b, q)| (b, q));
        let rest = before.split_once("://").map_or("", |(_, rest)| rest);
        if rest.contains('\\') || text.contains(['@', '#']) {
            return Err("expected a plain URL, like `https://host/path`".to_owned());
        }
        let url = parse_url(before)?;
        let path = rest.find('/').map_or("/", |at| &rest[at..]).to_owned();
        if !is_plain_path(&path) {
            return Err(
                "expected a path without `..`, encoded slashes and encoded percent signs, \
                like `https://host/path`"
                    .to_owned(),
            );
        }
        let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let whole: Uri = target.parse().map_err(|error| format!("{error}"))?;
        Ok(PostTo { url, path, target: whole })
    }

    /// Whether the host is an address, or a name that has no meaning on the internet: one without a
    /// dot, or under a domain reserved for private use (RFC 6761, RFC 6762, RFC 8375, `.internal`).
    pub fn has_private_name(&self) -> bool {
        let host = self.url.host.trim_end_matches('.');
        host.parse::<std::net::IpAddr>().is_ok()
            || match host.rsplit_once('.') {
                None => true,
                Some((_, "localhost" | "local" | "internal")) => true,
                Some(_) => host.ends_with(".home.arpa"),
            }
    }
}

/// Whether every server reads the path as it is written. Servers differ in when they decode a path
/// and remove its dot segments (RFC 3986, 5.2.4 and 6.2.2), so none of these may occur: a segment of
/// dots, plain or encoded, perhaps with parameters (`..;`); an encoded slash, backslash, percent sign
/// or control character; bytes that are not UTF-8.
fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|segment| {
        let Some(decoded) = percent_decoded(segment) else { return false };
        let Ok(decoded) = String::from_utf8(decoded) else { return false };
        let name = decoded.split(';').next().unwrap_or_default().trim();
        let is_dots = !name.is_empty() && name.chars().all(|c| c == '.');
        !is_dots && !decoded.contains(|c: char| matches!(c, '/' | '\\' | '%') || c.is_control())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed_into_its_parts() {
        let url = provider_url("https://API.example.com:8443/openai/v1/").unwrap();
        assert_eq!((url.https, url.host.as_str(), url.port), (true, "api.example.com", 8443));
        assert_eq!(
            (url.authority.as_str(), url.path.as_str()),
            ("api.example.com:8443", "/openai/v1")
        );
        let url = provider_url("http://[::1]:80").unwrap();
        assert_eq!(
            (url.host.as_str(), url.authority.as_str(), url.path.as_str()),
            ("::1", "[::1]", "")
        );
    }

    #[test]
    fn a_url_that_no_request_can_be_sent_to_is_rejected() {
        for text in [
            "",
            "8080",
            "api.openai.com",
            "ftp://a",
            "https://",
            "https://a/?b",
            "https://a/#b",
            "http://a:0",
            "http://a:99999",
            "http://a:x",
            "http://a b",
            "https://user:pw@a",
            "http://a..b",
            "http://[::g]",
            "http://${env:A}",
        ] {
            assert!(provider_url(text).is_err(), "{text}");
        }
        assert!(!provider_url("https://user:hunter2@a").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn a_proxy_may_have_a_user() {
        let split = |text| split_user(text);
        assert_eq!(split("http://u:p@ss@proxy:1"), (Some("u:p@ss"), "http://proxy:1".to_owned()));
        assert_eq!(split("http://u:${file:/x}@p").0, Some("u:${file:/x}"));
        assert_eq!(split("http://proxy:1"), (None, "http://proxy:1".to_owned()));
        assert_eq!(percent_decoded("open%3Asesame").unwrap(), b"open:sesame");
        assert_eq!(basic(b"aladdin:opensesame").unwrap(), "Basic YWxhZGRpbjpvcGVuc2VzYW1l");
        assert!(proxy_url("http://proxy:3128/path").is_err() && percent_decoded("%4").is_none());
    }

    #[test]
    fn a_callback_keeps_its_path_as_written() {
        let taken = callback_url("https://H.internal/h/**").unwrap();
        assert_eq!((taken.https, taken.host.as_str(), taken.port), (true, "h.internal", 443));
        assert_eq!(taken.path, "/h/**");
        let taken = callback_url("http://[::1]:8080/").unwrap();
        assert_eq!((taken.https, taken.host.as_str(), taken.port), (false, "::1", 8080));
        assert_eq!(taken.path, "/");
        for text in ["https://app.internal/**", "http://[::1]:8080/a/*", "https://a:8443/"] {
            assert_eq!(callback_url(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_callback_without_a_host_or_path_of_its_own_is_rejected() {
        for text in [
            "",
            "/hooks",
            "ftp://a/b",
            "https://a",
            "https:///b",
            "https://*.internal/**",
            "https://a:*/b",
            "https://a/**/b",
            "https://a/b*",
            "https://a/?b",
            "https://a/#b",
            "https://a/${env:B}",
            "https://user:pw@a/b",
        ] {
            assert!(callback_url(text).is_err(), "{text}");
        }
        assert!(!callback_url("https://user:hunter2@a/b").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn names_of_the_internet_are_not_private() {
        let private = |host| PostTo::read(&format!("http://{host}/")).unwrap().has_private_name();
        for host in ["127.0.0.1:80", "[::1]", "app", "localhost", "a.localhost", "a.b.svc.local"] {
            assert!(private(host), "{host}");
        }
        assert!(private("app.internal") && private("printer.home.arpa"));
        for host in ["example.com", "internal.example.com", "127.0.0.1.example.com", "local.de"] {
            assert!(!private(host), "{host}");
        }
    }

    #[test]
    fn a_callback_is_allowed_by_host_port_scheme_and_path() {
        let allowed = callback_url("https://app.internal/jobs/**").unwrap();
        let allows = |text: &str| PostTo::read(text).is_ok_and(|to| allowed.allows(&to));
        for good in [
            "https://app.internal/jobs/1",
            "https://APP.internal:443/jobs/a/b?x=1",
            "https://app.internal/jobs/",
            "https://app.internal/jobs/a%20b;v=1/..hidden?x=../%2f",
        ] {
            assert!(allows(good), "{good}");
        }
        for bad in [
            "http://app.internal/jobs/1",
            "https://app.internal:444/jobs/1",
            "https://app.internal/other",
            "https://app.internal/jobs/../admin",
            "https://app.internal/jobs/%2E%2e/admin",
            "https://app.internal/jobs/..\\admin",
            "https://app.internal/jobs/..%2fadmin",
            "https://app.internal/jobs/..%5Cadmin",
            "https://app.internal/jobs/%2e%2e%2fadmin",
            "https://app.internal/jobs/..;/admin",
            "https://app.internal/jobs/..;x=1/admin",
            "https://app.internal/jobs/..%3b/admin",
            "https://app.internal/jobs/%252e%252e/admin",
            "https://app.internal/jobs/..%252fadmin",
            "https://app.internal/jobs/..%00/admin",
            "https://app.internal/jobs/..%20/admin",
            "https://app.internal/jobs/..%c0%afadmin",
            "https://app.internal/jobs/.../admin",
            "https://app.internal/jobs/a%2",
            "https://app.internal.evil/jobs/1",
            "https://app.internal@evil/jobs/1",
            "https://evil/jobs/1?https://app.internal/jobs/",
            "https://evil#@app.internal/jobs/1",
            "//app.internal/jobs/1",
            "file:///jobs/1",
            "",
        ] {
            assert!(!allows(bad), "{bad}");
        }
    }
}
