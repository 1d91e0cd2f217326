//! Background revalidation of a stale response that was served (RFC 5861, 3), one at a time.

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::fetch::{Fetch, forward};
use super::key::CacheLookup;
use crate::cache::coalesce::CoalesceRole;
use crate::cache::entry::CachedResponse;
use crate::clock;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::degradation::apply::is_degraded;
use crate::proxy::request::body::RequestBody;
use crate::proxy::response::cache_status::ForwardReason;
use crate::proxy::response::send::send;
use crate::snapshot::RouteCache;
use crate::telemetry::panics::Contained;

/// Begins a revalidation, unless one is under way or a degradation mode is active.
pub fn begin(
    request: &ProxyRequest,
    cache: &RouteCache,
    lookup: &CacheLookup,
    stored: &Arc<CachedResponse>,
) {
    if is_degraded(request) {
        return;
    }
    let key = stored.variant.narrow(&lookup.key, request.head.headers(), &cache.live.secret);
    let CoalesceRole::Lead(lead) = cache.live.in_flight.join(key) else { return };
    if lookup.changed_since(request, cache, Some(stored)) {
        return;
    }
    let Some(mut request) = detached_request(request) else { return };
    let found = Some(Arc::clone(stored));
    let fetch =
        Fetch { lookup: lookup.clone(), found, lead: Some(lead), why: ForwardReason::Stale };
    drop(spawn_local(Contained::new(async move {
        let route = Arc::clone(&request.route);
        let Some(cache) = &route.cache else { return };
        if request.body.is_encoded() {
            request.decode_body().await;
        }
        let outcome = forward(&mut request, &route, cache, fetch, false).await;
        let mut body = send(request, outcome).into_body();
        while let Some(Ok(_)) = body.frame().await {}
    })));
}

/// A copy of the request without a client.
fn detached_request(request: &ProxyRequest) -> Option<Box<ProxyRequest>> {
    let (worker, client) = (&request.worker, request.worker.clients.detached());
    let (method, uri, now) =
        (request.head.method().clone(), request.head.uri().clone(), clock::now());
    let route = Some(Arc::clone(&request.route));
    let mut record = AccessRecord::new(worker, &client, route, method.clone(), uri.clone(), now);
    record.suppress();
    let body = request.body.complete()?;
    let mut room = worker.live.buffers.reservation();
    if !room.grow(body.len() as u64) {
        return None;
    }
    let body = RequestBody::of(body, room, request.route.reads_body);
    let mut head = request.head.duplicate();
    if let Some(trace) = &request.record.trace {
        trace.add_to(head.headers_mut());
    }
    let mut revalidation = ProxyRequest::new(worker, &client, &request.route, record, head);
    revalidation.set_body(body);
    revalidation.limits.inherit(&request.limits);
    Some(revalidation)
}
