//! Advice about providers, their breakers, and caches.

use super::evidence::{CacheEvidence, EndpointEvidence, ProviderEvidence};
use super::{Recommendation, percent};

/// Five minutes.
const LEAST_SAMPLES: usize = 30;
const LEAST_OPENED: u64 = 5;
const LEAST_CACHE_REQUESTS: u64 = 100;

/// A provider has used all of its concurrency for half of the time.
pub(super) fn provider_at_limit(one: &ProviderEvidence) -> Option<Recommendation> {
    let ProviderEvidence { name, samples, at_limit, limit, waiting, source } = one;
    if *samples < LEAST_SAMPLES || 2 * at_limit < *samples {
        return None;
    }
    let share = percent(*at_limit as f64, *samples as f64);
    let text = format!(
        "{name} had as many attempts in flight as its limit allows for {share} of the time"
    );
    let suggestion = "raise `capacity.concurrency` of the provider if it can take more, or add a \
                      provider to the routes that use it";
    let found = Recommendation::new("provider_at_limit", name, text)
        .figure("share of time at the limit", share)
        .figure("limit", limit)
        .figure("requests waiting on average", format!("{waiting:.1}"));
    Some(found.suggest(suggestion, source))
}

/// A breaker opens again and again.
pub(super) fn breaker_flapping(one: &EndpointEvidence) -> Option<Recommendation> {
    let EndpointEvidence { key, attempts, opened, source } = one;
    if *opened < LEAST_OPENED {
        return None;
    }
    let text = format!("the breaker of {key} opened {opened} times in an hour");
    let suggestion = "raise `recovery_timeout` of the breaker, so that a provider that is not well is \
                      left alone for longer; raise its thresholds if the failures are few";
    let found = Recommendation::new("breaker_flapping", key, text)
        .figure("times opened", opened)
        .figure("attempts", attempts);
    Some(found.suggest(suggestion, source))
}

/// No request was completed from a cache.
pub(super) fn cache_never_hits(one: &CacheEvidence) -> Option<Recommendation> {
    let CacheEvidence { name, requests, hits, bypassed, source } = one;
    if *requests < LEAST_CACHE_REQUESTS || *hits > 0 {
        return None;
    }
    let text = format!("none of {requests} requests was completed from cache {name}");
    let suggestion = match 2 * bypassed > *requests {
        true => {
            "most requests may not use the cache: check the methods and `Cache-Control` of the \
             requests, and `store` of the cache"
        }
        false => {
            "check that equal requests come back within the lifetime of the responses, and that the \
             key of the cache has no part that always differs; else remove the cache"
        }
    };
    let found = Recommendation::new("cache_never_hits", name, text)
        .figure("requests", requests)
        .figure("of them not allowed to use it", bypassed);
    Some(found.suggest(suggestion, source))
}
