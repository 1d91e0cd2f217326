//! Retries and load balancing of the last hour, and the advice that follows from them.

use serde_json::Value;

use crate::fixtures::{CHAT, GENEROUS, api, chat, cli_stdout, policy, route, single_worker};
use crate::support::{Behaviour, Call, Origin, Sidecar};

const PLAIN: &str = "auth: none, breaker: none";

fn first_route(sidecar: &Sidecar, path: &str) -> Value {
    api(sidecar, path)["routes"][0].clone()
}

fn codes(sidecar: &Sidecar) -> Vec<String> {
    let all = api(sidecar, "/api/recommendations");
    let all = all["recommendations"].as_array().expect("a list");
    all.iter().map(|one| one["code"].as_str().expect("a code").to_owned()).collect()
}

#[test]
fn retries_are_counted_by_their_cause_and_by_what_they_saved() {
    let (a, b) = (Origin::start(Behaviour::status(503, &[])), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), PLAIN), ("b", &*b.url(), PLAIN)];
    let rest = route("providers: [a], fallback: [b], idempotent: always") + GENEROUS;
    let sidecar = single_worker(&policy(&providers, &rest));
    for _ in 0..5 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    // Retried in vain.
    b.set(Behaviour::status(503, &[]));
    assert_eq!(sidecar.send(&chat()).status, 503);
    sidecar.wait_until(|sidecar| first_route(sidecar, "/api/retry")["last_hour"]["requests"] == 6);
    let status = api(&sidecar, "/api/status");
    for one in status["providers"].as_array().expect("providers") {
        // Five of the six requests ended well, all of them at `b`.
        let share = one["rates"]["client_success_share"].as_f64().expect("a share");
        assert!((share - 5.0 / 6.0).abs() < 1e-9, "{one}");
    }
    assert_eq!(status["providers"][0]["rates"]["success_share"], 0.0, "{status}");
    let found = first_route(&sidecar, "/api/retry");
    let hour = &found["last_hour"];
    assert_eq!((&hour["saved"], &hour["denied"][0]["count"]), (&5.into(), &1.into()), "{found}");
    let failure = &hour["retries"][0];
    assert_eq!((&failure["reason"], &failure["succeeded"]), (&"failure".into(), &5.into()));
    assert_eq!(hour["extra_attempts"], failure["count"], "{found}");
    assert_eq!(found["policy"]["max_attempts"], "3", "{found}");
    assert!(found["source"].as_str().is_some_and(|at| at.contains("policy.yaml:")), "{found}");
    assert!(hour["added_ms_p50"].as_f64().is_some_and(|ms| ms > 0.0), "{found}");
    let text = cli_stdout(&sidecar, &["retry"]);
    assert!(text.contains("SAVED") && text.contains("failure"), "{text}");
}

#[test]
fn shares_wanted_and_seen_are_compared() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), PLAIN), ("b", &*b.url(), PLAIN)];
    let weights = "providers: [{ name: a, weight: 3 }, { name: b, weight: 1 }], balance: weighted";
    let sidecar = single_worker(&policy(&providers, &route(weights)));
    for _ in 0..40 {
        assert_eq!(sidecar.send(&chat()).status, 200);
    }
    let path = "/api/load-balancing";
    sidecar.wait_until(|sidecar| first_route(sidecar, path)["last_hour"]["attempts"] == 40);
    let found = first_route(&sidecar, path);
    assert_eq!(found["algorithm"], "weighted");
    for (at, (share, attempts)) in [(0.75, 30), (0.25, 10)].into_iter().enumerate() {
        let endpoint = &found["endpoints"][at];
        assert_eq!(endpoint["share_wanted"], share, "{found}");
        assert_eq!(
            (&endpoint["share_seen"], &endpoint["attempts"]),
            (&share.into(), &attempts.into())
        );
        assert!(endpoint["p50_ms"].is_number() && endpoint["obstacle"].is_null(), "{found}");
    }
    assert_eq!(found["last_hour"]["distance"], 0.0, "{found}");
    let text = cli_stdout(&sidecar, &["balance"]);
    assert!(text.contains("75 %") && text.contains("0 % of the attempts went elsewhere"), "{text}");
}

#[test]
fn traffic_that_goes_wrong_calls_for_changes() {
    let failing = Origin::start(Behaviour::status(503, &[]));
    let good = Origin::start(Behaviour::status(200, &[("cache-control", "no-store")]));
    let providers = [("a", &*failing.url(), PLAIN), ("b", &*good.url(), PLAIN)];
    let rest = "routes:\n\
        - { name: vain, match: { path: /vain }, providers: [a], idempotent: always }\n\
        - { name: posts, match: { path: /posts }, providers: [a], fallback: [b] }\n\
        - { name: cached, match: { path: /cached }, providers: [b], cache: c }\n\
        - { name: never, match: { path: /never }, providers: [b] }\n\
        - { name: all, providers: [b] }\n\
        caches: { c: { max_bytes: 1MiB, store: http } }\n"
        .to_owned()
        + GENEROUS;
    let sidecar = single_worker(&policy(&providers, &rest));
    let mut client = sidecar.client();
    for _ in 0..15 {
        assert_eq!(client.send(&Call::get("/vain")).status, 503);
        assert_eq!(client.send(&Call::post("/posts", "x")).status, 503);
    }
    for n in 0..120 {
        assert_eq!(client.send(&Call::get(&format!("/cached?{n}"))).status, 200);
    }
    for _ in 0..400 {
        assert_eq!(client.send(&Call::get("/other")).status, 200);
    }
    let expected = [
        "retry_never_succeeds",
        "fallback_unusable_for_posts",
        "route_never_matched",
        "cache_never_hits",
    ];
    sidecar.wait_until(|sidecar| codes(sidecar) == expected);
    let all = api(&sidecar, "/api/recommendations")["recommendations"].clone();
    assert_eq!(all[0]["subject"], "vain", "{all}");
    for one in all.as_array().expect("a list") {
        assert!(one["source"].as_str().is_some_and(|at| at.contains("policy.yaml:")), "{one}");
    }
    let text = cli_stdout(&sidecar, &["recommendations"]);
    assert!(text.contains("none of 30 retries of route vain after `failure` succeeded"), "{text}");
}

#[test]
fn a_weight_a_timeout_and_a_breaker_that_do_not_suit_are_named() {
    let (good, failing) =
        (Origin::start(Behaviour::Chat), Origin::start(Behaviour::status(503, &[])));
    let silent = Origin::start(Behaviour::Silent);
    let providers = [
        ("good", &*good.url(), PLAIN),
        ("broken", &*failing.url(), "auth: none, breaker: lasting"),
        ("flapping", &*failing.url(), "auth: none, breaker: hasty"),
        ("silent", &*silent.url(), "auth: none, breaker: none, timeouts: { headers: 20s }"),
    ];
    let rest = "routes:\n\
        - { name: weighted, match: { path: /weighted }, idempotent: always, balance: weighted,\n\
            providers: [{ name: good, weight: 1 }, { name: broken, weight: 1 }] }\n\
        - { name: hasty, match: { path: /hasty }, providers: [flapping], retry: none }\n\
        - { name: slow, match: { path: /slow }, providers: [silent], timeout: 50ms }\n\
        breakers:\n  \
          lasting: { failure_threshold: 3, recovery_timeout: 10m, max_recovery_timeout: 10m }\n  \
          hasty: { failure_threshold: 1, recovery_timeout: 10ms, max_recovery_timeout: 10ms }\n"
        .to_owned()
        + GENEROUS;
    let sidecar = single_worker(&policy(&providers, &rest));
    let mut client = sidecar.client();
    for _ in 0..150 {
        assert_eq!(client.send(&Call::post("/weighted", "{}")).status, 200);
    }
    for _ in 0..12 {
        assert_eq!(client.send(&Call::get("/slow")).status, 504);
    }
    let expected = ["weight_not_followed", "timeout_below_p99", "breaker_flapping"];
    sidecar.wait_until(|sidecar| {
        client.send(&Call::post("/hasty", "{}"));
        codes(sidecar) == expected
    });
    let all = api(&sidecar, "/api/recommendations")["recommendations"].clone();
    let subject = |at: usize| all[at]["subject"].as_str().unwrap_or_default();
    assert_eq!((subject(0), subject(1)), ("weighted", "slow"), "{all}");
    assert!(subject(2).starts_with("flapping/"), "{all}");
}

#[test]
fn healthy_traffic_calls_for_nothing() {
    let origin = Origin::start(Behaviour::status(200, &[("cache-control", "max-age=60")]));
    let rest = "routes:\n\
        - { name: cached, match: { path: /cached }, providers: [a], cache: c }\n\
        - { name: all, providers: [a, b], balance: round_robin }\n\
        caches: { c: { max_bytes: 1MiB, store: http } }\n";
    let providers = [("a", &*origin.url(), PLAIN), ("b", &*origin.url(), PLAIN)];
    let sidecar = single_worker(&policy(&providers, rest));
    let mut client = sidecar.client();
    for _ in 0..300 {
        assert_eq!(client.send(&Call::get("/cached")).status, 200);
        assert_eq!(client.send(&Call::post(CHAT, "{}")).status, 200);
    }
    let requests = |sidecar: &Sidecar| {
        let all = api(sidecar, "/api/retry");
        let of = |at: usize| all["routes"][at]["last_hour"]["requests"].as_u64();
        of(0).zip(of(1)).is_some_and(|(a, b)| a + b == 600)
    };
    sidecar.wait_until(requests);
    assert_eq!(codes(&sidecar), [""; 0]);
    let text = cli_stdout(&sidecar, &["recommendations"]);
    assert!(text.starts_with("none"), "{text}");
}
