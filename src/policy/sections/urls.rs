//! URLs of providers, of forward proxies and of callbacks, taken apart once.
//!
//! Only what an HTTP request can be sent to: `http` or `https`, a host, perhaps a port and a
//! path (RFC 3986). A query or fragment would be lost on the way and is refused. A user name
//! belongs to `auth`, but for a forward proxy, which has no other place for it; such a URL is
//! never quoted in a message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};

use super::matcher::PathPattern;
use super::model::{Callback, Url};

pub(crate) fn provider_url(text: &str) -> Result<Url, String> {
    if text.contains("${") {
        return Err(
            "a URL is public: `${...}` stands for a secret and is not resolved here".to_owned()
        );
    }
    if authority_of(text).contains('@') {
        return Err("the URL holds a user name or password: put them under `auth`".to_owned());
    }
    url(text)
}

/// The user name and password of a proxy's URL as written, and the URL without them.
pub(crate) fn split_user(text: &str) -> (Option<&str>, String) {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (user, rest))) => (Some(user), format!("{scheme}://{rest}")),
        None => (None, text.to_owned()),
    }
}

/// A proxy's URL without user name and password.
pub(crate) fn proxy_url(text: &str) -> Result<Url, String> {
    if text.contains("${") {
        return Err("only the user name and password of a proxy may be secrets".to_owned());
    }
    let url = url(text)?;
    match url.path.as_str() {
        "" => Ok(url),
        path => {
            Err(format!("a proxy is asked to CONNECT, which knows no path: leave `{path}` out"))
        }
    }
}

/// Where a result is posted to, without its path.
pub(crate) fn callback_target(text: &str) -> Result<Url, String> {
    url(text)
}

/// Where a result may be posted to: `https://host[:port]/path`, with `*` and `**` in the path.
pub(crate) fn callback_url(text: &str) -> Result<Callback, String> {
    if text.contains("${") {
        return Err(
            "a URL is public: `${...}` stands for a secret and is not resolved here".to_owned()
        );
    }
    let authority = authority_of(text);
    if authority.contains('@') {
        return Err("the URL holds a user name or password: a callback has none".to_owned());
    }
    if authority.contains('*') {
        return Err(format!(
            "`{text}`: `*` and `**` stand in a path only, so name each host by itself"
        ));
    }
    let Url { https, host, port, .. } = url(text)?;
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

/// `Basic` and the Base64 of `user:password` (RFC 7617), marked sensitive.
pub(crate) fn basic(user_and_password: &[u8]) -> Option<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user_and_password))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn authority_of(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn url(text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("`{text}` is no URL: {why}");
    let https =
        match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            Some("https") => true,
            Some("http") => false,
            Some(scheme) => {
                return Err(wrong(&format!("expected `http` or `https`, found `{scheme}`")));
            }
            None => {
                return Err(wrong(
                    "expected `http://` or `https://` first, like `https://api.example.com`",
                ));
            }
        };
    if text.contains(['?', '#']) {
        return Err(wrong("a query or fragment would be lost: leave it out"));
    }
    let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    let authority = uri.authority().ok_or_else(|| wrong("there is no host"))?;
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if !is_host(host, bare) {
        return Err(wrong("expected a host name or address"));
    }
    let default = if https { 443 } else { 80 };
    let after = &authority.as_str()[host.len()..];
    let port = match after.strip_prefix(':') {
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

pub(crate) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let (high, low) = (
                    char::from(bytes.next()?).to_digit(16)?,
                    char::from(bytes.next()?).to_digit(16)?,
                );
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
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
    fn what_no_request_can_be_sent_to_is_refused() {
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
    fn a_callback_has_its_path_as_it_is_written() {
        let taken = callback_url("https://H.internal/h/**").unwrap();
        assert_eq!((taken.https, taken.host.as_str(), taken.port), (true, "h.internal", 443));
        assert_eq!(taken.path, "/h/**");
        let taken = callback_url("http://[::1]:8080/").unwrap();
        assert_eq!((taken.https, taken.host.as_str(), taken.port), (false, "::1", 8080));
        assert_eq!(taken.path, "/");
    }

    #[test]
    fn a_callback_that_could_go_anywhere_or_nowhere_is_refused() {
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
}
