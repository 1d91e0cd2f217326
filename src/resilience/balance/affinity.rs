//! Session affinity: where a session was last sent, so that it reuses the prompt cache there.
//!
//! An entry is kept for `ttl` after its last use, and the table is bounded. There are two
//! generations. The younger one takes everything that is used; when it is full or older than
//! `ttl`, it becomes the older one, and the previous older one is dropped as a whole. So
//! nothing ever searches for the oldest entry, an entry is dropped within two `ttl` of its
//! last use, and a flood of one-time keys can displace others but takes no more memory.
//!
//! A key is a keyed hash (`live::route` makes it): a client cannot target another's entry, and
//! it needs no further hashing here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// Keys of one generation.
const BOUND: usize = 65_536;

type Generation = HashMap<u64, AffinityEntry, BuildHasherDefault<IdentityHasher>>;

#[derive(Clone, Copy, Debug)]
struct AffinityEntry {
    endpoint: u32,
    used: Instant,
}

/// Endpoint by session.
#[derive(Clone, Debug)]
pub struct AffinityTable {
    ttl: Duration,
    bound: usize,
    younger: Generation,
    older: Generation,
    /// When the younger generation began; none before the first entry.
    began: Option<Instant>,
}

/// Uses a key as its own hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityHasher(u64);

impl AffinityTable {
    pub fn new(ttl: Duration) -> Self {
        let (younger, older) = (Generation::default(), Generation::default());
        Self { ttl, bound: BOUND, younger, older, began: None }
    }

    /// Changes the lifetime; entries are kept.
    pub fn retune(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// The endpoint the key was last sent to, unless that was `ttl` ago. Counts as a use.
    pub fn find(&mut self, key: u64, now: Instant) -> Option<u32> {
        self.expire(now);
        if let Some(entry) = self.younger.get_mut(&key) {
            entry.used = entry.used.max(now);
            return Some(entry.endpoint);
        }
        let AffinityEntry { endpoint, used } = self.older.remove(&key)?;
        if now.saturating_duration_since(used) >= self.ttl {
            return None;
        }
        self.set(key, endpoint, now);
        Some(endpoint)
    }

    /// Records that the key is sent to this endpoint.
    pub fn set(&mut self, key: u64, endpoint: u32, now: Instant) {
        self.expire(now);
        if self.younger.len() >= self.bound && !self.younger.contains_key(&key) {
            self.rotate(now);
        }
        self.began.get_or_insert(now);
        self.younger.insert(key, AffinityEntry { endpoint, used: now });
    }

    fn expire(&mut self, now: Instant) {
        if self.began.is_some_and(|began| now.saturating_duration_since(began) >= self.ttl) {
            self.rotate(now);
        }
    }

    fn rotate(&mut self, now: Instant) {
        self.older = std::mem::take(&mut self.younger);
        self.began = Some(now);
    }
}

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(600);
    const JUST_BEFORE: Duration = Duration::from_millis(599_999);

    fn small(bound: usize) -> AffinityTable {
        AffinityTable { bound, ..AffinityTable::new(TTL) }
    }

    #[test]
    fn a_session_goes_where_it_went() {
        let (t0, mut affinity) = (Instant::now(), AffinityTable::new(TTL));
        assert_eq!(affinity.find(1, t0), None);
        affinity.set(1, 7, t0);
        affinity.set(2, 8, t0);
        assert_eq!((affinity.find(1, t0), affinity.find(2, t0)), (Some(7), Some(8)));
        affinity.set(1, 9, t0);
        assert_eq!(affinity.find(1, t0), Some(9));
    }

    #[test]
    fn each_use_keeps_it_for_as_long_again() {
        let (mut now, mut affinity) = (Instant::now(), AffinityTable::new(TTL));
        affinity.set(1, 7, now);
        for _ in 0..10 {
            now += JUST_BEFORE;
            assert_eq!(affinity.find(1, now), Some(7));
        }
        assert_eq!(affinity.find(1, now + TTL), None);
    }

    #[test]
    fn a_flood_of_keys_takes_its_room_and_no_more() {
        let (t0, mut affinity) = (Instant::now(), small(100));
        affinity.set(0, 7, t0);
        (1..10_000).for_each(|key| affinity.set(key, 8, t0));
        assert_eq!(affinity.younger.len() + affinity.older.len(), 200);
        assert_eq!((affinity.find(0, t0), affinity.find(9_999, t0)), (None, Some(8)));
    }

    #[test]
    fn a_shorter_time_counts_at_once() {
        let (t0, mut affinity) = (Instant::now(), AffinityTable::new(TTL));
        affinity.set(1, 7, t0);
        affinity.retune(TTL / 10);
        assert_eq!(affinity.find(1, t0 + TTL / 10), None);
    }

    proptest! {
        #[test]
        fn it_is_found_within_its_time_unless_there_were_too_many(
            bound in 1usize..20,
            keys in 1u64..40,
            steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..200), 1..300),
        ) {
            let (mut now, mut affinity) = (Instant::now(), small(bound));
            let mut exact = HashMap::<u64, (u32, Instant)>::new();
            for (step, (sets, key, seconds)) in steps.into_iter().enumerate() {
                let key = key % keys;
                now += Duration::from_secs(seconds);
                let expected = exact.get(&key).filter(|(_, used)| now - *used < TTL);
                let expected = expected.map(|(endpoint, _)| *endpoint);
                if sets {
                    affinity.set(key, step as u32, now);
                    exact.insert(key, (step as u32, now));
                } else {
                    let found = affinity.find(key, now);
                    prop_assert!(found.is_none() || found == expected);
                    if keys <= bound as u64 {
                        prop_assert_eq!(found, expected);
                    }
                    if let Some(endpoint) = found {
                        exact.insert(key, (endpoint, now));
                    }
                }
                prop_assert!(affinity.younger.len() <= bound && affinity.older.len() <= bound);
            }
        }
    }
}
