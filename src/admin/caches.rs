//! `/api/caches`: the size and the hit counts of each cache, and purging one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Change, PathName};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;
use crate::cache::store::{CacheResult, ResponseCache};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CacheList {
    pub caches: Vec<CacheSummary>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CacheSummary {
    pub name: String,
    /// Stored responses.
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Bytes of responses that are being received and will be stored.
    pub recording_bytes: u64,
    /// Upstream requests that other requests wait for (coalescing).
    pub coalesced_fetches: usize,
    pub evictions: u64,
    /// Requests by result: `hit`, `stale`, `revalidated`, `miss`, `coalesced` or `bypass`.
    pub requests: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CachePurged {
    pub cache: String,
    /// Entries that were removed.
    pub entries: usize,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<CacheList, _>("/api/caches", "Lists caches with their size and hit counts.", list)
        .post::<CachePurged, _>(
            "/api/caches/purge/{name}",
            "Removes every entry of a cache.",
            purge,
        )
        .in_path("name", "The name of a cache.")
        .change()
        .errors(&[ApiErrorKind::UnknownCache])
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<CacheList> {
    let caches = admin.caches.all();
    ApiJson(CacheList { caches: caches.iter().map(|cache| CacheSummary::new(cache)).collect() })
}

async fn purge(
    State(admin): State<Arc<AdminState>>,
    PathName(name): PathName,
    change: Change,
) -> Result<ApiJson<CachePurged>, ApiError> {
    let all = admin.caches.all();
    let Some(cache) = all.iter().find(|cache| cache.name() == name) else {
        let known = all.iter().map(|cache| cache.name().to_owned());
        let detail = format!("there is no cache `{name}`");
        return Err(ApiError::unknown(ApiErrorKind::UnknownCache, &detail, known));
    };
    change.without_end("a purge is final")?;
    change.on_this_host()?;
    let entries = cache.purge();
    admin.audit("cache_purge", &name, &change);
    Ok(ApiJson(CachePurged { cache: name, entries }))
}

impl CacheSummary {
    fn new(cache: &ResponseCache) -> CacheSummary {
        let figures = cache.statistics();
        let results = CacheResult::ALL.map(|result| result.as_str().to_owned());
        CacheSummary {
            name: cache.name().to_owned(),
            entries: figures.entries,
            bytes: figures.bytes,
            max_bytes: figures.max_bytes,
            recording_bytes: figures.recording,
            coalesced_fetches: figures.flights,
            evictions: figures.evictions,
            requests: results.into_iter().zip(figures.results).collect(),
        }
    }
}
