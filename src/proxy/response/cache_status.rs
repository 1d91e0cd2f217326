//! `Cache-Status` (RFC 9211) and `Age`: what the cache did, in the answer's head.

use std::time::Instant;

use http::header::{AGE, HeaderName};
use http::response::Parts;
use http::{HeaderValue, StatusCode};

use crate::cache::freshness::Freshness;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Adds what we have to say behind what caches beyond us said.
fn say(head: &mut Parts, text: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("outrigger; {text}")) {
        head.headers.append(CACHE_STATUS, value);
    }
}

/// It comes from the store: how old it is, and for how long it would have been fresh.
pub fn hit(head: &mut Parts, life: &Freshness, now: Instant, detail: Option<&str>) {
    aged(head, life, now);
    let ttl = match life.staleness(now) {
        Some(stale) => -(stale.as_secs() as i64),
        None => life.remaining(now).as_secs() as i64,
    };
    let detail = detail.map(|detail| format!("; detail={detail}")).unwrap_or_default();
    say(head, &format!("hit; ttl={ttl}{detail}"));
}

/// It was asked for: why, and what came of it.
pub fn forwarded(head: &mut Parts, why: &str, status: Option<StatusCode>, rest: &str) {
    let status =
        status.map(|status| format!("; fwd-status={}", status.as_u16())).unwrap_or_default();
    say(head, &format!("fwd={why}{status}{rest}"));
}

pub fn aged(head: &mut Parts, life: &Freshness, now: Instant) {
    head.headers.insert(AGE, HeaderValue::from(life.age(now).as_secs()));
}

/// It comes from the store because a provider says that it is still good.
pub fn revalidated(head: &mut Parts, why: &str) {
    head.headers.remove(CACHE_STATUS);
    forwarded(head, why, Some(StatusCode::NOT_MODIFIED), "; stored");
}
