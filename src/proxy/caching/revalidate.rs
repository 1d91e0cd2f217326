//! What serves although it is stale is asked for anew beside the request, by one at a time (RFC 5861, 3).

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::fetch::{Errand, forward};
use super::key::Sought;
use crate::cache::coalesce::Turn;
use crate::cache::entry::Stored;
use crate::clock;
use crate::proxy::access_log::record::Story;
use crate::proxy::handler::finish;
use crate::proxy::request::body::Payload;
use crate::proxy::request::context::Ask;
use crate::snapshot::RouteCache;

/// Asks anew, unless somebody does already, or a mode in force spares the providers.
pub fn begin(ask: &Ask, cache: &RouteCache, sought: &Sought, stored: &Arc<Stored>) {
    if ask.is_degraded() {
        return;
    }
    let key = stored.selecting.narrow(&sought.key, &ask.headers, &cache.live.secret);
    let Turn::Lead(lead) = cache.live.flights.enter(key) else { return };
    let Some(mut ask) = beside(ask) else { return };
    let found = Some(Arc::clone(stored));
    let errand = Errand { sought: sought.clone(), found, lead: Some(lead), why: "stale" };
    drop(spawn_local(async move {
        let route = Arc::clone(&ask.route);
        let Some(cache) = &route.cache else { return };
        let outcome = forward(&mut ask, &route, cache, errand, false).await;
        let mut body = finish(ask, outcome).into_body();
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

/// The same request, asked by nobody in particular.
fn beside(ask: &Ask) -> Option<Box<Ask>> {
    let (worker, client) = (&ask.worker, ask.worker.clients.aside());
    let (method, uri, now) = (ask.method.clone(), ask.uri.clone(), clock::now());
    let route = Some(Arc::clone(&ask.route));
    let mut story = Story::new(worker, &client, route, method.clone(), uri.clone(), now);
    story.hush();
    let body = ask.payload.whole()?;
    let mut room = worker.live.buffers.reservation();
    if !room.grow(body.len() as u64) {
        return None;
    }
    let payload = Payload::of(body, room, ask.route.reads_body);
    let request = (method, uri, ask.headers.clone());
    let mut beside = Ask::new((worker, &client), &ask.route, story, request);
    beside.has(payload);
    beside.session = ask.session.clone();
    (beside.class, beside.flow) = (ask.class, ask.flow);
    beside.idempotence = ask.idempotence;
    Some(beside)
}
