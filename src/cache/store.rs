//! One cache: answers by key, within a bound on their weight.
//!
//! The store is `quick_cache` (S3-FIFO, one shard, so that one answer may be an eighth of it), whose
//! weight is what an answer takes with its headers and bookkeeping. What is being recorded counts
//! against a bound of its own, a quarter as large, so that bodies which never end cannot grow either.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::{Cache as Answers, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::coalesce::Flights;
use super::entry::{Slot, Stored};
use super::invalidation_table::Marks;
use super::key::{Key, Secret};
use super::lock;
use crate::policy::sections::model;
use crate::telemetry::metrics::{CacheLabels, CacheResultLabels, Level, Metrics};

/// One answer, and those under one key together.
const SHARE_OF_ONE: u64 = 8;
/// All that are being recorded.
const SHARE_OF_RECORDING: u64 = 4;
/// Bytes of an answer, for the size of a table to begin with.
const USUAL: u64 = 64 << 10;

/// What the cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    Hit,
    Stale,
    Revalidated,
    Miss,
    Collapsed,
    Bypass,
}

#[derive(Debug)]
pub struct Cache {
    name: String,
    pub secret: Secret,
    /// When what stands at a URI was changed.
    pub marks: Arc<Marks>,
    /// Until when nobody waits for another's answer: the last one could not be shared.
    pub alone: Marks,
    pub flights: Flights,
    answers: Answers<Key, Arc<Slot>, Weigh, DefaultHashBuilder, Evictions>,
    /// Held while a slot is changed.
    changing: Mutex<()>,
    most: AtomicU64,
    recording: AtomicU64,
    /// Of what was asked for before, nothing is stored.
    purges: AtomicU64,
    did: [Counter; Did::ALL.len()],
    evictions: Counter,
    bytes: Level,
    entries: Level,
}

#[derive(Clone, Debug)]
struct Weigh;

/// Counts them.
#[derive(Clone, Debug)]
struct Evictions(Counter);

/// A cache in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub recording: u64,
    pub flights: usize,
    pub evictions: u64,
    /// By [`Did`], in the order of [`Did::ALL`].
    pub did: [u64; Did::ALL.len()],
}

impl Did {
    pub const ALL: [Did; 6] =
        [Did::Hit, Did::Stale, Did::Revalidated, Did::Miss, Did::Collapsed, Did::Bypass];

    pub fn as_str(self) -> &'static str {
        match self {
            Did::Hit => "hit",
            Did::Stale => "stale",
            Did::Revalidated => "revalidated",
            Did::Miss => "miss",
            Did::Collapsed => "coalesced",
            Did::Bypass => "bypass",
        }
    }
}

impl Weighter<Key, Arc<Slot>> for Weigh {
    fn weight(&self, _: &Key, slot: &Arc<Slot>) -> u64 {
        size_of::<Key>() as u64 + slot.weight()
    }
}

impl Lifecycle<Key, Arc<Slot>> for Evictions {
    /// Lets go of what is evicted once the lock is free.
    type RequestState = [Option<(Key, Arc<Slot>)>; 2];

    fn on_evict(&self, state: &mut Self::RequestState, key: Key, slot: Arc<Slot>) {
        self.0.inc();
        DefaultLifecycle::default().on_evict(state, key, slot);
    }
}

impl Cache {
    pub fn new(
        policy: &model::Cache,
        (secret, marks): (Secret, Arc<Marks>),
        metrics: &Metrics,
    ) -> Cache {
        let labels = CacheLabels { cache: policy.name.clone() };
        let did = Did::ALL.map(|did| {
            let labels = CacheResultLabels { cache: policy.name.clone(), result: did.as_str() };
            metrics.cache_requests.with(&labels)
        });
        let evictions = metrics.cache_evictions.with(&labels);
        Cache {
            name: policy.name.clone(),
            secret,
            marks,
            alone: Marks::default(),
            flights: Flights::default(),
            answers: answers(policy.max_bytes, Evictions(evictions.clone())),
            changing: Mutex::default(),
            most: AtomicU64::new(policy.max_bytes),
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
        if self.most.swap(max_bytes, Ordering::AcqRel) != max_bytes {
            self.answers.set_capacity(max_bytes);
            self.tell();
        }
    }

    /// What one answer may weigh.
    pub fn most_of_one(&self) -> u64 {
        self.most.load(Ordering::Relaxed) / SHARE_OF_ONE
    }

    pub fn find(&self, key: &Key) -> Option<Arc<Slot>> {
        self.answers.get(key)
    }

    pub fn did(&self, did: Did) {
        self.did[did as usize].inc();
    }

    /// Which purge was the last: what is asked for now may be stored until the next.
    pub fn generation(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Stores an answer, unless it is too heavy or from before a purge.
    pub fn put(&self, key: Key, stored: Stored, generation: u64) {
        let most = self.most_of_one();
        if stored.weight() > most {
            return;
        }
        let _changing = lock(&self.changing);
        if generation != self.generation() {
            return;
        }
        let slot = self.answers.peek(&key).unwrap_or_default();
        self.answers.insert(key, Arc::new(slot.with(Arc::new(stored), most)));
        self.tell();
    }

    /// Forgets this answer.
    pub fn forget(&self, key: &Key, stored: &Arc<Stored>) {
        let _changing = lock(&self.changing);
        let Some(slot) = self.answers.peek(key) else { return };
        let left = slot.without(stored);
        if left.variants.is_empty() {
            self.answers.remove(key);
        } else {
            self.answers.insert(*key, Arc::new(left));
        }
        self.tell();
    }

    /// Forgets every answer; how many keys had one.
    pub fn purge(&self) -> usize {
        let _changing = lock(&self.changing);
        self.purges.fetch_add(1, Ordering::AcqRel);
        let purged = self.answers.len();
        self.answers.clear();
        self.tell();
        purged
    }

    fn tell(&self) {
        self.bytes.set(i64::try_from(self.answers.weight()).unwrap_or(i64::MAX));
        self.entries.set(self.answers.len() as i64);
    }

    /// Takes room for what is being recorded; `false`: there is none.
    pub fn reserve(&self, bytes: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed) / SHARE_OF_RECORDING;
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= most);
        self.recording.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown).is_ok()
    }

    pub fn give_back(&self, bytes: u64) {
        self.recording.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub fn figures(&self) -> Figures {
        Figures {
            entries: self.answers.len() as u64,
            bytes: self.answers.weight(),
            max_bytes: self.most.load(Ordering::Relaxed),
            recording: self.recording.load(Ordering::Relaxed),
            flights: self.flights.count(),
            evictions: self.evictions.get(),
            did: Did::ALL.map(|did| self.did[did as usize].get()),
        }
    }
}

fn answers(
    max_bytes: u64,
    evictions: Evictions,
) -> Answers<Key, Arc<Slot>, Weigh, DefaultHashBuilder, Evictions> {
    let usual = (max_bytes / USUAL).clamp(32, 1 << 14) as usize;
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(usual).weight_capacity(max_bytes).shards(1);
    match options.build() {
        Ok(options) => {
            Answers::with_options(options, Weigh, DefaultHashBuilder::default(), evictions)
        }
        // Both numbers are given, so it never is.
        Err(_) => Answers::with(usual, max_bytes, Weigh, DefaultHashBuilder::default(), evictions),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
