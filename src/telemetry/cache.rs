//! The metrics of the caches.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::family::Series;
use super::labels::{CacheLabels, CacheResultLabels};
use super::metrics::{Known, Level, Metrics};

#[derive(Debug)]
pub struct CacheMetrics {
    pub requests: Series<CacheResultLabels, Counter>,
    pub evictions: Series<CacheLabels, Counter>,
    pub bytes: Family<CacheLabels, Level>,
    pub entries: Family<CacheLabels, Level>,
}

impl CacheMetrics {
    pub(super) fn new() -> Self {
        CacheMetrics {
            requests: Series::new(Counter::default),
            evictions: Series::new(Counter::default),
            bytes: Family::default(),
            entries: Family::default(),
        }
    }

    pub(super) fn register(metrics: &mut Metrics) {
        let requests = metrics.cache.requests.family();
        metrics.tell("cache_requests", "Requests of routes with a cache, by what it did", requests);
        let evictions = metrics.cache.evictions.family();
        metrics.tell("cache_evictions", "Stored answers that made room for others", evictions);
        let bytes = metrics.cache.bytes.clone();
        metrics.tell("cache_bytes", "What the stored answers of a cache weigh", bytes);
        let entries = metrics.cache.entries.clone();
        metrics.tell("cache_entries", "Keys under which a cache has an answer", entries);
    }

    pub(super) fn retain(&self, known: &Known<'_>) {
        self.requests.retain(|labels| known.caches.contains(labels.cache.as_str()));
        self.evictions.retain(|labels| known.caches.contains(labels.cache.as_str()));
    }
}
