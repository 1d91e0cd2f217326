//! Which requests have the same answer: a keyed hash of what they have in common.
//!
//! The secret is the process's own, so that a key tells nobody what was asked or with which
//! credential, and nobody outside can choose requests whose keys collide.

use std::fmt;
use std::io;

use sha2::{Digest, Sha256};

use crate::clock;

/// What equal requests share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// What every key is made with.
#[derive(Clone)]
pub struct CacheSecret(Sha256);

/// A key in the making.
#[derive(Clone)]
pub struct CacheKeyBuilder(Sha256);

impl CacheSecret {
    /// # Errors
    /// When the system gives no chance.
    pub fn new() -> io::Result<CacheSecret> {
        // A whole block of the hash, so that it is hashed once and not for each key.
        let mut hash = Sha256::new();
        for _ in 0..4 {
            hash.update(clock::secret()?);
        }
        Ok(CacheSecret(hash))
    }

    pub fn builder(&self) -> CacheKeyBuilder {
        CacheKeyBuilder(self.0.clone())
    }
}

impl CacheKeyBuilder {
    /// Adds what tells requests apart. Where one part ends is part of the key.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds how many parts follow.
    pub fn count(&mut self, parts: usize) -> &mut Self {
        self.0.update((parts as u64).to_be_bytes());
        self
    }

    pub fn finish(self) -> CacheKey {
        CacheKey(self.0.finalize().into())
    }
}

impl CacheKey {
    /// A number made of it, for a place in a table.
    pub fn prefix(&self) -> u64 {
        self.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The key of what both stand for.
    pub fn combined(&self, other: &CacheKey, secret: &CacheSecret) -> CacheKey {
        let mut making = secret.builder();
        making.part(&self.0).part(&other.0);
        making.finish()
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl fmt::Debug for CacheSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for CacheKeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Making")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(secret: &CacheSecret, parts: &[Vec<u8>]) -> CacheKey {
        let mut making = secret.builder();
        for part in parts {
            making.part(part);
        }
        making.finish()
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_where_every_part_is(
            one in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
            other in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            let secret = CacheSecret::new().expect("chance");
            prop_assert_eq!(key(&secret, &one) == key(&secret, &other), one == other);
        }
    }

    #[test]
    fn another_process_has_other_keys() {
        let (one, other) =
            (CacheSecret::new().expect("chance"), CacheSecret::new().expect("chance"));
        assert_ne!(key(&one, &[vec![1]]), key(&other, &[vec![1]]));
    }
}
