//! The identity of a caller: a hash of all credentials in its request.
//!
//! Jobs and caches hash it again with a key of their own; the result is the *principal*. Two callers
//! that differ in one carrier have different identities.

use std::fmt;

use http::Uri;
use http::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::{is_carrier, query};

/// The default is the identity of every caller without credentials.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CallerIdentity([u8; 32]);

impl CallerIdentity {
    /// The identity of the caller that sent this target with these headers, in any order. Lines of
    /// one name keep their order.
    pub fn of(headers: &HeaderMap, target: &Uri) -> CallerIdentity {
        let is_named =
            |name: &&HeaderName| headers.get_all(*name).iter().any(|value| is_carrier(name, value));
        let mut names: Vec<&HeaderName> = headers.keys().filter(is_named).collect();
        let mut pairs: Vec<_> = target.query().into_iter().flat_map(query::credentials).collect();
        if names.is_empty() && pairs.is_empty() {
            return CallerIdentity::default();
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        let mut hash = Sha256::new();
        for name in names {
            for value in headers.get_all(name) {
                add(&mut hash, name.as_str().as_bytes());
                add(&mut hash, value.as_bytes());
            }
        }
        for (name, value) in pairs {
            // `?` is not a header name.
            add(&mut hash, b"?");
            add(&mut hash, &name);
            add(&mut hash, value.as_bytes());
        }
        CallerIdentity(hash.finalize().into())
    }

    /// For another hash with a key; never stored or shown.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

impl fmt::Debug for CallerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerIdentity")
    }
}
