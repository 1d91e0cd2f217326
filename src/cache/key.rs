//! The key of a cached response: a keyed hash of the parts that equal requests share.
//!
//! The secret is random for each process. So a key reveals neither the request nor its credential,
//! and a client cannot choose requests whose keys collide.

use std::fmt;
use std::io;

use sha2::{Digest, Sha256};

use crate::clock;

/// The hash of the parts that equal requests share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// The secret of all keys.
#[derive(Clone)]
pub struct CacheSecret(Sha256);

/// Builds a key from its parts.
#[derive(Clone)]
pub struct CacheKeyBuilder(Sha256);

impl CacheSecret {
    /// # Errors
    /// When the system provides no random bytes.
    pub fn new() -> io::Result<CacheSecret> {
        // A full block of the hash, so that it is hashed once and not for each key.
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
    /// Adds a part. Its length is part of the key.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds the number of parts that follow.
    pub fn count(&mut self, parts: usize) -> &mut Self {
        self.0.update((parts as u64).to_be_bytes());
        self
    }

    pub fn finish(self) -> CacheKey {
        CacheKey(self.0.finalize().into())
    }
}

impl CacheKey {
    /// The first eight bytes as a number, for an index.
    pub fn prefix(&self) -> u64 {
        self.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A key that depends on both.
    pub fn combined(&self, other: &CacheKey, secret: &CacheSecret) -> CacheKey {
        let mut builder = secret.builder();
        builder.part(&self.0).part(&other.0);
        builder.finish()
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
        let mut builder = secret.builder();
        for part in parts {
            builder.part(part);
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_where_every_part_is(
            one in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
            other in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            let secret = CacheSecret::new().expect("random bytes");
            prop_assert_eq!(key(&secret, &one) == key(&secret, &other), one == other);
        }
    }

    #[test]
    fn another_process_has_other_keys() {
        let (one, other) =
            (CacheSecret::new().expect("random bytes"), CacheSecret::new().expect("random bytes"));
        assert_ne!(key(&one, &[vec![1]]), key(&other, &[vec![1]]));
    }
}
