//! Credentials: those of a provider are sent only to it, those of the application only to a
//! provider with `passthrough`.

use std::collections::BTreeSet;

use crate::fixtures::{
    GENEROUS, access_record, chat, classes, is_from, policy, route, single_worker,
};
use crate::support::{Behaviour, Call, Origin, Sidecar};

/// Every header in which an application may send a credential.
const CREDENTIAL_HEADERS: [&str; 5] =
    ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];

fn chat_with_credentials() -> Call {
    CREDENTIAL_HEADERS
        .iter()
        .fold(chat(), |call, name| call.header(name, &format!("theirs-{name}")))
}

fn keys(origin: &Origin) -> Vec<String> {
    let requests = origin.requests().into_iter();
    requests.map(|r| r.headers.all("authorization").collect::<Vec<_>>().join("+")).collect()
}

#[test]
fn the_application_credentials_never_reach_a_provider_with_its_own() {
    for (auth, header, value) in [
        ("bearer: \"${env:KEY}\"", "authorization", "Bearer own"),
        ("header: { name: x-api-key, value: \"${env:KEY}\" }", "x-api-key", "own"),
        ("basic: { username: u, password: \"${env:KEY}\" }", "authorization", "Basic dTpvd24="),
    ] {
        let a = Origin::start(Behaviour::Chat);
        let yaml =
            policy(&[("a", &a.url(), &format!("auth: {{ {auth} }}"))], &route("providers: [a]"));
        let sidecar = Sidecar::builder().policy("policy", &yaml).env("KEY", "own").start();
        assert_eq!(sidecar.send(&chat_with_credentials()).status, 200);
        let seen = a.last().headers;
        for name in CREDENTIAL_HEADERS {
            let expected = (name == header).then_some(value);
            assert_eq!(seen.get(name), expected, "{auth}: {name}");
            assert_eq!(seen.all(name).count(), usize::from(expected.is_some()), "{auth}: {name}");
        }
    }
}

#[test]
fn passthrough_sends_credentials_to_its_provider_and_to_no_fallback() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), "auth: passthrough"), ("b", &*b.url(), "auth: none")];
    let sidecar = single_worker(&policy(&providers, &route("providers: [a], fallback: [b]")));
    assert!(is_from(&sidecar.send(&chat_with_credentials()), &a));
    for name in CREDENTIAL_HEADERS.iter().filter(|name| **name != "proxy-authorization") {
        assert_eq!(a.last().headers.get(name), Some(&*format!("theirs-{name}")));
    }
    a.set(Behaviour::RefuseConnections);
    assert!(is_from(&sidecar.send(&chat_with_credentials()), &b));
    for name in CREDENTIAL_HEADERS {
        assert_eq!(b.last().headers.get(name), None, "{name}");
    }
}

#[test]
fn the_only_provider_of_a_route_defaults_to_passthrough() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    assert_eq!(sidecar.send(&chat_with_credentials()).status, 200);
    assert_eq!(a.last().headers.get("authorization"), Some("theirs-authorization"));

    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let sidecar =
        single_worker(&policy(&providers, &route("providers: [a, b], balance: round_robin")));
    for _ in 0..4 {
        assert_eq!(sidecar.send(&chat_with_credentials()).status, 200);
    }
    for request in a.requests().iter().chain(&b.requests()) {
        assert!(CREDENTIAL_HEADERS.iter().all(|name| !request.headers.has(name)), "{request:?}");
    }
}

/// One provider with two keys, on one worker.
fn two_keys(more: &str) -> (Origin, Sidecar) {
    let a = Origin::start(Behaviour::Chat);
    let auth = "auth: { bearer: [\"${env:KEY_A}\", \"${env:KEY_B}\"] }";
    let yaml = policy(&[("a", &a.url(), auth)], &(route("providers: [a]") + GENEROUS + more));
    let builder = Sidecar::builder().policy("policy", &yaml).workers(1);
    (a, builder.env("KEY_A", "first").env("KEY_B", "second").start())
}

#[test]
fn several_credentials_are_used_evenly() {
    let (a, sidecar) = two_keys("");
    for _ in 0..20 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let seen = keys(&a);
    for key in ["Bearer first", "Bearer second"] {
        let share = seen.iter().filter(|seen| *seen == key).count();
        assert!((5..=15).contains(&share), "{seen:?}");
    }
    assert!(seen.iter().all(|key| ["Bearer first", "Bearer second"].contains(&&**key)), "{seen:?}");
}

#[test]
fn a_rejected_credential_is_replaced_by_the_next() {
    let (a, sidecar) = two_keys("");
    a.set(Behaviour::custom(|request| match request.headers.get("authorization") {
        Some("Bearer second") => Behaviour::Chat,
        _ => Behaviour::status(401, &[]),
    }));
    for _ in 0..10 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let seen = keys(&a);
    let first = seen.iter().filter(|key| *key == "Bearer first").count();
    assert_eq!((first, seen.len()), (1, 11), "held after its 401: {seen:?}");
    let records = sidecar.wait_for_access(10);
    let retried = records
        .iter()
        .find(|access_record| classes(access_record).len() == 2)
        .expect("one request was retried");
    assert_eq!(classes(retried), ["credential", "success"]);
    let credential_of = |i: usize| retried["attempts"][i]["credential"].as_str();
    assert_eq!((credential_of(0), credential_of(1)), (Some("env:KEY_A"), Some("env:KEY_B")));
}

#[test]
fn a_throttled_credential_does_not_affect_the_other() {
    let (a, sidecar) = two_keys("");
    a.set(Behaviour::custom(|request| match request.headers.get("authorization") {
        Some("Bearer second") => Behaviour::Chat,
        _ => Behaviour::status(429, &[("retry-after", "60")]),
    }));
    for _ in 0..10 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let seen: BTreeSet<_> = keys(&a).into_iter().collect();
    assert_eq!((seen.len(), a.count()), (2, 11), "held after its 429");
}

#[test]
fn the_only_credential_is_never_held() {
    let a = Origin::start(Behaviour::status(401, &[]));
    let yaml =
        policy(&[("a", &a.url(), "auth: { bearer: \"${env:KEY}\" }")], &route("providers: [a]"));
    let sidecar = Sidecar::builder().policy("policy", &yaml).env("KEY", "stale").workers(1).start();
    for i in 1..=4 {
        assert_eq!((sidecar.send(&chat()).status, a.count()), (401, i));
    }
    a.set(Behaviour::Chat);
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert_eq!(classes(&access_record(&sidecar, 1)), ["credential"]);
}

#[test]
fn a_request_with_a_rejected_credential_moves_to_the_fallback() {
    let (a, b) = (Origin::start(Behaviour::status(401, &[])), Origin::start(Behaviour::Chat));
    let providers = [
        ("a", &*a.url(), "auth: { bearer: \"${env:KEY_A}\" }"),
        ("b", &*b.url(), "auth: { bearer: \"${env:KEY_B}\" }"),
    ];
    let yaml = policy(&providers, &route("providers: [a], fallback: [b]"));
    let builder = Sidecar::builder().policy("policy", &yaml).workers(1);
    let sidecar = builder.env("KEY_A", "first").env("KEY_B", "second").start();
    for _ in 0..3 {
        assert!(is_from(&sidecar.send(&chat()), &b));
    }
    assert_eq!(keys(&a), ["Bearer first"], "held for ten minutes");
    assert_eq!(keys(&b), ["Bearer second"; 3]);
}
