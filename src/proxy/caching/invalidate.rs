//! Invalidation of cached responses after an unsafe request (RFC 9111, 4.4).
//!
//! A route without a cache may change a resource that another route caches, so the invalidations
//! apply to all caches.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, Uri};

use super::key;
use crate::clock;
use crate::policy::sections::model::Keeps;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::dispatch::DispatchOutcome;
use crate::snapshot::Route;

/// Invalidates the URIs that a successful unsafe request has changed.
pub fn changed(request: &ProxyRequest, route: &Route, outcome: &DispatchOutcome) {
    let Some(caches) = &route.invalidation else { return };
    let by_policy = route.cache.as_ref().is_some_and(|cache| cache.policy.store != Keeps::Http);
    if request.head.method().is_safe() || by_policy {
        return;
    }
    let Ok(response) = outcome else { return };
    if !(response.head.status.is_success() || response.head.status.is_redirection()) {
        return;
    }
    let (secret, invalidations, now) = (caches.secret(), caches.invalidations(), clock::now());
    let host = key::host(request.head.headers(), client_uri(request));
    invalidations.record(&key::uri(secret, request.head.headers(), client_uri(request)), now);
    for name in [LOCATION, CONTENT_LOCATION] {
        let value = response.head.headers.get(name);
        if let Some(target) =
            value.and_then(|value| same_host_target(value, &host, client_uri(request)))
        {
            invalidations.record(&key::at(secret, &host, &target), now);
        }
    }
}

/// The URI of the client, before a degradation mode changed it.
fn client_uri(request: &ProxyRequest) -> &Uri {
    request.head.client_uri()
}

/// The reference is the URI of the request itself.
pub fn is_here(request: &ProxyRequest, reference: &HeaderValue) -> bool {
    let host = key::host(request.head.headers(), client_uri(request));
    let whole = client_uri(request).path_and_query().map_or("/", |target| target.as_str());
    same_host_target(reference, &host, client_uri(request)).is_some_and(|target| target == whole)
}

/// The path and query of a reference to this host (RFC 3986, 5.2, without dot segments).
fn same_host_target(value: &HeaderValue, host: &[u8], base: &Uri) -> Option<String> {
    let text = value.to_str().ok()?.split('#').next()?;
    if let Some((scheme, rest)) = text.split_once("://")
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let authority: Authority = rest[..at].parse().ok()?;
        let same = authority.as_str().as_bytes().eq_ignore_ascii_case(host);
        return same.then(|| if at == rest.len() { "/".to_owned() } else { rest[at..].to_owned() });
    }
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
    let folder = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
    Some(format!("{folder}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_resolved_where_it_is_of_this_host() {
        let base: Uri = "/a/b?q".parse().expect("a path");
        let here = |text: &str| same_host_target(&text.parse().expect("a value"), b"app:80", &base);
        assert_eq!(here("/x?y#z").as_deref(), Some("/x?y"));
        assert_eq!(here("c").as_deref(), Some("/a/c"));
        assert_eq!(here("http://APP:80/x").as_deref(), Some("/x"));
        assert_eq!(here("https://app:80").as_deref(), Some("/"));
        assert_eq!(here("http://other/x"), None);
    }
}
