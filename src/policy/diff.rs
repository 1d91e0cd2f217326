//! What a change of policy will do, in words.
//!
//! One sentence for each change, old value and new, so that a log line of a reload tells what
//! happened. Values that several share (`retries`, `breakers`, `queues`) are told once, under their name.
//! What may be a secret is compared, but only named: `credentials change (env:KEY)`.

use std::collections::BTreeMap;

use super::sections::model::{
    Address, Auth, Breaker, Degradation, Policy, Provider, Queue, Retry, Route,
};
use super::sections::shown::{self, Shown};
use super::sections::shown_modes;

/// The differences, a sentence each; empty when both do the same.
pub fn changes(before: &Policy, after: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    let server = differing(&shown::server(&before.server), &shown::server(&after.server));
    found.extend(server.into_iter().map(|change| format!("server: {change}")));
    let (old_tls, new_tls) = (before.server.tls.as_ref(), after.server.tls.as_ref());
    if let (Some(old), Some(new)) = (old_tls, new_tls)
        && (old.cert.bytes != new.cert.bytes || old.key.bytes != new.key.bytes)
    {
        found.push("server: the certificate or key of tls has new content".to_owned());
    }
    found.extend(named("breaker", &breakers(before), &breakers(after)));
    found.extend(named("retries", &retries(before), &retries(after)));
    found.extend(named("queue", &queues(before), &queues(after)));
    found.extend(named("cache", &caches(before), &caches(after)));
    found.extend(named("degradation", &modes(before), &modes(after)));
    found.extend(unshown_actions(before, after));
    providers(&before.providers, &after.providers, &mut found);
    routes(before, after, &mut found);
    found
}

/// `connections 10 -> 20` for each that differs; a key that only one has is `none` in the other.
fn differing(before: &Shown, after: &Shown) -> Vec<String> {
    let value = |shown: &Shown, key: &str| {
        let found = shown.iter().find(|(other, _)| *other == key);
        found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(key, _)| after.iter().all(|(other, _)| other != key));
    let keys = after.iter().chain(gone).map(|(key, _)| *key);
    keys.filter_map(|key| moved(key, &value(before, key), &value(after, key))).collect()
}

fn moved(key: &str, before: &str, after: &str) -> Option<String> {
    (before != after).then(|| format!("{key} {before} -> {after}"))
}

// === what has a name of its own, and is shared ===

fn retries(policy: &Policy) -> BTreeMap<&str, Shown> {
    let own = policy.providers.iter().filter_map(|provider| provider.retry.as_ref());
    let all = policy.routes.iter().map(|route| &route.retry).chain(own);
    all.map(|retry| (retry.name.as_str(), shown::retry(retry))).collect()
}

fn breakers(policy: &Policy) -> BTreeMap<&str, Shown> {
    let all = policy.providers.iter().filter_map(|provider| provider.breaker.as_ref());
    all.map(|breaker| (breaker.name.as_str(), shown::breaker(breaker))).collect()
}

/// Of one of its routes.
fn queue_of<'p>(policy: &'p Policy, route: &Route) -> Option<&'p Queue> {
    route.queue.and_then(|index| policy.queues.get(index))
}

fn queues(policy: &Policy) -> BTreeMap<&str, Shown> {
    let all = policy.routes.iter().filter_map(|route| queue_of(policy, route));
    all.map(|queue| (queue.name.as_str(), shown::queue(queue))).collect()
}

fn caches(policy: &Policy) -> BTreeMap<&str, Shown> {
    policy.caches.iter().map(|one| (one.name.as_str(), shown_modes::cache(one))).collect()
}

fn modes(policy: &Policy) -> BTreeMap<&str, Shown> {
    let all = policy.degradations.iter();
    all.map(|one| (one.name.as_str(), shown_modes::degradation(policy, one))).collect()
}

/// Of modes that are shown alike: the text of an answer, a value of a header, a webhook.
fn unshown_actions(before: &Policy, after: &Policy) -> Vec<String> {
    let differs = |new: &&Degradation| {
        let old = before.degradations.iter().find(|old| old.name == new.name);
        old.is_some_and(|old| {
            shown_modes::degradation(before, old) == shown_modes::degradation(after, new)
                && format!("{:?}", old.actions) != format!("{:?}", new.actions)
        })
    };
    let changed = after.degradations.iter().filter(differs);
    changed
        .map(|mode| format!("degradation `{}`: what its actions say changes", mode.name))
        .collect()
}

fn named(what: &str, before: &BTreeMap<&str, Shown>, after: &BTreeMap<&str, Shown>) -> Vec<String> {
    let both = before.iter().filter_map(|(name, old)| Some((name, old, after.get(name)?)));
    let sentences = both.flat_map(|(name, old, new)| {
        differing(old, new).into_iter().map(move |change| format!("{what} `{name}`: {change}"))
    });
    sentences.collect()
}

/// A change of name, and what it brings with it.
fn renamed(what: &str, before: (&str, Shown), after: (&str, Shown)) -> Option<String> {
    let change = moved(what, before.0, after.0)?;
    let brings = match before.1.is_empty() || after.1.is_empty() {
        true => Vec::new(),
        false => differing(&before.1, &after.1),
    };
    Some(std::iter::once(change).chain(brings).collect::<Vec<_>>().join(", "))
}

fn retry(retry: Option<&Retry>) -> (&str, Shown) {
    retry.map_or(("the route's", vec![]), |retry| (retry.name.as_str(), shown::retry(retry)))
}

fn breaker(breaker: Option<&Breaker>) -> (&str, Shown) {
    breaker.map_or(("none", vec![]), |breaker| (breaker.name.as_str(), shown::breaker(breaker)))
}

fn queue(queue: Option<&Queue>) -> (&str, Shown) {
    queue.map_or(("none", vec![]), |queue| (queue.name.as_str(), shown::queue(queue)))
}

// === providers ===

fn providers(before: &[Provider], after: &[Provider], found: &mut Vec<String>) {
    let gone = before.iter().filter(|old| after.iter().all(|new| new.name != old.name));
    found.extend(gone.map(|old| format!("provider `{}` is gone", old.name)));
    for new in after {
        match before.iter().find(|old| old.name == new.name) {
            None => found.push(format!("provider `{}` is new: {}", new.name, addresses_of(new))),
            Some(old) => {
                let changes = provider(old, new);
                found.extend(changes.into_iter().map(|c| format!("provider `{}`: {c}", new.name)));
            }
        }
    }
}

fn addresses_of(provider: &Provider) -> String {
    let urls: Vec<_> = provider.addresses.iter().map(|address| shown::url(&address.url)).collect();
    urls.join(", ")
}

fn provider(before: &Provider, after: &Provider) -> Vec<String> {
    let mut found = addresses(&before.addresses, &after.addresses);
    found.extend(credentials(&before.addresses, &after.addresses));
    let timeouts = differing(&shown::timeouts(&before.timeouts), &shown::timeouts(&after.timeouts));
    found.extend(timeouts.into_iter().map(|change| format!("timeouts.{change}")));
    let capacity = differing(&shown::capacity(&before.capacity), &shown::capacity(&after.capacity));
    found.extend(capacity.into_iter().map(|change| format!("capacity.{change}")));
    found.extend(differing(&shown::answers(before), &shown::answers(after)));
    let (old, new) = (breaker(before.breaker.as_ref()), breaker(after.breaker.as_ref()));
    found.extend(renamed("breaker", old, new));
    found.extend(renamed("retry", retry(before.retry.as_ref()), retry(after.retry.as_ref())));
    found.extend(entries("model", &before.models, &after.models, true));
    found.extend(entries("header", &before.set_headers, &after.set_headers, false));
    let (mut old, mut new) = (before.remove_headers.clone(), after.remove_headers.clone());
    old.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    new.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    found.extend(moved("headers.remove", &joined(&old), &joined(&new)));
    found.extend(way(before, after));
    if format!("{:?}", before.rewrite) != format!("{:?}", after.rewrite) {
        found.push("rewrite changes".to_owned());
    }
    if format!("{:?}", before.classify) != format!("{:?}", after.classify) {
        let (old, new) = (before.classify.len(), after.classify.len());
        found.push(format!("classify changes ({old} rules before, {new} now)"));
    }
    found
}

/// TLS and the forward proxy.
fn way(before: &Provider, after: &Provider) -> Vec<String> {
    let proxy = |provider: &Provider| {
        let url = provider.proxy.as_ref().map(|proxy| shown::url(&proxy.url));
        url.unwrap_or_else(|| "none".to_owned())
    };
    let tls = |provider: &Provider| {
        let (tls, identity) = (&provider.tls, provider.tls.identity.as_ref());
        vec![
            ("tls.ca", shown::pem(tls.ca.as_ref())),
            ("tls.client_cert", shown::pem(identity.map(|identity| &identity.cert))),
            ("tls.client_key", shown::pem(identity.map(|identity| &identity.key))),
            ("tls.server_name", tls.server_name.clone().unwrap_or_else(|| "none".to_owned())),
        ]
    };
    let mut found = differing(&tls(before), &tls(after));
    if found.is_empty() && before.tls != after.tls {
        found.push("a certificate or key of tls has new content".to_owned());
    }
    let (old, new) = (proxy(before), proxy(after));
    found.extend(moved("proxy", &old, &new));
    if old == new && before.proxy != after.proxy {
        found.push("the credentials for the proxy change".to_owned());
    }
    found
}

fn addresses(before: &[Address], after: &[Address]) -> Vec<String> {
    let mut found = Vec::new();
    for old in before.iter().filter(|old| after.iter().all(|new| new.name != old.name)) {
        found.push(format!("address `{}` is gone", old.name));
    }
    for new in after {
        let Some(old) = before.iter().find(|old| old.name == new.name) else {
            found.push(format!("address `{}` is new", new.name));
            continue;
        };
        let url = moved("url", &shown::url(&old.url), &shown::url(&new.url));
        let weight = moved("weight", &old.weight.to_string(), &new.weight.to_string());
        let changes = url.into_iter().chain(weight);
        found.extend(changes.map(|change| format!("address `{}`: {change}", new.name)));
    }
    let names = |all: &[Address]| all.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    for (name, place) in out_of_order(&names(before), &names(after)) {
        found.push(format!("address `{name}` moves {place}"));
    }
    found
}

/// One sentence when it is the same for all addresses.
fn credentials(before: &[Address], after: &[Address]) -> Vec<String> {
    let both: Vec<_> = after
        .iter()
        .filter_map(|new| Some((before.iter().find(|old| old.name == new.name)?, new)))
        .collect();
    let changes: Vec<_> = both
        .iter()
        .filter_map(|(old, new)| Some((&new.name, credential_change(&old.auth, &new.auth)?)))
        .collect();
    match changes.first() {
        Some((_, first))
            if changes.len() == both.len() && changes.iter().all(|(_, c)| c == first) =>
        {
            vec![first.clone()]
        }
        _ => changes.iter().map(|(name, change)| format!("address `{name}`: {change}")).collect(),
    }
}

fn credential_change(before: &Auth, after: &Auth) -> Option<String> {
    let (old, new) = (shown::auth(before), shown::auth(after));
    if old != new {
        return Some(format!("credentials change: {old} -> {new}"));
    }
    let values = |auth: &Auth| match auth {
        Auth::Credentials(all) => {
            all.iter().map(|one| (one.header.clone(), one.value.clone())).collect()
        }
        _ => Vec::new(),
    };
    (values(before) != values(after)).then(|| format!("credentials change ({new})"))
}

/// Of a list of names with values; values are shown only where they can be.
fn entries<N: AsRef<str>, V: PartialEq + AsRef<[u8]>>(
    what: &str,
    before: &[(N, V)],
    after: &[(N, V)],
    open: bool,
) -> Vec<String> {
    fn find<'v, N: AsRef<str>, V>(all: &'v [(N, V)], name: &str) -> Option<&'v V> {
        all.iter().find(|(other, _)| other.as_ref() == name).map(|(_, value)| value)
    }
    let text = |value: &V| format!("`{}`", String::from_utf8_lossy(value.as_ref()));
    let mut found = Vec::new();
    for name in before.iter().map(|(name, _)| name.as_ref()) {
        if find(after, name).is_none() {
            found.push(format!("{what} `{name}` is no longer set"));
        }
    }
    for (name, new) in after {
        let name = name.as_ref();
        found.extend(match (find(before, name), open) {
            (Some(old), _) if old == new => None,
            (Some(old), true) => Some(format!("{what} `{name}` {} -> {}", text(old), text(new))),
            (None, true) => Some(format!("{what} `{name}` is set to {}", text(new))),
            (Some(_), false) => Some(format!("{what} `{name}` is set to another value")),
            (None, false) => Some(format!("{what} `{name}` is set")),
        });
    }
    found
}

fn joined<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

// === routes ===

fn routes(before: &Policy, after: &Policy, found: &mut Vec<String>) {
    let gone =
        before.routes.iter().filter(|old| after.routes.iter().all(|new| new.name != old.name));
    found.extend(gone.map(|old| format!("route `{}` is gone", old.name)));
    for (index, new) in after.routes.iter().enumerate() {
        match before.routes.iter().find(|old| old.name == new.name) {
            None => {
                let place = place(after.routes.get(index + 1).map(|next| next.name.as_str()));
                let to = shown::providers(after, &new.providers);
                found.push(format!("route `{}` is new, {place}: to {to}", new.name));
            }
            Some(old) => {
                let changes = route((before, old), (after, new));
                found.extend(changes.into_iter().map(|c| format!("route `{}`: {c}", new.name)));
            }
        }
    }
    let names = |policy: &Policy| policy.routes.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    for (name, place) in out_of_order(&names(before), &names(after)) {
        found.push(format!("route `{name}` moves {place}"));
    }
}

fn route((old, before): (&Policy, &Route), (new, after): (&Policy, &Route)) -> Vec<String> {
    let to = |policy, route: &Route| shown::providers(policy, &route.providers);
    let then = |policy, route: &Route| shown::fallback(policy, &route.fallback);
    let mut found = Vec::new();
    let matches = differing(&shown::matcher(&before.matcher), &shown::matcher(&after.matcher));
    found.extend(matches.into_iter().map(|change| format!("match.{change}")));
    if wanted_headers(before) != wanted_headers(after) {
        found.push("the headers that it matches have other values".to_owned());
    }
    found.extend(moved("providers", &to(old, before), &to(new, after)));
    found.extend(moved("fallback", &then(old, before), &then(new, after)));
    found.extend(differing(&shown::route(before), &shown::route(after)));
    found.extend(renamed("retry", retry(Some(&before.retry)), retry(Some(&after.retry))));
    found.extend(renamed("queue", queue(queue_of(old, before)), queue(queue_of(new, after))));
    let cache = |policy: &'_ Policy, route: &Route| {
        route.cache.map_or_else(|| "none".to_owned(), |index| policy.caches[index].name.clone())
    };
    found.extend(moved("cache", &cache(old, before), &cache(new, after)));
    let (then, now) = (shown_modes::modes(old, before), shown_modes::modes(new, after));
    found.extend(moved("degrade", &then, &now));
    let jobs = |route: &Route| if route.durable { "yes" } else { "no" };
    found.extend(moved("takes jobs", jobs(before), jobs(after)));
    found
}

/// Only where the names are the same; never to be shown.
fn wanted_headers(route: &Route) -> Vec<String> {
    route.matcher.headers.iter().map(|header| format!("{header:?}")).collect()
}

/// Those of both lists that have to move to make one of the other: as few as possible.
fn out_of_order(before: &[String], after: &[String]) -> Vec<(String, String)> {
    let old = |name: &String| before.iter().position(|other| other == name);
    let common: Vec<_> = after.iter().filter_map(|name| Some((old(name)?, name))).collect();
    // The longest run that rises stays where it is (quadratic; lists are short).
    let mut longest: Vec<(usize, Option<usize>)> = Vec::with_capacity(common.len());
    for (index, (at, _)) in common.iter().enumerate() {
        let earlier = (0..index).filter(|other| common[*other].0 < *at);
        let best = earlier.max_by_key(|other| longest[*other].0);
        longest.push((best.map_or(1, |other| longest[other].0 + 1), best));
    }
    let mut stays = vec![false; common.len()];
    let mut next = (0..common.len()).max_by_key(|index| longest[*index].0);
    while let Some(index) = next {
        stays[index] = true;
        next = longest[index].1;
    }
    let movers = common.iter().zip(stays).filter(|(_, stays)| !stays).map(|((_, name), _)| *name);
    let following = |name: &String| after.iter().skip_while(|other| *other != name).nth(1);
    movers.map(|name| (name.clone(), place(following(name).map(String::as_str)))).collect()
}

fn place(next: Option<&str>) -> String {
    next.map_or_else(|| "to the end".to_owned(), |next| format!("before `{next}`"))
}
