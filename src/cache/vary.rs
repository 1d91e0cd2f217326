//! `Vary` (RFC 9111, 4.1): by which headers of a request an answer was selected.
//!
//! What these headers said is kept as a keyed hash only, because any of them may be a credential.

use http::header::{ACCEPT_LANGUAGE, HeaderMap, HeaderName, VARY};

use super::cache_control::{header_elements, list_elements};
use super::key::{CacheKey, CacheSecret};

/// More names than this select for nobody else.
const MAX_NAMES: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantKey {
    /// In order, each once.
    names: Box<[HeaderName]>,
    hash: CacheKey,
}

impl VariantKey {
    /// `None`: it varies by everything, or by more than is kept.
    pub fn of(request: &HeaderMap, answer: &HeaderMap, secret: &CacheSecret) -> Option<VariantKey> {
        // A line that is no text may name anything.
        if answer.get_all(VARY).iter().any(|line| line.to_str().is_err()) {
            return None;
        }
        let mut names = Vec::new();
        for element in header_elements(answer, &VARY) {
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

    /// This request selects the same.
    pub fn matches(&self, request: &HeaderMap, secret: &CacheSecret) -> bool {
        self.names.is_empty() || hash(&self.names, request, secret) == self.hash
    }

    /// Which of the answers under `key` this request would select; equal requests get equal ones.
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
    let mut making = secret.builder();
    for name in names {
        let normal = normalized(request, name);
        making.part(name.as_str().as_bytes()).count(normal.len());
        for part in &normal {
            making.part(part);
        }
    }
    making.finish()
}

/// What a header says, however it is written: in one line or several, with spaces or without; of
/// languages also in whatever case and order, as far as order says nothing.
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
    // An empty header is not an absent one.
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
        let secret = CacheSecret::new().expect("chance");
        let selecting = VariantKey::of(&headers(one), &headers(&[("vary", vary)]), &secret);
        selecting.expect("a few names").matches(&headers(other), &secret)
    }

    #[test]
    fn how_a_header_is_written_does_not_count() {
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
    fn what_it_says_counts() {
        assert!(!same("foo", &[("foo", "1, 2")], &[("foo", "2, 1")]));
        assert!(!same("foo", &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")]));
        assert!(!same("foo", &[("foo", "")], &[]));
        assert!(!same("foo, bar", &[("foo", "1"), ("bar", "2")], &[("foo", "1")]));
        assert!(!same("foo, bar", &[("foo", "x")], &[("bar", "x")]));
    }

    #[test]
    fn what_varies_by_everything_selects_for_nobody() {
        let secret = CacheSecret::new().expect("chance");
        let many: Vec<String> = (0..40).map(|n| format!("h{n}")).collect();
        for vary in ["*", "foo, *", &many.join(","), "a b"] {
            let answer = headers(&[("vary", vary)]);
            assert_eq!(VariantKey::of(&HeaderMap::new(), &answer, &secret), None, "{vary}");
        }
    }

    proptest! {
        #[test]
        fn equal_requests_narrow_to_the_same_key(one in "[a-c ,]{0,5}", other in "[a-c ,]{0,5}") {
            let secret = CacheSecret::new().expect("chance");
            let key = secret.builder().finish();
            let (one, other) = (headers(&[("foo", &one)]), headers(&[("foo", &other)]));
            let selecting = VariantKey::of(&one, &headers(&[("vary", "foo")]), &secret).expect("one name");
            let (a, b) = (selecting.narrow(&key, &one, &secret), selecting.narrow(&key, &other, &secret));
            prop_assert_eq!(a == b, selecting.matches(&other, &secret));
        }
    }
}
