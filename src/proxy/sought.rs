//! What a request looks for in its route's cache: whether it may, and under which key.
//!
//! The key has the route, the host and the principal: whoever asks with other credentials asks for
//! something else. Only a policy that says `public` shares answers between principals.

use http::header::{
    HOST, HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TE,
};
use http::{HeaderValue, Method, Uri};

use super::headers;
use super::request::Ask;
use crate::cache::canonical;
use crate::cache::control::Control;
use crate::cache::key::{Key, Making, Secret};
use crate::policy::model::{Keeps, KeyPart};
use crate::snapshot::RouteCache;

/// Whose answers depend on what is not kept.
const PASSES: [HeaderName; 4] = [IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE, TE];

#[derive(Clone, Debug)]
pub struct Sought {
    pub key: Key,
    /// Of what stands at its URI, for all principals; none where answers are kept by policy.
    pub uri: Option<Key>,
    /// What the request says of caches; by policy only that it goes past, or is not to be kept.
    pub control: Control,
    /// It has conditions of its own.
    pub conditional: bool,
    pub head: bool,
    /// Only a part of it is wanted.
    pub part: Option<Part>,
}

/// The one range of bytes that a request asks for (RFC 9110, 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    From(u64, Option<u64>),
    Last(u64),
}

impl Sought {
    /// # Errors
    /// Why it goes past the cache, in the words of RFC 9211, 2.2.
    pub fn of(ask: &Ask, cache: &RouteCache) -> Result<Sought, &'static str> {
        let head = ask.method == Method::HEAD;
        let is_http = cache.policy.store == Keeps::Http;
        if if is_http { !head && ask.method != Method::GET } else { head } {
            return Err("method");
        }
        let Some(body) = ask.payload.whole() else { return Err("bypass") };
        let part = match ask.headers.get(RANGE) {
            None => None,
            Some(range) if is_http && !head => Some(Part::of(range).ok_or("bypass")?),
            Some(_) => return Err("bypass"),
        };
        let passes = PASSES.iter().any(|name| ask.headers.contains_key(name));
        if passes || ask.upgrade.is_some() || is_http && !body.is_empty() {
            return Err("bypass");
        }
        let secret = &cache.live.secret;
        let control = Control::of_request(&ask.headers);
        let control = match is_http {
            true => control,
            false => Control {
                no_cache: control.no_cache,
                no_store: control.no_store,
                ..Control::default()
            },
        };
        let conditional = is_http
            && [IF_NONE_MATCH, IF_MODIFIED_SINCE].iter().any(|n| ask.headers.contains_key(n));
        Ok(Sought {
            key: key(ask, cache, &body),
            uri: is_http.then(|| uri(secret, &ask.headers, &ask.uri)),
            control,
            conditional,
            head,
            part,
        })
    }

    /// What is stored for a GET, and is the answer to a request that changed it (RFC 9110, 9.3.3).
    pub fn by_get(ask: &Ask, cache: &RouteCache) -> Sought {
        Sought {
            key: key(ask, cache, b""),
            uri: Some(uri(&cache.live.secret, &ask.headers, &ask.uri)),
            control: Control::of_request(&ask.headers),
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

    /// From where up to where, of so many bytes; `None` where it has nothing of them.
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

fn key(ask: &Ask, cache: &RouteCache, body: &[u8]) -> Key {
    let mut making = cache.live.secret.make();
    making.part(ask.route.policy.name.as_bytes()).part(&host(&ask.headers, &ask.uri));
    match &cache.policy.store {
        Keeps::Http => {
            making.part(b"http");
            principal(&mut making, &ask.headers);
            making.part(target(&ask.uri).as_bytes());
        }
        Keeps::Always { key, public, .. } => {
            making.part(if *public { b"public" } else { b"always" });
            if !public {
                principal(&mut making, &ask.headers);
            }
            key.iter().for_each(|part| add(&mut making, part, ask, body));
        }
    }
    making.end()
}

fn add(making: &mut Making, part: &KeyPart, ask: &Ask, body: &[u8]) {
    match part {
        KeyPart::Method => making.part(b"method").part(ask.method.as_str().as_bytes()),
        KeyPart::Path => making.part(b"path").part(ask.uri.path().as_bytes()),
        KeyPart::Query => {
            making.part(b"query").part(ask.uri.query().unwrap_or_default().as_bytes())
        }
        KeyPart::Body => match canonical::json(body) {
            Some(json) => making.part(b"json").part(&json),
            None => making.part(b"body").part(body),
        },
        KeyPart::Header(name) => {
            let values = ask.headers.get_all(name);
            making.part(b"header").part(name.as_str().as_bytes()).count(values.iter().count());
            for value in values {
                making.part(value.as_bytes());
            }
            making
        }
    };
}

fn principal(making: &mut Making, headers: &HeaderMap) {
    headers::each_identity(headers, |name, value| {
        making.part(name.as_str().as_bytes()).part(value.as_bytes());
    });
    making.part(b"");
}

/// What stands at a URI, for the marks of changes.
pub fn uri(secret: &Secret, headers: &HeaderMap, uri: &Uri) -> Key {
    at(secret, &host(headers, uri), target(uri))
}

pub fn at(secret: &Secret, host: &[u8], target: &str) -> Key {
    let mut making = secret.make();
    making.part(b"uri").part(host).part(target.as_bytes());
    making.end()
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

/// As the application calls it, in lower case.
pub fn host(headers: &HeaderMap, uri: &Uri) -> Vec<u8> {
    let header = headers.get(HOST).map(|host| host.as_bytes());
    let host = uri.authority().map(|authority| authority.as_str().as_bytes()).or(header);
    host.unwrap_or_default().to_ascii_lowercase()
}
