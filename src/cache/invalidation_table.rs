//! A time for each key, in a table of fixed size.
//!
//! One use is the last change of a URI (RFC 9111, 4.4): a response requested before that is not
//! served any more, to any principal, from any cache. The other is the time until which requests
//! for a key are not coalesced, because the last response could not be shared.
//!
//! Keys share slots, and the latest time of a slot counts. So no change is missed, and a
//! collision costs at most an unnecessary request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::CacheKey;
use crate::clock;

/// Half a MiB: at a hundred changes a second, one in ten responses of a minute is requested again.
const SLOTS: usize = 1 << 16;

#[derive(Debug)]
pub struct InvalidationTable {
    origin: Instant,
    /// Nanoseconds since `origin`, plus one; 0: no time.
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

    /// `moment` is not after the time of the key.
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
    fn a_time_covers_earlier_moments_and_not_later_ones() {
        let (table, secret) =
            (InvalidationTable::default(), CacheSecret::new().expect("random bytes"));
        let key = secret.builder().finish();
        let at = |ms| table.origin + Duration::from_millis(ms);
        assert!(!table.covers(&key, at(0)));
        table.record(&key, at(5));
        table.record(&key, at(3));
        assert!(table.covers(&key, at(4)) && table.covers(&key, at(5)));
        assert!(!table.covers(&key, at(6)));
    }
}
