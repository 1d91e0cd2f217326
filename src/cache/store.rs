//! One cache: responses by key, bounded by weight.
//!
//! The store is `quick_cache` (S3-FIFO, with one shard, so that one response may take an eighth of
//! it). The weight of a response includes its headers and bookkeeping. Recordings have their own
//! bound, a quarter as large, so that endless bodies are bounded too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::{Cache as EntryMap, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::coalesce::InFlightRequests;
use super::entry::{CacheEntry, CachedResponse};
use super::invalidation_table::InvalidationTable;
use super::key::{CacheKey, CacheSecret};
use crate::policy::sections::model;
use crate::telemetry::metrics::{CacheLabels, CacheResultLabels, Level, Metrics};

/// The share of one entry: all variants of a key.
const ENTRY_SHARE: u64 = 8;
/// The share of all recordings.
const RECORDING_SHARE: u64 = 4;
/// Determines the initial size of the table.
const TYPICAL_ENTRY_BYTES: u64 = 64 << 10;

/// The result of the cache for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    Hit,
    Stale,
    Revalidated,
    Miss,
    Coalesced,
    Bypass,
}

#[derive(Debug)]
pub struct ResponseCache {
    name: String,
    pub secret: CacheSecret,
    /// The last change of each URI.
    pub invalidations: Arc<InvalidationTable>,
    /// The time until which requests for a key are not coalesced.
    pub uncoalesced: InvalidationTable,
    pub in_flight: InFlightRequests,
    responses: EntryMap<CacheKey, Arc<CacheEntry>, EntryWeight>,
    /// Held while entries are added, replaced or removed.
    writing: Mutex<()>,
    max_bytes: AtomicU64,
    recording: AtomicU64,
    /// The number of purges: a response requested before the last one is not stored.
    purges: AtomicU64,
    results: [Counter; CacheResult::ALL.len()],
    evictions: Counter,
    bytes: Level,
    entries: Level,
}

#[derive(Clone, Debug)]
struct EntryWeight;

/// The numbers that the admin API reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatistics {
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub recording: u64,
    pub flights: usize,
    pub evictions: u64,
    /// Requests by result, in the order of [`CacheResult::ALL`].
    pub results: [u64; CacheResult::ALL.len()],
}

impl CacheResult {
    pub const ALL: [CacheResult; 6] = [
        CacheResult::Hit,
        CacheResult::Stale,
        CacheResult::Revalidated,
        CacheResult::Miss,
        CacheResult::Coalesced,
        CacheResult::Bypass,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            CacheResult::Hit => "hit",
            CacheResult::Stale => "stale",
            CacheResult::Revalidated => "revalidated",
            CacheResult::Miss => "miss",
            CacheResult::Coalesced => "coalesced",
            CacheResult::Bypass => "bypass",
        }
    }
}

impl Weighter<CacheKey, Arc<CacheEntry>> for EntryWeight {
    fn weight(&self, _: &CacheKey, entry: &Arc<CacheEntry>) -> u64 {
        size_of::<CacheKey>() as u64 + entry.weight()
    }
}

impl ResponseCache {
    pub fn new(
        policy: &model::Cache,
        secret: CacheSecret,
        invalidations: Arc<InvalidationTable>,
        metrics: &Metrics,
    ) -> ResponseCache {
        let labels = CacheLabels { cache: policy.name.clone() };
        let results = CacheResult::ALL.map(|result| {
            let labels = CacheResultLabels { cache: policy.name.clone(), result: result.as_str() };
            metrics.cache_requests.with(&labels)
        });
        ResponseCache {
            name: policy.name.clone(),
            secret,
            invalidations,
            uncoalesced: InvalidationTable::default(),
            in_flight: InFlightRequests::default(),
            responses: new_map(policy.max_bytes),
            writing: Mutex::default(),
            max_bytes: AtomicU64::new(policy.max_bytes),
            recording: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            results,
            evictions: metrics.cache_evictions.with(&labels),
            bytes: metrics.cache_bytes.get_or_create_owned(&labels),
            entries: metrics.cache_entries.get_or_create_owned(&labels),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn retune(&self, max_bytes: u64) {
        if self.max_bytes.swap(max_bytes, Ordering::AcqRel) != max_bytes {
            let _changing = self.writing.lock();
            let before = self.responses.len();
            self.responses.set_capacity(max_bytes);
            self.count_evictions(before);
            self.update_gauges();
        }
    }

    /// The largest weight of one entry.
    pub fn max_entry_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed) / ENTRY_SHARE
    }

    pub fn get(&self, key: &CacheKey) -> Option<Arc<CacheEntry>> {
        self.responses.get(key)
    }

    pub fn count(&self, result: CacheResult) {
        self.results[result as usize].inc();
    }

    /// The current generation; a response requested now may be stored until the next purge.
    pub fn generation(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Stores a response unless it is too large or from an earlier generation.
    pub fn put(&self, key: CacheKey, stored: CachedResponse, generation: u64) {
        let most = self.max_entry_bytes();
        if stored.weight() > most {
            return;
        }
        let _changing = self.writing.lock();
        if generation != self.generation() {
            return;
        }
        let (before, known) = (self.responses.len(), self.responses.peek(&key));
        let expected = before + usize::from(known.is_none());
        let entry = known.unwrap_or_default();
        self.responses.insert(key, Arc::new(entry.with(Arc::new(stored), most)));
        self.count_evictions(expected);
        self.update_gauges();
    }

    /// Removes a response.
    pub fn remove(&self, key: &CacheKey, stored: &Arc<CachedResponse>) {
        let _changing = self.writing.lock();
        let Some(entry) = self.responses.peek(key) else { return };
        let left = entry.without(stored);
        if left.variants.is_empty() {
            self.responses.remove(key);
        } else {
            self.responses.insert(*key, Arc::new(left));
        }
        self.update_gauges();
    }

    /// Removes every response; returns the number of keys.
    pub fn purge(&self) -> usize {
        let _changing = self.writing.lock();
        self.purges.fetch_add(1, Ordering::AcqRel);
        let purged = self.responses.len();
        self.responses.clear();
        self.update_gauges();
        purged
    }

    /// Counts the entries that made room for another, of `expected` ones without an eviction.
    fn count_evictions(&self, expected: usize) {
        self.evictions.inc_by(expected.saturating_sub(self.responses.len()) as u64);
    }

    fn update_gauges(&self) {
        self.bytes.set(i64::try_from(self.responses.weight()).unwrap_or(i64::MAX));
        self.entries.set(self.responses.len() as i64);
    }

    /// Reserves bytes for a recording; `false` if the bound is reached.
    pub fn reserve(&self, bytes: u64) -> bool {
        let most = self.max_bytes.load(Ordering::Relaxed) / RECORDING_SHARE;
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= most);
        self.recording.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown).is_ok()
    }

    pub fn release(&self, bytes: u64) {
        self.recording.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub fn statistics(&self) -> CacheStatistics {
        CacheStatistics {
            entries: self.responses.len() as u64,
            bytes: self.responses.weight(),
            max_bytes: self.max_bytes.load(Ordering::Relaxed),
            recording: self.recording.load(Ordering::Relaxed),
            flights: self.in_flight.count(),
            evictions: self.evictions.get(),
            results: CacheResult::ALL.map(|result| self.results[result as usize].get()),
        }
    }
}

fn new_map(max_bytes: u64) -> EntryMap<CacheKey, Arc<CacheEntry>, EntryWeight> {
    let usual = (max_bytes / TYPICAL_ENTRY_BYTES).clamp(32, 1 << 14) as usize;
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(usual).weight_capacity(max_bytes).shards(1);
    let (hashing, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
    match options.build() {
        Ok(options) => EntryMap::with_options(options, EntryWeight, hashing, lifecycle),
        // Unreachable: both required options are set.
        Err(_) => EntryMap::with(usual, max_bytes, EntryWeight, hashing, lifecycle),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
