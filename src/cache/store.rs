//! One cache: answers by key, within a bound on their weight.
//!
//! The store is `quick_cache` (S3-FIFO, one shard, so that one answer may be an eighth of it), whose
//! weight is what an answer takes with its headers and bookkeeping. What is being recorded counts
//! against a bound of its own, a quarter as large, so that bodies which never end cannot grow either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::{Cache as Answers, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::coalesce::InFlightRequests;
use super::entry::{CacheEntry, CachedResponse};
use super::invalidation_table::InvalidationTable;
use super::key::{CacheKey, CacheSecret};
use crate::policy::sections::model;
use crate::telemetry::metrics::{CacheLabels, CacheResultLabels, Level, Metrics};

/// One answer, and those under one key together.
const ENTRY_SHARE: u64 = 8;
/// All that are being recorded.
const RECORDING_SHARE: u64 = 4;
/// Bytes of an answer, for the size of a table to begin with.
const TYPICAL_ENTRY_BYTES: u64 = 64 << 10;

/// What the cache did for a request.
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
pub struct Cache {
    name: String,
    pub secret: CacheSecret,
    /// When what stands at a URI was changed.
    pub invalidations: Arc<InvalidationTable>,
    /// Until when nobody waits for another's answer: the last one could not be shared.
    pub uncoalesced: InvalidationTable,
    pub in_flight: InFlightRequests,
    answers: Answers<CacheKey, Arc<CacheEntry>, EntryWeight, DefaultHashBuilder, EvictionCounter>,
    /// Held while a slot is changed.
    writing: Mutex<()>,
    max_bytes: AtomicU64,
    recording: AtomicU64,
    /// Of what was asked for before, nothing is stored.
    purges: AtomicU64,
    did: [Counter; CacheResult::ALL.len()],
    evictions: Counter,
    bytes: Level,
    entries: Level,
}

#[derive(Clone, Debug)]
struct EntryWeight;

/// Counts them.
#[derive(Clone, Debug)]
struct EvictionCounter(Counter);

/// A cache in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatistics {
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub recording: u64,
    pub flights: usize,
    pub evictions: u64,
    /// By [`Did`], in the order of [`Did::ALL`].
    pub did: [u64; CacheResult::ALL.len()],
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
    fn weight(&self, _: &CacheKey, slot: &Arc<CacheEntry>) -> u64 {
        size_of::<CacheKey>() as u64 + slot.weight()
    }
}

impl Lifecycle<CacheKey, Arc<CacheEntry>> for EvictionCounter {
    /// Lets go of what is evicted once the lock is free.
    type RequestState = [Option<(CacheKey, Arc<CacheEntry>)>; 2];

    fn on_evict(&self, state: &mut Self::RequestState, key: CacheKey, slot: Arc<CacheEntry>) {
        self.0.inc();
        DefaultLifecycle::default().on_evict(state, key, slot);
    }
}

impl Cache {
    pub fn new(
        policy: &model::Cache,
        (secret, marks): (CacheSecret, Arc<InvalidationTable>),
        metrics: &Metrics,
    ) -> Cache {
        let labels = CacheLabels { cache: policy.name.clone() };
        let did = CacheResult::ALL.map(|did| {
            let labels = CacheResultLabels { cache: policy.name.clone(), result: did.as_str() };
            metrics.cache_requests.with(&labels)
        });
        let evictions = metrics.cache_evictions.with(&labels);
        Cache {
            name: policy.name.clone(),
            secret,
            invalidations: marks,
            uncoalesced: InvalidationTable::default(),
            in_flight: InFlightRequests::default(),
            answers: answers(policy.max_bytes, EvictionCounter(evictions.clone())),
            writing: Mutex::default(),
            max_bytes: AtomicU64::new(policy.max_bytes),
            recording: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            did,
            evictions,
            bytes: metrics.cache_bytes.get_or_create_owned(&labels),
            entries: metrics.cache_entries.get_or_create_owned(&labels),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn retune(&self, max_bytes: u64) {
        if self.max_bytes.swap(max_bytes, Ordering::AcqRel) != max_bytes {
            self.answers.set_capacity(max_bytes);
            self.update_gauges();
        }
    }

    /// What one answer may weigh.
    pub fn max_entry_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed) / ENTRY_SHARE
    }

    pub fn get(&self, key: &CacheKey) -> Option<Arc<CacheEntry>> {
        self.answers.get(key)
    }

    pub fn count(&self, did: CacheResult) {
        self.did[did as usize].inc();
    }

    /// Which purge was the last: what is asked for now may be stored until the next.
    pub fn generation(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Stores an answer, unless it is too heavy or from before a purge.
    pub fn put(&self, key: CacheKey, stored: CachedResponse, generation: u64) {
        let most = self.max_entry_bytes();
        if stored.weight() > most {
            return;
        }
        let _changing = self.writing.lock();
        if generation != self.generation() {
            return;
        }
        let slot = self.answers.peek(&key).unwrap_or_default();
        self.answers.insert(key, Arc::new(slot.with(Arc::new(stored), most)));
        self.update_gauges();
    }

    /// Forgets this answer.
    pub fn remove(&self, key: &CacheKey, stored: &Arc<CachedResponse>) {
        let _changing = self.writing.lock();
        let Some(slot) = self.answers.peek(key) else { return };
        let left = slot.without(stored);
        if left.variants.is_empty() {
            self.answers.remove(key);
        } else {
            self.answers.insert(*key, Arc::new(left));
        }
        self.update_gauges();
    }

    /// Forgets every answer; how many keys had one.
    pub fn purge(&self) -> usize {
        let _changing = self.writing.lock();
        self.purges.fetch_add(1, Ordering::AcqRel);
        let purged = self.answers.len();
        self.answers.clear();
        self.update_gauges();
        purged
    }

    fn update_gauges(&self) {
        self.bytes.set(i64::try_from(self.answers.weight()).unwrap_or(i64::MAX));
        self.entries.set(self.answers.len() as i64);
    }

    /// Takes room for what is being recorded; `false`: there is none.
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
            entries: self.answers.len() as u64,
            bytes: self.answers.weight(),
            max_bytes: self.max_bytes.load(Ordering::Relaxed),
            recording: self.recording.load(Ordering::Relaxed),
            flights: self.in_flight.len(),
            evictions: self.evictions.get(),
            did: CacheResult::ALL.map(|did| self.did[did as usize].get()),
        }
    }
}

fn answers(
    max_bytes: u64,
    evictions: EvictionCounter,
) -> Answers<CacheKey, Arc<CacheEntry>, EntryWeight, DefaultHashBuilder, EvictionCounter> {
    let usual = (max_bytes / TYPICAL_ENTRY_BYTES).clamp(32, 1 << 14) as usize;
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(usual).weight_capacity(max_bytes).shards(1);
    match options.build() {
        Ok(options) => {
            Answers::with_options(options, EntryWeight, DefaultHashBuilder::default(), evictions)
        }
        // Both numbers are given, so it never is.
        Err(_) => {
            Answers::with(usual, max_bytes, EntryWeight, DefaultHashBuilder::default(), evictions)
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
