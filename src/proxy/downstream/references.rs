//! References of a response to its own provider, rewritten so that they lead to the listener.
//!
//! A client that follows `Location: https://api.example.com/v1/x` goes past the sidecar, without the
//! provider's credentials and without another provider. Such a reference becomes a path, the reverse
//! of the request's: a path holds for each name that a client has for the listener. References to
//! other servers stay as they are, and so do relative ones.

use std::ops::Range;

use http::HeaderMap;
use http::header::{CONTENT_LOCATION, HeaderName, HeaderValue, LOCATION, REFRESH};

use crate::clock;
use crate::policy::sections::model::{ProviderPolicy, Redirects, RoutePolicy, Url};
use crate::telemetry::log_limit::LogLimit;

/// Headers with a reference (RFC 9110, 8.7 and 10.2.2; `Refresh` as browsers read it).
const REFERENCES: [HeaderName; 3] = [LOCATION, CONTENT_LOCATION, REFRESH];

static UNMAPPED: LogLimit = LogLimit::new();

/// Rewrites the references to `url`, unless the route passes them.
pub fn localize(
    headers: &mut HeaderMap,
    route: &RoutePolicy,
    provider: &ProviderPolicy,
    url: &Url,
) {
    if route.redirects == Redirects::Pass {
        return;
    }
    for name in REFERENCES {
        let Some(value) = headers.get(&name) else { continue };
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else { continue };
        let at = if name == REFRESH { refresh_target(text) } else { 0..text.len() };
        let Some(path) = path_at(&text[at.clone()], url) else { continue };
        let mapped = match &provider.rewrite.path {
            Some(_) => None,
            None => client_path(path, route.strip_prefix.as_deref(), url),
        };
        let Some(mapped) = mapped else {
            warn_unmapped(provider, &name);
            continue;
        };
        let changed = [&text[..at.start], &mapped, &text[at.end..]].concat();
        if let Ok(changed) = HeaderValue::from_bytes(changed.as_bytes()) {
            headers.insert(name, changed);
        }
    }
}

fn warn_unmapped(provider: &ProviderPolicy, name: &HeaderName) {
    let Some(count) = UNMAPPED.admit(clock::now()) else { return };
    let reason = match &provider.rewrite.path {
        Some(_) => "`rewrite.path` cannot be reversed",
        None => "its path is not below that of the provider's URL",
    };
    let (provider, header) = (&provider.name, name.as_str());
    tracing::warn!(
        provider,
        header,
        reason,
        count,
        "a response refers to its provider, and the reference was forwarded as it is: a client that \
         follows it goes past the sidecar"
    );
}

/// The URL in `5; url="https://..."`.
fn refresh_target(text: &str) -> Range<usize> {
    let lower = text.to_ascii_lowercase();
    let Some(at) = lower.find("url=") else { return text.len()..text.len() };
    let start = at + "url=".len();
    let rest = &text[start..];
    match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let length = rest[1..].find(quote).unwrap_or(rest.len() - 1);
            start + 1..start + 1 + length
        }
        _ => start..text.trim_end().len().max(start),
    }
}

/// The path, query and fragment of a reference to the server of `url`; `None` for another server and
/// for a reference that is relative to the request's path.
fn path_at<'t>(reference: &'t str, url: &Url) -> Option<&'t str> {
    let rest = match reference.split_once("://") {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(if url.https { "https" } else { "http" }) =>
        {
            rest
        }
        _ => match reference.strip_prefix("//") {
            Some(rest) => rest,
            None => return reference.starts_with('/').then_some(reference),
        },
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let default = if url.https { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default).unwrap_or(authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    authority.eq_ignore_ascii_case(&url.authority).then_some(path)
}

/// The path by which a client of the listener reaches a path of the provider; `None` if there is
/// none. `strip` is the prefix that the route removes from paths.
fn client_path(target: &str, strip: Option<&str>, url: &Url) -> Option<String> {
    let (path, rest) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
    let below = path.strip_prefix(url.path.as_str())?;
    let strip = strip.unwrap_or_default();
    let slash = if below.is_empty() { "/" } else { "" };
    // A segment `..` may lead out of the base path, and a path that begins with two slashes names a
    // host.
    let is_safe = (below.is_empty() || below.starts_with('/'))
        && !(strip.is_empty() && below.starts_with("//"))
        && !below.split('/').any(|segment| segment == "..");
    is_safe.then(|| [strip, slash, below, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(https: bool, authority: &str, path: &str) -> Url {
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let port = port.parse().expect("a port");
        Url { https, host: host.into(), port, authority: authority.into(), path: path.into() }
    }

    #[test]
    fn a_reference_to_the_provider_becomes_the_path_of_the_listener() {
        let to = |reference: &str, strip: Option<&str>, url: &Url| {
            path_at(reference, url).and_then(|path| client_path(path, strip, url))
        };
        let (plain, based) = (url(true, "api.test", ""), url(false, "api.test:81", "/base"));
        for (reference, strip, url, expected) in [
            ("https://api.test/v1/x?y#z", None, &plain, Some("/v1/x?y#z")),
            ("HTTPS://API.test:443/v1", None, &plain, Some("/v1")),
            ("//api.test/v1", None, &plain, Some("/v1")),
            ("https://api.test", None, &plain, Some("/")),
            ("https://api.test?x=https://other/", None, &plain, Some("/?x=https://other/")),
            ("/v1/x", None, &plain, Some("/v1/x")),
            ("/v1/x", Some("/openai"), &plain, Some("/openai/v1/x")),
            ("http://api.test:81/base/v1", None, &based, Some("/v1")),
            ("/base", Some("/openai"), &based, Some("/openai/")),
            ("/base?x", None, &based, Some("/?x")),
            // Elsewhere.
            ("http://api.test/v1", None, &plain, None),
            ("https://api.test:444/v1", None, &plain, None),
            ("https://api.test.evil/v1", None, &plain, None),
            ("https://api.test@evil/v1", None, &plain, None),
            ("https://other/https://api.test/", None, &plain, None),
            ("mailto:a@api.test", None, &plain, None),
            // Relative to the request.
            ("x", None, &plain, None),
            ("../x", None, &plain, None),
            ("?x", None, &plain, None),
            ("", None, &plain, None),
            // Without a path at the listener.
            ("/login", None, &based, None),
            ("/basement", None, &based, None),
            ("/base/../login", None, &based, None),
            ("/base//evil/x", None, &based, None),
            ("https://api.test//evil/x", None, &plain, None),
        ] {
            assert_eq!(to(reference, strip, url).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn the_target_of_a_refresh_is_found() {
        for (text, expected) in [
            ("5; url=https://a/x", "https://a/x"),
            ("0;URL='/x'", "/x"),
            ("0; url=\"/x\" ", "/x"),
            ("0; url=\"/x", "/x"),
            ("5", ""),
            ("5; url=", ""),
        ] {
            assert_eq!(&text[refresh_target(text)], expected, "{text}");
        }
    }
}
