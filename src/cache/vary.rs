//! `Vary` (RFC 9111, 4.1): the request headers by which a response was selected.
//!
//! Their values are kept only as a keyed hash, because any of them may be a credential.

use http::header::{ACCEPT_LANGUAGE, HeaderMap, HeaderName, VARY};

use super::cache_control::{header_elements, list_elements};
use super::key::{CacheKey, CacheSecret};

/// A response that varies by more names is not stored.
const MAX_NAMES: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantKey {
    /// Sorted, without duplicates.
    names: Box<[HeaderName]>,
    hash: CacheKey,
}

impl VariantKey {
    /// `None` if the response varies by `*` or by too many names.
    pub fn of(
        request: &HeaderMap,
        response: &HeaderMap,
        secret: &CacheSecret,
    ) -> Option<VariantKey> {
        // A line that is not text may name any header.
        if response.get_all(VARY).iter().any(|line| line.to_str().is_err()) {
            return None;
        }
        let mut names = Vec::new();
        for element in header_elements(response, &VARY) {
            names.push(HeaderName::from_bytes(element.as_bytes()).ok().filter(|_| element != "*")?);
        }
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        if names.len() > MAX_NAMES {
            return None;
        }
        let hash = hash(&names, request, secret);
        Some(VariantKey { names: names.into(), hash })
    }

    /// The request selects the same variant.
    pub fn matches(&self, request: &HeaderMap, secret: &CacheSecret) -> bool {
        self.names.is_empty() || hash(&self.names, request, secret) == self.hash
    }

    /// The key of the variant under `key` that the request selects.
    pub fn narrow(&self, key: &CacheKey, request: &HeaderMap, secret: &CacheSecret) -> CacheKey {
        match self.names.is_empty() {
            true => *key,
            false => key.combined(&hash(&self.names, request, secret), secret),
        }
    }

    pub fn bytes(&self) -> u64 {
        let names = self.names.iter().map(|name| name.as_str().len() + size_of::<HeaderName>());
        names.sum::<usize>() as u64
    }
}

fn hash(names: &[HeaderName], request: &HeaderMap, secret: &CacheSecret) -> CacheKey {
    let mut builder = secret.builder();
    for name in names {
        let normal = normalized(request, name);
        builder.part(name.as_str().as_bytes()).count(normal.len());
        for part in &normal {
            builder.part(part);
        }
    }
    builder.finish()
}

/// The elements of a header, regardless of lines and spaces; languages also regardless of case and
/// order.
fn normalized(request: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    let values = request.get_all(name);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for value in values {
        match value.to_str() {
            Ok(line) => {
                parts.extend(list_elements(line).map(|element| element.as_bytes().to_vec()))
            }
            Err(_) => parts.push(value.as_bytes().to_vec()),
        }
    }
    if *name == ACCEPT_LANGUAGE {
        parts.iter_mut().for_each(|part| part.make_ascii_lowercase());
        parts.sort();
    }
    // An empty header differs from an absent one.
    if parts.is_empty() && request.contains_key(name) {
        parts.push(Vec::new());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn same(vary: &str, one: &[(&str, &str)], other: &[(&str, &str)]) -> bool {
        let secret = CacheSecret::new().expect("random bytes");
        let variant = VariantKey::of(&headers(one), &headers(&[("vary", vary)]), &secret);
        variant.expect("a few names").matches(&headers(other), &secret)
    }

    #[test]
    fn the_spelling_of_a_header_does_not_matter() {
        assert!(same("Foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(same("foo, FOO", &[("foo", " 1,2 ")], &[("foo", "1 ,  2")]));
        assert!(same(
            "accept-language",
            &[("accept-language", "en, de")],
            &[("accept-language", "De,EN")]
        ));
        assert!(same("bar", &[("foo", "1")], &[("foo", "2")]));
    }

    #[test]
    fn the_elements_of_a_header_matter() {
        assert!(!same("foo", &[("foo", "1, 2")], &[("foo", "2, 1")]));
        assert!(!same("foo", &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")]));
        assert!(!same("foo", &[("foo", "")], &[]));
        assert!(!same("foo, bar", &[("foo", "1"), ("bar", "2")], &[("foo", "1")]));
        assert!(!same("foo, bar", &[("foo", "x")], &[("bar", "x")]));
    }

    #[test]
    fn a_response_that_varies_by_everything_is_not_stored() {
        let secret = CacheSecret::new().expect("random bytes");
        let many: Vec<String> = (0..40).map(|n| format!("h{n}")).collect();
        for vary in ["*", "foo, *", &many.join(","), "a b"] {
            let response = headers(&[("vary", vary)]);
            assert_eq!(VariantKey::of(&HeaderMap::new(), &response, &secret), None, "{vary}");
        }
    }

    proptest! {
        #[test]
        fn equal_requests_narrow_to_the_same_key(one in "[a-c ,]{0,5}", other in "[a-c ,]{0,5}") {
            let secret = CacheSecret::new().expect("random bytes");
            let key = secret.builder().finish();
            let (one, other) = (headers(&[("foo", &one)]), headers(&[("foo", &other)]));
            let variant = VariantKey::of(&one, &headers(&[("vary", "foo")]), &secret).expect("one name");
            let (a, b) = (variant.narrow(&key, &one, &secret), variant.narrow(&key, &other, &secret));
            prop_assert_eq!(a == b, variant.matches(&other, &secret));
        }
    }
}
