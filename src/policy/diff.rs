//! What a change of policy will do, in words.
//!
//! A sentence for each provider, address, route and value that differs: what it was, what it is.
//! Credentials are told by their references, never by their values.

use std::fmt::Debug;

use super::Policy;
use super::model::{Address, Auth, Credential, Provider, Route};

/// The differences, a sentence each; empty when both do the same.
pub fn changes(before: &Policy, after: &Policy) -> Vec<String> {
    let mut told = Vec::new();
    compare(&mut told, "server", &before.server, &after.server, |server| {
        vec![("", format!("{server:?}"))]
    });
    let name = |provider: &Provider| provider.name.clone();
    pairs(&mut told, "provider", &before.providers, &after.providers, name, |told, a, b| {
        let what = format!("provider `{}`", a.name);
        pairs(
            told,
            &format!("{what}: address"),
            &a.addresses,
            &b.addresses,
            |x| x.name.clone(),
            |told, x, y| {
                compare(told, &format!("{what}: address `{}`", x.name), x, y, address);
            },
        );
        compare(told, &what, a, b, provider);
        untold(told, &what, a, b);
    });
    let name = |route: &Route| route.name.clone();
    pairs(&mut told, "route", &before.routes, &after.routes, name, |told, a, b| {
        let (was, is) = (route(a, before), route(b, after));
        differences(told, &format!("route `{}`", a.name), &was, &is);
    });
    let common = |from: &Policy, other: &Policy| -> Vec<String> {
        let both = |r: &&Route| other.routes.iter().any(|o| o.name == r.name);
        from.routes.iter().filter(both).map(|r| r.name.clone()).collect()
    };
    let (was, is) = (common(before, after), common(after, before));
    if was != is {
        told.push(format!("routes are tried in another order: {}", is.join(", ")));
    }
    told
}

/// A thing's values by name, as they are told.
type Values = Vec<(&'static str, String)>;

fn pairs<T>(
    told: &mut Vec<String>,
    kind: &str,
    before: &[T],
    after: &[T],
    name: impl Fn(&T) -> String,
    mut both: impl FnMut(&mut Vec<String>, &T, &T),
) {
    for gone in before.iter().filter(|b| !after.iter().any(|a| name(a) == name(b))) {
        told.push(format!("{kind} `{}` is gone", name(gone)));
    }
    for now in after {
        match before.iter().find(|b| name(b) == name(now)) {
            Some(was) => both(told, was, now),
            None => told.push(format!("{kind} `{}` is new", name(now))),
        }
    }
}

fn compare<T>(told: &mut Vec<String>, what: &str, a: &T, b: &T, values: impl Fn(&T) -> Values) {
    differences(told, what, &values(a), &values(b));
}

fn differences(told: &mut Vec<String>, what: &str, was: &Values, is: &Values) {
    for ((key, was), (_, is)) in was.iter().zip(is).filter(|((_, was), (_, is))| was != is) {
        let key = if key.is_empty() { String::new() } else { format!(": {key}") };
        told.push(format!("{what}{key} changes from {was} to {is}"));
    }
}

fn text(value: impl Debug) -> String {
    format!("{value:?}")
}

fn address(address: &Address) -> Values {
    let url = &address.url;
    let scheme = if url.https { "https" } else { "http" };
    let auth = match &address.auth {
        Auth::None => "none".to_owned(),
        Auth::Passthrough => "passthrough".to_owned(),
        Auth::Credentials(all) => {
            let references: Vec<_> = all.iter().map(|c| c.reference.as_str()).collect();
            references.join(", ")
        }
    };
    vec![
        ("url", format!("{scheme}://{}{}", url.authority, url.path)),
        ("weight", text(address.weight)),
        ("auth", auth),
    ]
}

fn provider(provider: &Provider) -> Values {
    let names: Vec<_> = provider.set_headers.iter().map(|(name, _)| name.as_str()).collect();
    let rewrite = &provider.rewrite;
    let set: Vec<_> = rewrite.set.iter().map(|(pointer, _)| pointer.to_string()).collect();
    vec![
        ("timeouts", text(provider.timeouts)),
        ("capacity", text(provider.capacity)),
        ("breaker", text(&provider.breaker)),
        ("retry", text(&provider.retry)),
        ("models", text(&provider.models)),
        ("headers.set", text(names)),
        ("headers.remove", text(&provider.remove_headers)),
        ("tls", text(&provider.tls)),
        ("proxy", text(&provider.proxy)),
        ("rewrite.path", text(&rewrite.path)),
        ("rewrite.body", text((set, &rewrite.remove))),
        ("classify", text(&provider.classify)),
    ]
}

/// What may hold a secret changes without its value's being told.
fn untold(told: &mut Vec<String>, what: &str, a: &Provider, b: &Provider) {
    for (name, value) in &b.set_headers {
        if a.set_headers.iter().any(|(was, old)| was == name && old != value) {
            told.push(format!("{what}: header `{name}` has another value"));
        }
    }
    for (pointer, value) in &b.rewrite.set {
        if a.rewrite.set.iter().any(|(was, old)| was == pointer && old != value) {
            told.push(format!("{what}: rewrite.body sets another value at `{pointer}`"));
        }
    }
    for (was, is) in credentials(a).zip(credentials(b)) {
        if was.reference == is.reference && was.value != is.value {
            told.push(format!("{what}: credential {} has another value", is.reference));
        }
    }
}

fn credentials(provider: &Provider) -> impl Iterator<Item = &Credential> {
    provider.addresses.iter().flat_map(|address| match &address.auth {
        Auth::Credentials(all) => all.as_slice(),
        Auth::None | Auth::Passthrough => &[],
    })
}

fn route(route: &Route, policy: &Policy) -> Values {
    let name = |index: &usize| policy.providers[*index].name.as_str();
    let providers: Vec<_> = route.providers.iter().map(|w| (name(&w.provider), w.weight)).collect();
    let fallback: Vec<_> = route.fallback.iter().map(name).collect();
    vec![
        ("match", text(&route.matcher)),
        ("strip_prefix", text(&route.strip_prefix)),
        ("providers", text(providers)),
        ("balance", route.balance.as_str().to_owned()),
        ("fallback", text(fallback)),
        ("fallback_on", text(route.fallback_on)),
        ("idempotent", route.idempotent.as_str().to_owned()),
        ("timeout", text(route.timeout)),
        ("retry", text(&route.retry)),
        ("replay", text(route.replay)),
        ("allow_override", text(route.allow_override)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{SourceFile, Sources, load};

    struct Same;

    impl Sources for Same {
        fn env(&self, name: &str) -> Option<String> {
            Some(format!("secret-{name}"))
        }

        fn file(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn policy(yaml: &str) -> Policy {
        let bytes = format!("version: 1\n{yaml}").into_bytes();
        let loaded = load(&[SourceFile { name: "p.yaml".into(), bytes }], &Same);
        loaded.expect("a valid policy").policy
    }

    const BEFORE: &str = "providers:\n  a: { url: http://a, auth: { bearer: \"${env:ONE}\" } }\n  b: { url: http://b, auth: none }\nroutes:\n  - { name: x, match: { path: /x }, providers: [a] }\n  - { name: y, providers: [a, b], timeout: 5s }\n";

    #[test]
    fn equal_policies_differ_in_nothing() {
        assert_eq!(changes(&policy(BEFORE), &policy(BEFORE)), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_a_sentence_and_none_tells_a_secret() {
        let after = BEFORE
            .replace("env:ONE", "env:TWO")
            .replace("b: { url: http://b, auth: none }", "c: { url: http://c, auth: none }")
            .replace("[a, b], timeout: 5s", "[a, c], timeout: 6s");
        let told = changes(&policy(BEFORE), &policy(&after));
        assert_eq!(
            told,
            [
                "provider `b` is gone",
                "provider `a`: address `a:80`: auth changes from env:ONE to env:TWO",
                "provider `c` is new",
                "route `y`: providers changes from [(\"a\", 1), (\"b\", 1)] to [(\"a\", 1), (\"c\", 1)]",
                "route `y`: timeout changes from 5s to 6s",
            ]
        );
        assert!(!told.concat().contains("secret-"));
    }
}
