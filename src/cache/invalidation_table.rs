//! A time for each key, in a table of one size however many keys there are.
//!
//! When what stands at a URI was last changed (RFC 9111, 4.4): an answer asked for before that is not used
//! any more, whoever it was for and in whichever cache. Until when nobody waits for another's answer, because
//! the last one could not be shared.
//!
//! Keys share places, and the latest time of a place counts: what was changed is never taken for unchanged,
//! and now and then something is asked for that need not have been.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::CacheKey;
use crate::clock;

/// Half a MiB: with a hundred changes a second, one answer in ten that is a minute old is asked for anew.
const SLOTS: usize = 1 << 16;

#[derive(Debug)]
pub struct InvalidationTable {
    origin: Instant,
    /// Nanoseconds since then, and one; 0: no time.
    slots: OnceLock<Box<[AtomicU64]>>,
}

impl Default for InvalidationTable {
    fn default() -> InvalidationTable {
        InvalidationTable { origin: clock::now(), slots: OnceLock::new() }
    }
}

impl InvalidationTable {
    pub fn record(&self, key: &CacheKey, at: Instant) {
        let none = || std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        slot(self.slots.get_or_init(none), key).fetch_max(self.nanos(at) + 1, Ordering::AcqRel);
    }

    /// A moment is not after the key's time.
    pub fn covers(&self, key: &CacheKey, moment: Instant) -> bool {
        let places = self.slots.get();
        places.is_some_and(|all| slot(all, key).load(Ordering::Acquire) > self.nanos(moment))
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.checked_duration_since(self.origin).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

fn slot<'p>(places: &'p [AtomicU64], key: &CacheKey) -> &'p AtomicU64 {
    &places[key.prefix() as usize % places.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::CacheSecret;

    #[test]
    fn what_came_before_a_mark_is_reached_by_it_and_what_came_after_is_not() {
        let (marks, secret) = (InvalidationTable::default(), CacheSecret::new().expect("chance"));
        let key = secret.builder().finish();
        let at = |ms| marks.origin + Duration::from_millis(ms);
        assert!(!marks.covers(&key, at(0)));
        marks.record(&key, at(5));
        marks.record(&key, at(3));
        assert!(marks.covers(&key, at(4)) && marks.covers(&key, at(5)));
        assert!(!marks.covers(&key, at(6)));
    }
}
