//! The stored response that may replace the provider's while a request is forwarded.
//!
//! The cache sets it before it forwards a request. Dispatch reads it: a degradation mode may serve
//! it, and a request that has one to replace an error with does not wait in a queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH};

use crate::cache::entry::CachedResponse;

/// The conditions of a request (RFC 9110, 13.1) that a cache evaluates.
const CONDITIONS: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

#[derive(Debug, Default)]
pub struct CachedFallback {
    response: Option<Arc<CachedResponse>>,
    /// The client's own conditions, while the request carries validators of the stored response.
    conditions: Option<Box<HeaderMap>>,
    forbids_waiting: bool,
}

impl CachedFallback {
    pub fn set(&mut self, response: Option<Arc<CachedResponse>>, forbids_waiting: bool) {
        (self.response, self.forbids_waiting) = (response, forbids_waiting);
    }

    /// For a hedge: it waits no longer than its request, but serves nothing itself.
    pub fn without_response(&self) -> CachedFallback {
        let forbids_waiting = self.forbids_waiting;
        CachedFallback { forbids_waiting, ..CachedFallback::default() }
    }

    /// The stored response would replace an error, so the request waits for nothing.
    pub fn forbids_waiting(&self) -> bool {
        self.forbids_waiting
    }

    /// The stored response, if it became stale no longer than `within` ago and may be served stale.
    pub fn stale(&self, now: Instant, within: Duration) -> Option<Arc<CachedResponse>> {
        self.response.clone().filter(|cached| cached.freshness.may_serve_stale(now, within))
    }

    /// Replaces the client's conditions by the validators of a stored response.
    pub fn add_validators(&mut self, headers: &mut HeaderMap, cached: &CachedResponse) {
        let mut own = HeaderMap::new();
        for name in CONDITIONS {
            for value in headers.get_all(&name) {
                own.append(name.clone(), value.clone());
            }
        }
        self.conditions = Some(Box::new(own));
        cached.add_validators(headers);
    }

    /// Puts the client's own conditions back.
    pub fn restore_conditions(&mut self, headers: &mut HeaderMap) {
        let Some(own) = self.conditions.take() else { return };
        for name in CONDITIONS {
            headers.remove(&name);
            for value in own.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }

    /// The client's own conditions, while they are replaced.
    pub fn conditions(&self) -> Option<&HeaderMap> {
        self.conditions.as_deref()
    }
}
