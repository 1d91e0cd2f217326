//! The cache lookup of a request: whether it may use the cache, and its key.
//!
//! The key contains the route, the host and the principal, so requests with other credentials have
//! other keys. Only a policy with `public` shares responses between principals.

use std::sync::Arc;

use http::header::{
    HOST, HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TE,
};
use http::{HeaderValue, Method, Uri};

use crate::cache::cache_control::CacheControl;
use crate::cache::entry::{CacheEntry, CachedResponse};
use crate::cache::key::{CacheKey, CacheKeyBuilder, CacheSecret};
use crate::credentials::identity::CallerIdentity;
use crate::json::canonical;
use crate::policy::sections::model::{Keeps, KeyPart, StoreAll};
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::PendingResponse;
use crate::proxy::response::cache_status::ForwardReason;
use crate::proxy::response::stored::range_from_store;
use crate::snapshot::RouteCache;

/// A request with one of these headers bypasses the cache.
const PASSES: [HeaderName; 4] = [IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE, TE];

#[derive(Clone, Debug)]
pub struct CacheLookup {
    pub key: CacheKey,
    /// The key of the URI for invalidation; `None` if responses are stored by policy.
    pub uri: Option<CacheKey>,
    /// The directives of the request; if responses are stored by policy, only no-cache and no-store.
    pub control: CacheControl,
    /// The client sent a conditional request.
    pub conditional: bool,
    pub head: bool,
    /// The requested range.
    pub part: Option<Part>,
}

/// A single byte range (RFC 9110, 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    From(u64, Option<u64>),
    Last(u64),
}

impl CacheLookup {
    /// # Errors
    /// Why the request bypasses the cache.
    pub fn of(request: &ProxyRequest, cache: &RouteCache) -> Result<CacheLookup, ForwardReason> {
        let head = request.head.method() == Method::HEAD;
        let is_http = cache.policy.store == Keeps::Http;
        if if is_http { !head && request.head.method() != Method::GET } else { head } {
            return Err(ForwardReason::Method);
        }
        let Some(body) = request.body.complete() else { return Err(ForwardReason::Bypass) };
        let part = match request.head.headers().get(RANGE) {
            None => None,
            Some(range) if is_http && !head => Some(Part::of(range).ok_or(ForwardReason::Bypass)?),
            Some(_) => return Err(ForwardReason::Bypass),
        };
        let passes = PASSES.iter().any(|name| request.head.headers().contains_key(name));
        if passes || request.head.is_upgrade() || is_http && !body.is_empty() {
            return Err(ForwardReason::Bypass);
        }
        let secret = &cache.live.secret;
        let control = CacheControl::of_request(request.head.headers());
        let control = match is_http {
            true => control,
            false => CacheControl {
                no_cache: control.no_cache,
                no_store: control.no_store,
                ..CacheControl::default()
            },
        };
        let conditional = is_http
            && [IF_NONE_MATCH, IF_MODIFIED_SINCE]
                .iter()
                .any(|n| request.head.headers().contains_key(n));
        Ok(CacheLookup {
            key: KeyedRequest::of(request, &body).key(secret, &cache.policy.store),
            uri: is_http.then(|| uri(secret, request.head.headers(), request.head.uri())),
            control,
            conditional,
            head,
            part,
        })
    }

    /// The stored response for the request, if no later change of its URI invalidated it.
    pub fn find(
        &self,
        request: &ProxyRequest,
        cache: &RouteCache,
        entry: &CacheEntry,
    ) -> Option<Arc<CachedResponse>> {
        let live = &cache.live;
        let valid = |stored: &CachedResponse| {
            let uri = self.uri.as_ref();
            uri.is_none_or(|uri| !live.invalidations.covers(uri, stored.requested_at))
        };
        entry.find(request.head.headers(), &live.secret, valid)
    }

    /// Whether another response was stored after the lookup that returned `found`. A new leader
    /// asks, because the one before it may have ended between the lookup and the join.
    pub fn changed_since(
        &self,
        request: &ProxyRequest,
        cache: &RouteCache,
        found: Option<&Arc<CachedResponse>>,
    ) -> bool {
        let entry = cache.live.get(&self.key).unwrap_or_default();
        self.find(request, cache, &entry).as_ref().map(Arc::as_ptr) != found.map(Arc::as_ptr)
    }

    /// The range of a stored response that is requested.
    pub fn range_of(&self, stored: &Arc<CachedResponse>) -> Option<Box<PendingResponse>> {
        let (from, to) = self.part?.within(stored.length)?;
        range_from_store(Arc::clone(stored), from, to)
    }

    /// The lookup of a GET for the URI of a POST (RFC 9110, 9.3.3).
    pub fn by_get(request: &ProxyRequest, cache: &RouteCache) -> CacheLookup {
        let secret = &cache.live.secret;
        CacheLookup {
            key: KeyedRequest::of(request, b"").key(secret, &cache.policy.store),
            uri: Some(uri(secret, request.head.headers(), request.head.uri())),
            control: CacheControl::of_request(request.head.headers()),
            conditional: false,
            head: false,
            part: None,
        }
    }
}

impl Part {
    fn of(range: &HeaderValue) -> Option<Part> {
        let (from, to) = range.to_str().ok()?.strip_prefix("bytes=")?.trim().split_once('-')?;
        match (from, to) {
            ("", last) => last.parse().ok().map(Part::Last),
            (from, "") => Some(Part::From(from.parse().ok()?, None)),
            (from, to) => Some(Part::From(from.parse().ok()?, Some(to.parse().ok()?))),
        }
    }

    /// Start and end (exclusive) within a body of this length; `None` if it is outside.
    pub fn within(self, length: u64) -> Option<(u64, u64)> {
        let (from, to) = match self {
            Part::From(from, to) => {
                (from, to.map_or(length, |to| to.saturating_add(1).min(length)))
            }
            Part::Last(last) => (length.saturating_sub(last), length),
        };
        (from < to).then_some((from, to))
    }
}

/// The parts of a request that a key may contain.
struct KeyedRequest<'a> {
    route: &'a str,
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    identity: &'a CallerIdentity,
    body: &'a [u8],
}

impl<'a> KeyedRequest<'a> {
    fn of(request: &'a ProxyRequest, body: &'a [u8]) -> KeyedRequest<'a> {
        let route = &request.route.policy.name;
        KeyedRequest {
            route,
            method: request.head.method(),
            uri: request.head.uri(),
            headers: request.head.headers(),
            identity: request.head.identity(),
            body,
        }
    }

    fn key(&self, secret: &CacheSecret, keeps: &Keeps) -> CacheKey {
        let mut builder = secret.builder();
        builder.part(self.route.as_bytes()).part(&host(self.headers, self.uri));
        match keeps {
            Keeps::Http => {
                builder.part(b"http");
                builder.part(self.identity.as_bytes());
                builder.part(target(self.uri).as_bytes());
            }
            Keeps::Always(StoreAll { key, public, .. }) => {
                builder.part(if *public { b"public" } else { b"always" });
                if !public {
                    builder.part(self.identity.as_bytes());
                }
                key.iter().for_each(|part| self.add(&mut builder, part));
            }
        }
        builder.finish()
    }

    fn add(&self, builder: &mut CacheKeyBuilder, part: &KeyPart) {
        match part {
            KeyPart::Method => builder.part(b"method").part(self.method.as_str().as_bytes()),
            KeyPart::Path => builder.part(b"path").part(self.uri.path().as_bytes()),
            KeyPart::Query => {
                builder.part(b"query").part(self.uri.query().unwrap_or_default().as_bytes())
            }
            KeyPart::Body => match canonical::canonicalize(self.body) {
                Some(json) => builder.part(b"json").part(&json),
                None => builder.part(b"body").part(self.body),
            },
            KeyPart::Header(name) => {
                let values = self.headers.get_all(name);
                builder.part(b"header").part(name.as_str().as_bytes()).count(values.iter().count());
                for value in values {
                    builder.part(value.as_bytes());
                }
                builder
            }
        };
    }
}

/// The key of a URI for invalidation.
pub fn uri(secret: &CacheSecret, headers: &HeaderMap, uri: &Uri) -> CacheKey {
    at(secret, &host(headers, uri), target(uri))
}

pub fn at(secret: &CacheSecret, host: &[u8], target: &str) -> CacheKey {
    let mut builder = secret.builder();
    builder.part(b"uri").part(host).part(target.as_bytes());
    builder.finish()
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The host as the client sent it, in lower case.
pub fn host(headers: &HeaderMap, uri: &Uri) -> Vec<u8> {
    let header = headers.get(HOST).map(|host| host.as_bytes());
    let host = uri.authority().map(|authority| authority.as_str().as_bytes()).or(header);
    host.unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
