//! `/api/caches`: what each holds, and how often it served; and forgetting all that one holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shown;
use super::auth::problem;
use super::overrides::{Asked, listed};
use crate::cache::store::{Cache, CacheResult};

#[derive(Debug, Serialize)]
pub struct Overview {
    caches: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct Told {
    name: String,
    /// Keys that have an answer.
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    /// Of answers that are on their way, and will be stored.
    recording_bytes: u64,
    /// Requests that ask for others, too.
    flights: usize,
    evictions: u64,
    /// What it did, how often.
    requests: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Purged {
    cache: String,
    entries: usize,
}

/// `GET /api/caches`.
pub async fn overview(State(shown): State<Arc<Shown>>) -> Json<Overview> {
    Json(Overview { caches: shown.caches.all().iter().map(|cache| told(cache)).collect() })
}

fn told(cache: &Cache) -> Told {
    let figures = cache.statistics();
    Told {
        name: cache.name().to_owned(),
        entries: figures.entries,
        bytes: figures.bytes,
        max_bytes: figures.max_bytes,
        recording_bytes: figures.recording,
        flights: figures.flights,
        evictions: figures.evictions,
        requests: CacheResult::ALL.map(CacheResult::as_str).into_iter().zip(figures.did).collect(),
    }
}

/// `POST /api/caches/purge/{name}`.
pub async fn change(
    State(shown): State<Arc<Shown>>,
    Path((action, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if action != "purge" {
        let detail = format!("`{action}` is no action (expected purge)");
        return problem(StatusCode::NOT_FOUND, "no_action", &detail);
    }
    let asked = match Asked::read(&headers, &body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let all = shown.caches.all();
    let Some(cache) = all.iter().find(|cache| cache.name() == name) else {
        let known: Vec<_> = all.iter().map(|cache| cache.name().to_owned()).collect();
        let detail = format!("there is no cache `{name}` (there are: {})", listed(&known));
        return problem(StatusCode::NOT_FOUND, "no_cache", &detail);
    };
    let entries = cache.purge();
    shown.audit("cache_purge", &name, &asked);
    Json(Purged { cache: name, entries }).into_response()
}
