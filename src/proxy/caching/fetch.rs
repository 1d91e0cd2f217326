//! Forwards a request without a usable cached response to a provider, with the validators of a stale
//! one. The response is recorded, refreshes the stored one, or is replaced by it if it is an error.
//!
//! Errors are those of RFC 5861 (500, 502, 503, 504) and local problems that mean that no provider
//! responded, such as an open breaker. A response that has begun is never replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::invalidate::is_here;
use super::key::CacheLookup;
use crate::cache::cache_control::CacheControl;
use crate::cache::coalesce::{Leader, LeaderOutcome};
use crate::cache::entry::CachedResponse;
use crate::cache::freshness::{Freshness, ReceivedHead, StaleWindows};
use crate::cache::recorder::{RecordingHead, ResponseRecorder};
use crate::cache::store::CacheResult;
use crate::cache::vary::VariantKey;
use crate::clock;
use crate::policy::sections::model::Keeps;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::inspect::LastResponse;
use crate::proxy::attempt::inspect::discard;
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::dispatch::{DispatchOutcome, run, run_without_modes};
use crate::proxy::downstream::problem::ProblemKind;
use crate::proxy::response::cache_status::{self, ForwardReason};
use crate::proxy::response::stored::{from_store, record_result};
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::{Route, RouteCache};

/// How long requests are not coalesced after a response that could not be shared.
const ALONE: Duration = Duration::from_secs(5);

/// A request to be forwarded.
#[derive(Debug)]
pub struct Fetch {
    pub lookup: CacheLookup,
    /// The stored response that cannot be served as it is.
    pub found: Option<Arc<CachedResponse>>,
    /// The request leads followers.
    pub lead: Option<Leader>,
    pub why: ForwardReason,
}

/// The state before the request was sent.
#[derive(Clone, Copy, Debug)]
struct FetchStart {
    requested_at: Instant,
    /// The generation of the cache.
    generation: u64,
}

impl FetchStart {
    fn now(cache: &RouteCache) -> FetchStart {
        FetchStart { requested_at: clock::now(), generation: cache.live.generation() }
    }
}

/// Forwards the request. With `hurries` it does not wait for capacity if a stored response could be
/// served instead of an error.
pub async fn forward(
    request: &mut ProxyRequest,
    route: &Route,
    cache: &RouteCache,
    mut fetch: Fetch,
    hurries: bool,
) -> DispatchOutcome {
    let start = FetchStart::now(cache);
    let forbids_waiting = hurries && serves(fetch.found.as_ref()).is_some();
    request.cache.set(fetch.found.clone(), forbids_waiting);
    let (outcome, validates) = validated(request, route, cache, &mut fetch).await;
    match (outcome, &fetch.found) {
        // The response of a degradation mode: each follower gets its own.
        (Ok(response), _) if response.is_local => {
            land(fetch.lead, LeaderOutcome::LookAgain);
            Ok(response)
        }
        (Ok(response), Some(stored))
            if validates && response.head.status == StatusCode::NOT_MODIFIED =>
        {
            let stored = Arc::clone(stored);
            Ok(revalidated(request, cache, fetch, &stored, &response, start))
        }
        (Ok(response), _) if !is_error(response.head.status) => {
            Ok(record_while_sending(request, cache, fetch, response, start))
        }
        (outcome, found) => {
            let landed = leader_outcome(request, &outcome);
            let outcome = stale_or(request, cache, found.as_ref(), outcome);
            match outcome {
                Ok(response) if !response.is_local => {
                    Ok(record_while_sending(request, cache, fetch, response, start))
                }
                outcome => {
                    land(fetch.lead, landed);
                    outcome
                }
            }
        }
    }
}

/// Sends the request with validators; returns the outcome and whether a 304 may refer to the stored
/// response.
async fn validated(
    request: &mut ProxyRequest,
    route: &Route,
    cache: &RouteCache,
    fetch: &mut Fetch,
) -> (DispatchOutcome, bool) {
    let is_http = fetch.lookup.uri.is_some();
    let found = fetch.found.clone().filter(|stored| is_http && stored.can_be_revalidated());
    let Some(stored) = found else { return (run(request, route).await, false) };
    request.cache.add_validators(request.head.headers_mut(), &stored);
    let outcome = run(request, route).await;
    request.cache.restore_conditions(request.head.headers_mut());
    match &outcome {
        Ok(response) if is_of_another(response, &stored) => {}
        _ => return (outcome, true),
    }
    // The stored response is outdated, and the current one did not arrive.
    cache.live.remove(&fetch.lookup.key, &stored);
    fetch.found = None;
    request.cache.set(None, false);
    request.attempts.reset();
    (run_without_modes(request, route).await, false)
}

/// A 304 that names another entity than the stored one (RFC 9111, 4.3.4).
fn is_of_another(response: &PendingResponse, stored: &CachedResponse) -> bool {
    !response.is_local
        && response.head.status == StatusCode::NOT_MODIFIED
        && !stored.matches_not_modified(&response.head.headers)
}

fn land(lead: Option<Leader>, landed: LeaderOutcome) {
    if let Some(lead) = lead {
        lead.finish(landed);
    }
}

/// Lets each follower send its own request; under `store: http` later requests for the key too.
fn send_alone(cache: &RouteCache, lookup: &CacheLookup, lead: Option<Leader>) {
    if lead.is_some() && lookup.uri.is_some() {
        cache.live.uncoalesced.record(&lookup.key, clock::now() + ALONE);
    }
    land(lead, LeaderOutcome::NotShareable);
}

fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// No provider responded; other problems are caused by the request itself.
fn is_without_response(kind: ProblemKind) -> bool {
    use ProblemKind::*;
    matches!(
        kind,
        Unreachable
            | ConnectionLost
            | BadResponse
            | ResponseTimeout
            | Deadline
            | BreakerOpen
            | Drained
            | Held
            | NoCapacity
            | QueueFull
            | QueueShare
            | QueueWaitTooLong
    )
}

/// The outcome for the followers: the error concerns them too, or only this request.
fn leader_outcome(request: &ProxyRequest, outcome: &DispatchOutcome) -> LeaderOutcome {
    match outcome {
        Err(problem)
            if problem.kind == ProblemKind::Deadline && request.limits.has_own_timeout() =>
        {
            LeaderOutcome::LookAgain
        }
        Err(problem) if !is_without_response(problem.kind) => LeaderOutcome::LookAgain,
        _ => LeaderOutcome::Failed,
    }
}

/// The stored response, if it may be served instead of an error.
fn serves(found: Option<&Arc<CachedResponse>>) -> Option<&Arc<CachedResponse>> {
    found.filter(|stored| stored.freshness.may_serve_on_error(clock::now()))
}

/// Replaces an error by the stored response, if it may be served.
pub fn stale_or(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    found: Option<&Arc<CachedResponse>>,
    outcome: DispatchOutcome,
) -> DispatchOutcome {
    let replaced = match &outcome {
        Ok(response) => is_error(response.head.status),
        Err(problem) => is_without_response(problem.kind),
    };
    let Some(stored) = serves(found).filter(|_| replaced) else {
        if outcome.is_err() {
            record_result(request, cache, CacheResult::Miss);
        }
        return outcome;
    };
    record_result(request, cache, CacheResult::Stale);
    if let Ok(response) = outcome {
        discard(request, &LastResponse::Provider(response));
    }
    Ok(from_store(request, Arc::clone(stored), Some("stale-if-error")))
}

/// Serves the stored response after a 304 (RFC 9111, 4.3.4).
fn revalidated(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    fetch: Fetch,
    stored: &Arc<CachedResponse>,
    response: &PendingResponse,
    start: FetchStart,
) -> Box<PendingResponse> {
    record_result(request, cache, CacheResult::Revalidated);
    let Fetch { lookup, lead, why, .. } = fetch;
    let mut served = Arc::clone(stored);
    if let Some(refreshed) = refresh_stored(request, cache, stored, response, start.requested_at) {
        served = Arc::new(refreshed.clone());
        if !lookup.control.no_store && !request.is_degraded {
            cache.live.put(lookup.key, refreshed, start.generation);
        }
    }
    if served.freshness.remaining(clock::now()).is_zero() {
        send_alone(cache, &lookup, lead);
    } else {
        land(lead, LeaderOutcome::LookAgain);
    }
    let mut response = from_store(request, served, None);
    cache_status::revalidated(&mut response.head, why);
    response
}

/// The stored response refreshed by a 304; `None` if it may no longer be stored.
fn refresh_stored(
    request: &ProxyRequest,
    cache: &RouteCache,
    stored: &CachedResponse,
    response: &PendingResponse,
    requested_at: Instant,
) -> Option<CachedResponse> {
    let mut update = response.head.headers.clone();
    let refreshed = stored.refreshed(&update, stored.freshness.clone(), requested_at);
    let mut headers = refreshed.headers.clone();
    headers.extend(update.remove(AGE).map(|age| (AGE, age)));
    let received = received(stored.status, &headers, requested_at);
    let life = Freshness::from_http(request.head.headers(), received, windows(cache))?;
    Some(CachedResponse { freshness: life, ..refreshed })
}

fn windows(cache: &RouteCache) -> StaleWindows {
    StaleWindows {
        stale_if_error: cache.policy.stale_if_error,
        stale_while_revalidate: cache.policy.stale_while_revalidate,
    }
}

fn received(status: StatusCode, headers: &HeaderMap, requested_at: Instant) -> ReceivedHead<'_> {
    ReceivedHead {
        status,
        headers,
        requested_at,
        received_at: clock::now(),
        received_wall: clock::wall(),
    }
}

/// Records the response while it is sent, if it may be stored.
fn record_while_sending(
    request: &mut ProxyRequest,
    cache: &RouteCache,
    fetch: Fetch,
    mut response: Box<PendingResponse>,
    start: FetchStart,
) -> Box<PendingResponse> {
    record_result(request, cache, CacheResult::Miss);
    let Fetch { lookup, lead, why, .. } = fetch;
    let length = match &response.body {
        PendingBody::Whole(bytes, None) => Some(bytes.len() as u64),
        _ => length(&response.head.headers),
    };
    let draft = draft(request, cache, &lookup, &response, start);
    let shared =
        draft.as_ref().is_some_and(|draft| !draft.freshness.remaining(clock::now()).is_zero());
    let recorder = draft.and_then(|draft| ResponseRecorder::begin(&cache.live, draft, length));
    let stored = if recorder.is_some() { "; stored" } else { "" };
    cache_status::forwarded(&mut response.head, why, None, stored);
    let Some(mut recorder) = recorder else {
        send_alone(cache, &lookup, lead);
        return response;
    };
    match lead {
        Some(lead) if shared => recorder.share(lead),
        lead => send_alone(cache, &lookup, lead),
    }
    record(&mut response, recorder);
    response
}

/// Stores the response to a POST for GET, if it states that it applies and its lifetime (RFC 9110,
/// 9.3.3).
pub fn keep_for_get(
    request: &ProxyRequest,
    cache: &RouteCache,
    response: &mut PendingResponse,
) -> bool {
    let is_http = cache.policy.store == Keeps::Http;
    if !is_http || request.head.method() != Method::POST || response.head.status != StatusCode::OK {
        return false;
    }
    let here = response.head.headers.get(CONTENT_LOCATION);
    let headers = &response.head.headers;
    let explicit = CacheControl::of_response(headers).has_explicit_lifetime()
        || headers.contains_key(http::header::EXPIRES);
    if !explicit || !here.is_some_and(|here| is_here(request, here)) {
        return false;
    }
    let (lookup, start) = (CacheLookup::by_get(request, cache), FetchStart::now(cache));
    let drafted = draft(request, cache, &lookup, response, start);
    let length = length(&response.head.headers);
    let Some(recorder) =
        drafted.and_then(|draft| ResponseRecorder::begin(&cache.live, draft, length))
    else {
        return false;
    };
    record(response, recorder);
    true
}

fn record(response: &mut PendingResponse, mut recorder: ResponseRecorder) {
    match &mut response.body {
        PendingBody::Whole(bytes, _) => {
            recorder.push(bytes);
            recorder.finish();
        }
        PendingBody::Stream(stream) => stream.recorder = Some(Box::new(recorder)),
        PendingBody::Stored(_) | PendingBody::Followed(_) | PendingBody::Tunnel { .. } => {}
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The parts to store of a response; `None` if it may not be stored.
fn draft(
    request: &ProxyRequest,
    cache: &RouteCache,
    lookup: &CacheLookup,
    response: &PendingResponse,
    start: FetchStart,
) -> Option<RecordingHead> {
    let whole = matches!(response.body, PendingBody::Whole(_, None) | PendingBody::Stream(_));
    let attempt = request.record.attempts.last()?;
    if !whole || lookup.head || lookup.control.no_store || request.is_degraded {
        return None;
    }
    let status = response.head.status;
    let headers = response.head.headers.clone();
    let (life, selecting) = match &cache.policy.store {
        Keeps::Http => {
            // A successful status with a body that reports a failure.
            if status.is_success() && attempt.class != AttemptClass::Success {
                return None;
            }
            let received = received(status, &headers, start.requested_at);
            let life = Freshness::from_http(request.head.headers(), received, windows(cache))?;
            (life, VariantKey::of(request.head.headers(), &headers, &cache.live.secret)?)
        }
        Keeps::Always(all) => {
            if status != StatusCode::OK || attempt.class != AttemptClass::Success {
                return None;
            }
            let life = Freshness::fixed(clock::now(), all.ttl, windows(cache));
            (life, VariantKey::of(request.head.headers(), &coded(&headers), &cache.live.secret)?)
        }
    };
    let key = lookup.key;
    let headers = CachedResponse::storable_headers(headers);
    Some(RecordingHead {
        key,
        status,
        headers,
        freshness: life,
        variant: selecting,
        requested_at: start.requested_at,
        generation: start.generation,
    })
}

/// `Vary` of a response stored by policy: a compressed one is only for clients that accept it.
fn coded(headers: &HeaderMap) -> HeaderMap {
    let mut varies = HeaderMap::new();
    if headers.contains_key(CONTENT_ENCODING) {
        varies.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    varies
}
