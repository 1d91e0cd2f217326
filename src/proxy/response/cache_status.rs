//! `Cache-Status` (RFC 9211) and `Age` in the head of a response.

use std::time::Instant;

use http::header::AGE;
use http::response::Parts;
use http::{HeaderValue, StatusCode};

use crate::cache::freshness::Freshness;
use crate::proxy::downstream::own_headers::CACHE_STATUS;

/// Why a request was forwarded to a provider (RFC 9211, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    Request,
    Stale,
    Partial,
}

impl ForwardReason {
    fn as_str(self) -> &'static str {
        match self {
            ForwardReason::Bypass => "bypass",
            ForwardReason::Method => "method",
            ForwardReason::UriMiss => "uri-miss",
            ForwardReason::VaryMiss => "vary-miss",
            ForwardReason::Request => "request",
            ForwardReason::Stale => "stale",
            ForwardReason::Partial => "partial",
        }
    }
}

/// Appends this cache's member after those of other caches.
fn append(head: &mut Parts, text: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("outrigger; {text}")) {
        head.headers.append(CACHE_STATUS, value);
    }
}

/// The response is from the store: adds its age and its remaining lifetime, negative if stale.
pub fn hit(head: &mut Parts, freshness: &Freshness, now: Instant, detail: Option<&str>) {
    set_age(head, freshness, now);
    let ttl = match freshness.staleness(now) {
        Some(stale) => -(stale.as_secs() as i64),
        None => freshness.remaining(now).as_secs() as i64,
    };
    let detail = detail.map(|detail| format!("; detail={detail}")).unwrap_or_default();
    append(head, &format!("hit; ttl={ttl}{detail}"));
}

/// The request was forwarded; `parameters` follow the reason and the status.
pub fn forwarded(
    head: &mut Parts,
    reason: ForwardReason,
    status: Option<StatusCode>,
    parameters: &str,
) {
    let status =
        status.map(|status| format!("; fwd-status={}", status.as_u16())).unwrap_or_default();
    append(head, &format!("fwd={}{status}{parameters}", reason.as_str()));
}

pub fn set_age(head: &mut Parts, freshness: &Freshness, now: Instant) {
    head.headers.insert(AGE, HeaderValue::from(freshness.age(now).as_secs()));
}

/// The response is from the store because a provider has validated it.
pub fn revalidated(head: &mut Parts, reason: ForwardReason) {
    head.headers.remove(CACHE_STATUS);
    forwarded(head, reason, Some(StatusCode::NOT_MODIFIED), "; stored");
}
