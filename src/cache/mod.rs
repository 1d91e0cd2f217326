//! Stored answers: under which key, how long they serve, within which bounds.
//!
//! - which requests are equal: [`key`], [`canonical`] JSON; which of the answers under one key a
//!   request selects: [`selecting`]
//! - what may be stored and how long it serves: [`control`], [`lifetime`] (RFC 9111, 5861)
//! - what is stored: [`stored`], in a [`store`] bounded by weight; what a change makes invalid:
//!   [`marks`]
//! - an answer under way: [`recorder`] writes it, [`growing`] lets others read along; of equal requests
//!   one asks: [`flights`]
//!
//! A cache is found by its name and outlives a reload. Nothing here does I/O or waits for a disk, and
//! nothing that is kept tells what was asked: keys are hashes with a secret of the process.

pub mod cache_control;
pub mod coalesce;
pub mod entry;
pub mod freshness;
pub mod invalidation_table;
pub mod key;
pub mod recorder;
pub mod shared_body;
pub mod store;
pub mod vary;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cache::invalidation_table::InvalidationTable;
use crate::cache::key::CacheSecret;
use crate::cache::store::Cache;
use crate::policy::sections::model;
use crate::telemetry::metrics::Metrics;

/// Every cache, by its name.
#[derive(Debug)]
pub struct Caches {
    metrics: Arc<Metrics>,
    secret: CacheSecret,
    marks: Arc<InvalidationTable>,
    named: Mutex<HashMap<String, Arc<Cache>>>,
}

impl Caches {
    /// # Errors
    /// When the system gives no chance.
    pub fn new(metrics: Arc<Metrics>) -> io::Result<Caches> {
        let secret = CacheSecret::new()?;
        Ok(Caches { metrics, secret, marks: Arc::default(), named: Mutex::default() })
    }

    /// The cache of that name: new, or found and retuned.
    pub fn cache(&self, policy: &model::Cache) -> Arc<Cache> {
        let mut named = self.named.lock();
        if let Some(cache) = named.get(&policy.name) {
            cache.retune(policy.max_bytes);
            return Arc::clone(cache);
        }
        let of = (self.secret.clone(), Arc::clone(&self.marks));
        let cache = Arc::new(Cache::new(policy, of, &self.metrics));
        named.insert(policy.name.clone(), Arc::clone(&cache));
        cache
    }

    /// Where changes are told of.
    pub fn invalidations(&self) -> &Arc<InvalidationTable> {
        &self.marks
    }

    pub fn secret(&self) -> &CacheSecret {
        &self.secret
    }

    /// Lets go of what no snapshot uses any longer.
    pub fn remove_unused(&self) {
        self.named.lock().retain(|_, cache| Arc::strong_count(cache) > 1);
    }

    /// Every cache, ordered by its name.
    pub fn all(&self) -> Vec<Arc<Cache>> {
        let mut all: Vec<_> = self.named.lock().values().cloned().collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }
}
