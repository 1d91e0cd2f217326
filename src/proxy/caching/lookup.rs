//! A request of a route with a cache: served from the store, from the response of an equal request in
//! flight, or by a provider (`fetch.rs`).
//!
//! A stored response is served only if RFC 9111 and the request permit it. A stale one is served
//! while it is revalidated, if RFC 5861 or the policy permits it.

use std::rc::Rc;
use std::sync::Arc;

use super::fetch::{Fetch, forward, keep_for_get, stale_or};
use super::invalidate::changed;
use super::key::CacheLookup;
use super::revalidate;
use crate::cache::coalesce::{CoalesceRole, InFlight, LeaderOutcome};
use crate::cache::entry::CachedResponse;
use crate::cache::key::CacheKey;
use crate::cache::shared_body::SharedBody;
use crate::cache::store::CacheResult;
use crate::cache::vary::VariantKey;
use crate::clock;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::dispatch::{DispatchOutcome, run};
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::response::cache_status::{self, ForwardReason};
use crate::proxy::response::stored::{from_store, head, record_result};
use crate::snapshot::{Route, RouteCache};

/// How often a request joins others whose response turns out to be another variant.
const LOOKS: usize = 2;

/// The way in which a request is served.
enum LookupResult {
    Serve(Arc<CachedResponse>),
    /// To be served while it is revalidated.
    ServeStale(Arc<CachedResponse>),
    NotCached,
    Forward(ForwardPlan),
}

/// The request is to be forwarded.
struct ForwardPlan {
    /// The stored response that cannot be served as it is.
    found: Option<Arc<CachedResponse>>,
    /// The key of equal requests, of which one is sent.
    together: Option<CacheKey>,
    why: ForwardReason,
}

/// The outcome of waiting for the leader.
enum Waited {
    Done(DispatchOutcome),
    /// With the variant of that response, if it is another one.
    LookAgain(Option<VariantKey>),
    Alone,
}

/// Serves the request from the cache or through it.
pub async fn serve(
    request: &mut ProxyRequest,
    route: &Route,
    cache: &RouteCache,
) -> DispatchOutcome {
    let lookup = match CacheLookup::of(request, cache) {
        Ok(lookup) => lookup,
        Err(why) => return bypass(request, route, cache, why).await,
    };
    let (mut selecting, mut looks) = (None, 0);
    loop {
        let plan = match look(request, cache, &lookup, selecting.as_ref()) {
            LookupResult::Serve(stored) => match serve_stored(request, cache, &lookup, stored) {
                Some(response) => return Ok(response),
                None => return bypass(request, route, cache, ForwardReason::Bypass).await,
            },
            LookupResult::NotCached => return Err(not_cached(request, cache)),
            _ if lookup.part.is_some() => {
                return bypass(request, route, cache, ForwardReason::Partial).await;
            }
            LookupResult::ServeStale(old) => return Ok(serve_stale(request, cache, &lookup, old)),
            LookupResult::Forward(plan) => plan,
        };
        let lead = match plan.together.map(|key| cache.live.in_flight.join(key)) {
            Some(CoalesceRole::Follow(flight)) => {
                match follow(request, cache, &flight, &lookup, &plan).await {
                    Waited::Done(outcome) => return outcome,
                    // Responses vary by changing headers: give up after a few rounds.
                    Waited::LookAgain(Some(_)) if looks == LOOKS => None,
                    Waited::LookAgain(by) => {
                        looks += usize::from(by.is_some());
                        selecting = by.or(selecting);
                        continue;
                    }
                    Waited::Alone => None,
                }
            }
            Some(CoalesceRole::Lead(_))
                if lookup.changed_since(request, cache, plan.found.as_ref()) =>
            {
                continue;
            }
            Some(CoalesceRole::Lead(lead)) => Some(lead),
            None => None,
        };
        let fetch = Fetch { lookup, found: plan.found, lead, why: plan.why };
        return forward(request, route, cache, fetch, true).await;
    }
}

/// The stored response, or its part; `None` if it does not have the part.
fn serve_stored(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    lookup: &CacheLookup,
    stored: Arc<CachedResponse>,
) -> Option<Box<PendingResponse>> {
    let part = lookup.range_of(&stored);
    if part.is_none() && lookup.part.is_some() {
        return None;
    }
    record_result(request, cache, CacheResult::Hit);
    Some(part.unwrap_or_else(|| from_store(request, stored, None)))
}

/// The stored response, which is revalidated meanwhile.
fn serve_stale(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    lookup: &CacheLookup,
    stored: Arc<CachedResponse>,
) -> Box<PendingResponse> {
    record_result(request, cache, CacheResult::Stale);
    revalidate::begin(request, cache, lookup, &stored);
    from_store(request, stored, Some("stale-while-revalidate"))
}

fn not_cached(request: &mut ProxyRequest, cache: &RouteCache) -> Problem {
    record_result(request, cache, CacheResult::Miss);
    let detail = "the request has `only-if-cached`, and no stored response may be served to it";
    Problem::new(ProblemKind::NotCached, detail)
}

/// Bypasses the cache.
async fn bypass(
    request: &mut ProxyRequest,
    route: &Route,
    cache: &RouteCache,
    why: ForwardReason,
) -> DispatchOutcome {
    record_result(request, cache, CacheResult::Bypass);
    let mut outcome = run(request, route).await;
    changed(request, route, &outcome);
    if let Ok(response) = &mut outcome {
        let kept = why == ForwardReason::Method && keep_for_get(request, cache, response);
        cache_status::forwarded(&mut response.head, why, None, if kept { "; stored" } else { "" });
    }
    outcome
}

fn look(
    request: &ProxyRequest,
    cache: &RouteCache,
    lookup: &CacheLookup,
    by: Option<&VariantKey>,
) -> LookupResult {
    let (live, now) = (&cache.live, clock::now());
    let CacheLookup { key, control, .. } = lookup;
    let slot = live.get(key).unwrap_or_default();
    let found = lookup.find(request, cache, &slot);
    if let Some(stored) = &found {
        if stored.freshness.satisfies(control, now) {
            return LookupResult::Serve(Arc::clone(stored));
        }
        let demands = control.no_cache || control.max_age.is_some() || control.min_fresh.is_some();
        if !demands && stored.freshness.may_serve_while_revalidating(now) {
            return LookupResult::ServeStale(Arc::clone(stored));
        }
    }
    if control.only_if_cached {
        return LookupResult::NotCached;
    }
    let why = match &found {
        Some(stored) if stored.freshness.staleness(now).is_none() => ForwardReason::Request,
        Some(_) => ForwardReason::Stale,
        None if control.no_cache => ForwardReason::Request,
        None if slot.variants.is_empty() => ForwardReason::UriMiss,
        None => ForwardReason::VaryMiss,
    };
    let validates = found.as_ref().is_some_and(|stored| stored.can_be_revalidated());
    let alone = control.no_cache
        || control.no_store
        || lookup.head
        || lookup.conditional && !validates
        || live.uncoalesced.covers(key, now);
    let by = by.or_else(|| slot.variants.first().map(|newest| &newest.variant));
    let together = by.map_or(*key, |by| by.narrow(key, request.head.headers(), &live.secret));
    LookupResult::Forward(ForwardPlan { found, together: (!alone).then_some(together), why })
}

/// Waits for the response to an equal request.
async fn follow(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    flight: &InFlight,
    lookup: &CacheLookup,
    plan: &ForwardPlan,
) -> Waited {
    let timer = Rc::clone(&request.timer);
    match timer.until(request.limits.deadline(), flight.outcome()).await {
        Ok(LeaderOutcome::LookAgain) => Waited::LookAgain(None),
        Ok(LeaderOutcome::Response(shared)) => {
            if !shared.variant.matches(request.head.headers(), &cache.live.secret) {
                return Waited::LookAgain(Some(shared.variant.clone()));
            }
            if !serves_now(cache, lookup, &shared) {
                return Waited::Alone;
            }
            match join_in_flight(request, cache, &shared, plan.why) {
                Some(response) => Waited::Done(Ok(response)),
                None if shared.is_interrupted() => Waited::LookAgain(None),
                None => Waited::Alone,
            }
        }
        Ok(LeaderOutcome::NotShareable) => Waited::Alone,
        Ok(LeaderOutcome::Failed) => match &plan.found {
            Some(stored) if stored.freshness.may_serve_on_error(clock::now()) => {
                record_result(request, cache, CacheResult::Stale);
                Waited::Done(Ok(from_store(request, Arc::clone(stored), Some("stale-if-error"))))
            }
            _ => Waited::Alone,
        },
        Err(_) => {
            let name = &request.route.policy.name;
            let detail = format!(
                "route `{name}`: its timeout passed while the request waited for the response to an equal request"
            );
            let problem = Problem::new(ProblemKind::Deadline, detail);
            Waited::Done(stale_or(request, cache, plan.found.as_ref(), Err(problem)))
        }
    }
}

/// The response in flight would satisfy this request if it were stored: it is fresh, and its URI was
/// not invalidated.
fn serves_now(cache: &RouteCache, lookup: &CacheLookup, shared: &SharedBody) -> bool {
    let invalidations = &cache.live.invalidations;
    let changed =
        lookup.uri.as_ref().is_some_and(|uri| invalidations.covers(uri, shared.requested_at));
    !changed && shared.freshness.satisfies(&lookup.control, clock::now())
}

/// Reads the body in flight; `None` if its beginning was dropped.
fn join_in_flight(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    shared: &Arc<SharedBody>,
    why: ForwardReason,
) -> Option<Box<PendingResponse>> {
    let reader = shared.reader()?;
    record_result(request, cache, CacheResult::Coalesced);
    let mut head = head(shared.status, shared.headers.clone());
    cache_status::set_age(&mut head, &shared.freshness, clock::now());
    cache_status::forwarded(&mut head, why, None, "; collapsed");
    Some(PendingResponse::local(head, PendingBody::Followed(reader)))
}
