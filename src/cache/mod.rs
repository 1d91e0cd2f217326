//! Cached responses: keys, freshness, bounds, coalescing.
//!
//! - [`key`]: the key of a request; [`vary`]: the variants of a key
//! - [`cache_control`], [`freshness`]: what may be stored and how long it is served (RFC 9111, 5861)
//! - [`entry`], [`store`]: cached responses, bounded by weight; [`invalidation_table`]: changed URIs
//! - [`recorder`]: records a response in transfer; [`shared_body`]: lets followers read it;
//!   [`coalesce`]: equal requests share one response
//!
//! A cache is found by its name and survives a reload. Nothing here does I/O. Stored keys reveal no
//! request: they are hashes with a secret of the process.

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
use crate::cache::store::ResponseCache;
use crate::policy::sections::model;
use crate::telemetry::metrics::Metrics;

/// Every cache, by its name.
#[derive(Debug)]
pub struct CacheRegistry {
    metrics: Arc<Metrics>,
    secret: CacheSecret,
    invalidations: Arc<InvalidationTable>,
    named: Mutex<HashMap<String, Arc<ResponseCache>>>,
}

impl CacheRegistry {
    /// # Errors
    /// When the system provides no random bytes.
    pub fn new(metrics: Arc<Metrics>) -> io::Result<CacheRegistry> {
        let secret = CacheSecret::new()?;
        Ok(CacheRegistry {
            metrics,
            secret,
            invalidations: Arc::default(),
            named: Mutex::default(),
        })
    }

    /// The cache of this name, created or resized.
    pub fn cache(&self, policy: &model::Cache) -> Arc<ResponseCache> {
        let mut named = self.named.lock();
        if let Some(cache) = named.get(&policy.name) {
            cache.retune(policy.max_bytes);
            return Arc::clone(cache);
        }
        let (secret, invalidations) = (self.secret.clone(), Arc::clone(&self.invalidations));
        let cache = ResponseCache::new(policy, secret, invalidations, &self.metrics);
        let cache = Arc::new(cache);
        named.insert(policy.name.clone(), Arc::clone(&cache));
        cache
    }

    /// The invalidations of all caches.
    pub fn invalidations(&self) -> &Arc<InvalidationTable> {
        &self.invalidations
    }

    pub fn secret(&self) -> &CacheSecret {
        &self.secret
    }

    /// Removes caches that no snapshot uses.
    pub fn remove_unused(&self) {
        self.named.lock().retain(|_, cache| Arc::strong_count(cache) > 1);
    }

    /// Every cache, ordered by its name.
    pub fn all(&self) -> Vec<Arc<ResponseCache>> {
        let mut all: Vec<_> = self.named.lock().values().cloned().collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }
}
