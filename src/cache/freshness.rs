//! Freshness of a cached response (RFC 9111, 4.2; RFC 5861).
//!
//! The library `http-cache-semantics` decides whether a response may be stored and how long it is
//! fresh. It gets a canonical form of the relevant headers, because it reads directives in lower case
//! only, dates in one of their three forms, and adds an `Age` of any size to a time. The decision is
//! made once; after that the response ages on the monotonic clock, so a change of the wall clock
//! does not affect freshness.

use std::time::{Duration, Instant, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, DATE, EXPIRES, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, SET_COOKIE, VARY,
};
use http::{Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};

use super::cache_control::{CacheControl, delta_seconds, header_elements};

/// The statuses that the library decides itself. It is too strict about others: a response with a
/// status that it does not know may be stored if its freshness is explicit.
const UNDERSTOOD_STATUSES: [u16; 14] =
    [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// The longest lifetime estimated from `Last-Modified` (RFC 9111, 4.2.2 asks for caution over a day).
const MAX_ESTIMATE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    received_at: Instant,
    /// The age when it was received.
    initial_age: Duration,
    lifetime: Duration,
    /// How long after that it may be served instead of an error.
    stale_if_error: Duration,
    /// How long after `lifetime` it may be served while it is revalidated.
    stale_while_revalidate: Duration,
    /// A degradation mode or `max-stale` may have it served stale.
    allows_stale: bool,
}

/// The times of the policy, for responses that state none.
#[derive(Clone, Copy, Debug, Default)]
pub struct StaleWindows {
    pub stale_if_error: Duration,
    pub stale_while_revalidate: Duration,
}

/// A response head as it was received.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedHead<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub requested_at: Instant,
    pub received_at: Instant,
    pub received_wall: SystemTime,
}

impl Freshness {
    /// The freshness of a response that HTTP permits a shared cache to store; otherwise `None`.
    pub fn from_http(
        request: &HeaderMap,
        response: ReceivedHead<'_>,
        windows: StaleWindows,
    ) -> Option<Freshness> {
        let ReceivedHead {
            status,
            headers,
            requested_at: requested,
            received_at: at,
            received_wall: wall,
        } = response;
        let mut control = CacheControl::of_response(headers);
        let status = understood_status(status, headers, &mut control)?;
        if CacheControl::of_request(request).no_store
            || header_elements(headers, &VARY).contains(&"*")
        {
            return None;
        }
        if headers.contains_key(SET_COOKIE) && !is_explicit(&control, headers) {
            // A cookie may begin a session: stored only with explicit freshness (RFC 9111, 7.3).
            return None;
        }
        let policy = policy(request, status, headers, &control, wall)?;
        if !policy.is_storable() {
            return None;
        }
        let strict = control.forbids_stale();
        let window = |said: Option<Duration>, otherwise| match strict {
            true => Duration::ZERO,
            false => said.unwrap_or(otherwise),
        };
        let states_lifetime = control.has_explicit_lifetime() || headers.contains_key(EXPIRES);
        let (lifetime, revalidating) = match states_lifetime {
            true => (policy.time_to_live(wall), windows.stale_while_revalidate),
            // An estimate from `Last-Modified`, or none: serving it stale has no permission.
            false => (policy.time_to_live(wall).min(MAX_ESTIMATE), Duration::ZERO),
        };
        Some(Freshness {
            received_at: at,
            initial_age: age(headers, at.saturating_duration_since(requested), wall),
            lifetime,
            stale_if_error: window(control.stale_if_error, windows.stale_if_error),
            stale_while_revalidate: window(control.stale_while_revalidate, revalidating),
            allows_stale: !strict,
        })
    }

    /// The freshness of a response that the policy stores for `lifetime`, regardless of its headers.
    pub fn fixed(at: Instant, fresh: Duration, windows: StaleWindows) -> Freshness {
        Freshness {
            received_at: at,
            initial_age: Duration::ZERO,
            lifetime: fresh,
            stale_if_error: windows.stale_if_error,
            stale_while_revalidate: windows.stale_while_revalidate,
            allows_stale: true,
        }
    }

    pub fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received_at)
    }

    /// The remaining time for which it is fresh.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// The time since it became stale; `None` while it is fresh.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        let age = self.age(now);
        (age >= self.lifetime).then(|| age - self.lifetime)
    }

    /// It may be served instead of an error.
    pub fn may_serve_on_error(&self, now: Instant) -> bool {
        self.staleness(now).is_none_or(|stale| stale < self.stale_if_error)
    }

    /// It may be served while it is revalidated.
    pub fn may_serve_while_revalidating(&self, now: Instant) -> bool {
        self.staleness(now).is_none_or(|stale| stale < self.stale_while_revalidate)
    }

    /// It may be served to a request, or for a degradation mode, that accepts this staleness.
    pub fn may_serve_stale(&self, now: Instant, within: Duration) -> bool {
        self.staleness(now).is_none_or(|stale| self.allows_stale && stale <= within)
    }

    /// It satisfies a request with these directives without revalidation (RFC 9111, 5.2.1).
    pub fn satisfies(&self, requested: &CacheControl, now: Instant) -> bool {
        let young = requested.max_age.is_none_or(|most| self.age(now) <= most);
        let fresh = requested.min_fresh.is_none_or(|least| self.remaining(now) >= least);
        let stale = self.staleness(now).is_none()
            || requested.max_stale.is_some_and(|most| self.may_serve_stale(now, most));
        !requested.no_cache && young && fresh && stale
    }
}

/// The status to give to the library; `must-understand` overrides `no-store`.
fn understood_status(
    status: StatusCode,
    headers: &HeaderMap,
    control: &mut CacheControl,
) -> Option<StatusCode> {
    let known = UNDERSTOOD_STATUSES.contains(&status.as_u16());
    if control.must_understand {
        control.no_store = !known;
    }
    if known {
        return Some(status);
    }
    let explicit = is_explicit(control, headers);
    let whole = status != StatusCode::PARTIAL_CONTENT && status != StatusCode::NOT_MODIFIED;
    (explicit && whole && status.as_u16() >= 200).then_some(StatusCode::OK)
}

/// The response itself states that or how long it may be stored.
fn is_explicit(control: &CacheControl, headers: &HeaderMap) -> bool {
    control.has_explicit_lifetime() || control.public || headers.contains_key(EXPIRES)
}

fn policy(
    request: &HeaderMap,
    status: StatusCode,
    headers: &HeaderMap,
    control: &CacheControl,
    wall: SystemTime,
) -> Option<CachePolicy> {
    let (mut requested, mut response) = (Request::new(()), Response::new(()));
    *response.status_mut() = status;
    if request.contains_key(AUTHORIZATION) {
        requested.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("-"));
    }
    let canonical = response.headers_mut();
    let line = control.canonical();
    if !line.is_empty() {
        canonical.insert(CACHE_CONTROL, HeaderValue::try_from(line).ok()?);
    }
    let date = date(headers, &DATE).map_or(wall, |date| date.unwrap_or(wall));
    for (name, time) in
        [(DATE, Some(Some(date))), (LAST_MODIFIED, self::date(headers, &LAST_MODIFIED))]
    {
        if let Some(Some(time)) = time {
            canonical.insert(name, HeaderValue::try_from(httpdate::fmt_http_date(time)).ok()?);
        }
    }
    if let Some(expires) = self::date(headers, &EXPIRES) {
        // An invalid date is in the past.
        let time = expires.map_or_else(|| "0".to_owned(), httpdate::fmt_http_date);
        canonical.insert(EXPIRES, HeaderValue::try_from(time).ok()?);
    }
    Some(CachePolicy::new_options(&requested, &response, wall, CacheOptions::default()))
}

/// A date in any of its three forms. Several different dates are an invalid date.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Option<SystemTime>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.any(|other| other != first) {
        return Some(None);
    }
    Some(first.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok()))
}

/// The corrected initial age (RFC 9111, 4.2.3). The first age of a list counts; an invalid one is
/// ignored (5.1).
fn age(headers: &HeaderMap, delay: Duration, wall: SystemTime) -> Duration {
    let date = date(headers, &DATE).flatten();
    let apparent = date.and_then(|date| wall.duration_since(date).ok()).unwrap_or_default();
    let first = headers.get(AGE).and_then(|age| age.to_str().ok()?.split(',').next());
    let said = first.and_then(|age| delta_seconds(age.trim()));
    apparent.max(said.unwrap_or_default() + delay)
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
