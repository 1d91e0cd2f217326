//! What serves although it is stale is asked for anew beside the request, one at a time; and what a
//! request changes is not used any more (RFC 9111, 4.4).

use std::sync::Arc;

use http::header::{CONTENT_LOCATION, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, Uri};
use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::cached::Outcome;
use super::forward::{Errand, forward};
use super::handler::finish;
use super::intake::Payload;
use super::request::Ask;
use super::sought::{self, Sought};
use super::story::Story;
use crate::cache::flights::Turn;
use crate::cache::stored::Stored;
use crate::clock;
use crate::policy::model::Keeps;
use crate::snapshot::{Route, RouteCache};

/// Asks anew, unless somebody does already.
pub fn begin(ask: &Ask, cache: &RouteCache, sought: &Sought, stored: &Arc<Stored>) {
    let key = stored.selecting.narrow(&sought.key, &ask.headers, &cache.live.secret);
    let Turn::Lead(lead) = cache.live.flights.enter(key) else { return };
    let Some(mut ask) = beside(ask) else { return };
    let found = Some(Arc::clone(stored));
    let errand = Errand { sought: sought.clone(), found, lead: Some(lead), why: "stale" };
    drop(spawn_local(async move {
        let route = Arc::clone(&ask.route);
        let Some(cache) = &route.cache else { return };
        let outcome = forward(&mut ask, &route, cache, errand, false).await;
        let client = std::rc::Rc::clone(&ask.client);
        let mut body = finish(ask, outcome, &client).into_body();
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

/// The same request, asked by nobody in particular.
fn beside(ask: &Ask) -> Option<Ask> {
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
    let mut beside = Ask::new((worker, &client), &ask.route, story, request, payload);
    beside.session = ask.session.clone();
    (beside.class, beside.flow) = (ask.class, ask.flow);
    beside.idempotence = ask.idempotence;
    Some(beside)
}

/// What a successful request of an unsafe method has changed.
pub fn changed(ask: &Ask, route: &Route, outcome: &Outcome) {
    let Some(caches) = &route.changes else { return };
    let by_policy = route.cache.as_ref().is_some_and(|cache| cache.policy.store != Keeps::Http);
    if ask.method.is_safe() || by_policy {
        return;
    }
    let Ok(ready) = outcome else { return };
    if !(ready.head.status.is_success() || ready.head.status.is_redirection()) {
        return;
    }
    let (secret, marks, now) = (caches.secret(), caches.marks(), clock::now());
    let host = sought::host(&ask.headers, &ask.uri);
    marks.changed(&sought::uri(secret, &ask.headers, &ask.uri), now);
    for name in [LOCATION, CONTENT_LOCATION] {
        let value = ready.head.headers.get(name);
        if let Some(target) = value.and_then(|value| here(value, &host, &ask.uri)) {
            marks.changed(&sought::at(secret, &host, &target), now);
        }
    }
}

/// The path and query that a reference of this host stands for (RFC 3986, 5.2, without dot segments).
fn here(value: &HeaderValue, host: &[u8], base: &Uri) -> Option<String> {
    let text = value.to_str().ok()?.split('#').next()?;
    if let Some((scheme, rest)) = text.split_once("://")
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let authority: Authority = rest[..at].parse().ok()?;
        let same = authority.as_str().as_bytes().eq_ignore_ascii_case(host);
        return same.then(|| if at == rest.len() { "/".to_owned() } else { rest[at..].to_owned() });
    }
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
    let folder = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
    Some(format!("{folder}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_resolved_where_it_is_of_this_host() {
        let base: Uri = "/a/b?q".parse().expect("a path");
        let here = |text: &str| {
            here(&text.parse().expect("a value"), b"app:80", &base)
        };
        assert_eq!(here("/x?y#z").as_deref(), Some("/x?y"));
        assert_eq!(here("c").as_deref(), Some("/a/c"));
        assert_eq!(here("http://APP:80/x").as_deref(), Some("/x"));
        assert_eq!(here("https://app:80").as_deref(), Some("/"));
        assert_eq!(here("http://other/x"), None);
    }
}
