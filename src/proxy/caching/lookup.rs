//! A request of a route with a cache: answered from the store, from another's answer under way, or by
//! a provider whose answer is written down (`forward.rs`).
//!
//! Nothing stored serves where RFC 9111 or the request forbids it. What went stale serves while it is
//! asked for anew, where RFC 5861 or the policy allows it.

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
use crate::proxy::dispatch::run;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::response::cache_status::{self, ForwardReason};
use crate::proxy::response::stored::{from_store, head, record_result};
use crate::snapshot::{Route, RouteCache};

/// How often another's answer, which varies by other headers, is waited for.
const LOOKS: usize = 2;

pub type Outcome = Result<Box<PendingResponse>, Problem>;

/// What is done next.
enum Step {
    Serve(Arc<CachedResponse>),
    /// It serves while it is asked for anew.
    Meanwhile(Arc<CachedResponse>),
    NotCached,
    Ask(Asking),
}

/// A provider is to be asked.
struct Asking {
    /// What is stored for it, and does not serve as it is.
    found: Option<Arc<CachedResponse>>,
    /// Requests with the same want the same: one asks for all.
    together: Option<CacheKey>,
    /// In the words of RFC 9211, 2.2.
    why: ForwardReason,
}

/// What came of waiting for another's answer.
enum Waited {
    Done(Outcome),
    /// Where that answer varies: by what.
    LookAgain(Option<VariantKey>),
    Alone,
}

/// Answers from the cache, or through it.
pub async fn answer(request: &mut ProxyRequest, route: &Route, cache: &RouteCache) -> Outcome {
    let lookup = match CacheLookup::of(request, cache) {
        Ok(lookup) => lookup,
        Err(why) => return past(request, route, cache, why).await,
    };
    let (mut selecting, mut looks) = (None, 0);
    loop {
        let asking = match look(request, cache, &lookup, selecting.as_ref()) {
            Step::Serve(stored) => match lookup.range_of(&stored) {
                None if lookup.part.is_some() => {
                    return past(request, route, cache, ForwardReason::Bypass).await;
                }
                part => {
                    record_result(request, cache, CacheResult::Hit);
                    return Ok(part.unwrap_or_else(|| from_store(request, stored, None)));
                }
            },
            Step::NotCached => {
                record_result(request, cache, CacheResult::Miss);
                let detail = "it says `only-if-cached`, and nothing that is stored serves it";
                return Err(Problem::new(ProblemKind::NotCached, detail));
            }
            _ if lookup.part.is_some() => {
                return past(request, route, cache, ForwardReason::Partial).await;
            }
            Step::Meanwhile(stored) => {
                record_result(request, cache, CacheResult::Stale);
                revalidate::begin(request, cache, &lookup, &stored);
                return Ok(from_store(request, stored, Some("stale-while-revalidate")));
            }
            Step::Ask(asking) => asking,
        };
        let lead = match asking.together.map(|key| cache.live.in_flight.join(key)) {
            Some(CoalesceRole::Follow(flight)) => {
                match follow(request, cache, &flight, (&lookup, &asking)).await {
                    Waited::Done(outcome) => return outcome,
                    // Where answers vary now by this and now by that, it is not gone round for ever.
                    Waited::LookAgain(Some(_)) if looks == LOOKS => None,
                    Waited::LookAgain(by) => {
                        looks += usize::from(by.is_some());
                        selecting = by.or(selecting);
                        continue;
                    }
                    Waited::Alone => None,
                }
            }
            Some(CoalesceRole::Lead(lead)) => Some(lead),
            None => None,
        };
        let fetch = Fetch { lookup, found: asking.found, lead, why: asking.why };
        return forward(request, route, cache, fetch, true).await;
    }
}

/// Nothing is looked for and nothing kept.
async fn past(
    request: &mut ProxyRequest,
    route: &Route,
    cache: &RouteCache,
    why: ForwardReason,
) -> Outcome {
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
) -> Step {
    let (live, now) = (&cache.live, clock::now());
    let CacheLookup { key, uri, control, .. } = lookup;
    let slot = live.get(key).unwrap_or_default();
    let valid = |stored: &CachedResponse| {
        uri.as_ref().is_none_or(|uri| !live.invalidations.covers(uri, stored.requested_at))
    };
    let found = slot.find(request.head.headers(), &live.secret, valid);
    if let Some(stored) = &found {
        if stored.freshness.satisfies(control, now) {
            return Step::Serve(Arc::clone(stored));
        }
        let demands = control.no_cache || control.max_age.is_some() || control.min_fresh.is_some();
        if !demands && stored.freshness.may_serve_while_revalidating(now) {
            return Step::Meanwhile(Arc::clone(stored));
        }
    }
    if control.only_if_cached {
        return Step::NotCached;
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
    Step::Ask(Asking { found, together: (!alone).then_some(together), why })
}

/// Waits for the answer to an equal request.
async fn follow(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    flight: &InFlight,
    (lookup, asking): (&CacheLookup, &Asking),
) -> Waited {
    let timer = Rc::clone(&request.timer);
    match timer.until(request.limits.deadline(), flight.outcome()).await {
        Ok(LeaderOutcome::LookAgain) => Waited::LookAgain(None),
        Ok(LeaderOutcome::Response(growing)) => {
            if !growing.variant.matches(request.head.headers(), &cache.live.secret) {
                return Waited::LookAgain(Some(growing.variant.clone()));
            }
            if !serves_now(cache, lookup, &growing) {
                return Waited::Alone;
            }
            match along(request, cache, &growing, asking.why) {
                Some(response) => Waited::Done(Ok(response)),
                None if growing.is_interrupted() => Waited::LookAgain(None),
                None => Waited::Alone,
            }
        }
        Ok(LeaderOutcome::NotShareable) => Waited::Alone,
        Ok(LeaderOutcome::Failed) => match &asking.found {
            Some(stored) if stored.freshness.may_serve_on_error(clock::now()) => {
                record_result(request, cache, CacheResult::Stale);
                Waited::Done(Ok(from_store(request, Arc::clone(stored), Some("stale-if-error"))))
            }
            _ => Waited::Alone,
        },
        Err(_) => {
            let name = &request.route.policy.name;
            let detail =
                format!("route `{name}`: its timeout passed while an equal request waited");
            let problem = Problem::new(ProblemKind::Deadline, detail);
            Waited::Done(stale_or(request, cache, asking.found.as_ref(), Err(problem)))
        }
    }
}

/// What is under way would serve this request, were it stored: it did not go stale meanwhile, and
/// nobody changed what it tells of.
fn serves_now(cache: &RouteCache, lookup: &CacheLookup, growing: &SharedBody) -> bool {
    let marks = &cache.live.invalidations;
    let changed = lookup.uri.as_ref().is_some_and(|uri| marks.covers(uri, growing.requested_at));
    !changed && growing.freshness.satisfies(&lookup.control, clock::now())
}

/// Reads another's answer along; `None` where its beginning is gone.
fn along(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    growing: &Arc<SharedBody>,
    why: ForwardReason,
) -> Option<Box<PendingResponse>> {
    let reader = growing.reader()?;
    record_result(request, cache, CacheResult::Coalesced);
    let mut head = head(growing.status, growing.headers.clone());
    cache_status::set_age(&mut head, &growing.freshness, clock::now());
    cache_status::forwarded(&mut head, why, None, "; collapsed");
    Some(PendingResponse::local(head, PendingBody::Followed(reader)))
}
