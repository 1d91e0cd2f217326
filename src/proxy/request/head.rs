//! The request's head: what the client requested, with headers fit to be sent to any provider.

use http::header::{ACCEPT_ENCODING, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri};
use hyper::upgrade::OnUpgrade;

use crate::credentials::identity::CallerIdentity;
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::request::headers::is_encoded;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Debug)]
pub struct RequestHead {
    method: Method,
    uri: Uri,
    /// The URI as the client sent it, if a degradation mode replaced it.
    client_uri: Option<Box<Uri>>,
    /// Each attempt derives its own headers from these.
    headers: HeaderMap,
    /// `None` after a change of the headers.
    marks: Option<HeaderMarks>,
    upgrade: Option<OnUpgrade>,
    /// Requests with the same session go to the same endpoint.
    session: Option<Box<[u8]>>,
    identity: CallerIdentity,
}

impl RequestHead {
    pub fn new(method: Method, uri: Uri, headers: HeaderMap) -> RequestHead {
        RequestHead {
            method,
            uri,
            client_uri: None,
            headers,
            marks: None,
            upgrade: None,
            session: None,
            identity: CallerIdentity::default(),
        }
    }

    /// A copy for another attempt or request; the upgrade stays with the original.
    pub fn duplicate(&self) -> RequestHead {
        RequestHead {
            method: self.method.clone(),
            uri: self.uri.clone(),
            client_uri: self.client_uri.clone(),
            headers: self.headers.clone(),
            marks: self.marks,
            upgrade: None,
            session: self.session.clone(),
            identity: self.identity,
        }
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The URI as the client sent it.
    pub fn client_uri(&self) -> &Uri {
        self.client_uri.as_deref().unwrap_or(&self.uri)
    }

    /// Replaces the path and keeps the query. An invalid path changes nothing.
    pub fn set_path(&mut self, path: &str) {
        self.client_uri.get_or_insert_with(|| Box::new(self.uri.clone()));
        self.uri = with_path(&self.uri, path);
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.marks = None;
        &mut self.headers
    }

    pub fn marks(&self) -> HeaderMarks {
        self.marks.unwrap_or_else(|| HeaderMarks::of(&self.headers))
    }

    /// Sets the marks of the headers, if they are known already.
    pub fn set_marks(&mut self, marks: HeaderMarks) {
        self.marks = Some(marks);
    }

    /// Whether the body is compressed or encoded otherwise.
    pub fn has_encoded_body(&self) -> bool {
        self.marks().has(HeaderMarks::CONTENT_ENCODING) && is_encoded(&self.headers)
    }

    pub fn has_idempotency_key(&self) -> bool {
        self.marks().has(HeaderMarks::IDEMPOTENCY_KEY)
    }

    /// Requests a response that is not compressed, so that it can be read.
    pub fn accept_identity(&mut self) {
        self.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }

    pub fn session(&self) -> Option<&[u8]> {
        self.session.as_deref()
    }

    pub fn set_session(&mut self, session: Option<Box<[u8]>>) {
        self.session = session;
    }

    /// The identity of the caller, for jobs and caches.
    pub fn identity(&self) -> &CallerIdentity {
        &self.identity
    }

    pub fn set_identity(&mut self, identity: CallerIdentity) {
        self.identity = identity;
    }

    pub fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    pub fn set_upgrade(&mut self, upgrade: Option<OnUpgrade>) {
        self.upgrade = upgrade;
    }

    pub fn into_upgrade(self) -> Option<OnUpgrade> {
        self.upgrade
    }
}

fn with_path(uri: &Uri, path: &str) -> Uri {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mark = if path.contains('?') { '&' } else { '?' };
    let query = uri.query().map(|query| format!("{mark}{query}")).unwrap_or_default();
    Uri::try_from(format!("{slash}{path}{query}")).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_path_keeps_the_query() {
        let path =
            |uri: &str, path: &str| with_path(&uri.parse().expect("a URI"), path).to_string();
        assert_eq!(path("/v1/chat?x=1", "/v1/small"), "/v1/small?x=1");
        assert_eq!(path("/v1/chat?x=1", "/v2?tier=small"), "/v2?tier=small&x=1");
        assert_eq!(path("/v1/chat", "v2"), "/v2");
        assert_eq!(path("/v1/chat", "/a b"), "/v1/chat");
    }
}
