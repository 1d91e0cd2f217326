//! Quota headers and 429s speak of one credential and one model; other credentials and models are
//! served meanwhile.

use std::thread;
use std::time::{Duration, SystemTime};

use crate::fixtures::{
    CHAT, GENEROUS, api, chat, chat_for, cli_stdout, is_from, policy, problem_type, route,
    single_worker,
};
use crate::support::{Behaviour, Call, Gate, Origin, Sidecar};

/// Nothing is left for 50 minutes.
const USED_UP: [(&str, &str); 3] = [
    ("x-ratelimit-limit-requests", "1"),
    ("x-ratelimit-remaining-requests", "0"),
    ("x-ratelimit-reset-requests", "50m"),
];
/// The same in other forms.
const FORMS: [&[(&str, &str)]; 6] = [
    &USED_UP,
    &[
        ("anthropic-ratelimit-requests-limit", "1"),
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-requests-reset", "2999-01-01T00:00:00Z"),
    ],
    &[("x-ratelimit-limit", "1"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3000")],
    &[("ratelimit-limit", "1"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "3000")],
    &[("ratelimit", "limit=1, remaining=0, reset=3000")],
    &[("ratelimit", "\"a\";r=0;t=3000"), ("ratelimit-policy", "\"a\";q=1;w=3600")],
];
const QUICK: &str = "providers: [a], timeout: 300ms, retry: none";
const TWO_KEYS: &str = r#"auth: { bearer: ["${env:KEY_A}", "${env:KEY_B}"] }"#;
const DEPLOYMENT: &str = "/openai/deployments";

/// Requests whose body or path contains `part` get the first behaviour, others a completion.
fn if_sent(part: &'static str, then: Behaviour) -> Origin {
    Origin::start(Behaviour::custom(move |request| {
        let text = format!("{} {}", request.path, String::from_utf8_lossy(&request.body));
        if text.contains(part) { then.clone() } else { Behaviour::Chat }
    }))
}

fn throttled(retry_after: &str) -> Behaviour {
    Behaviour::status(429, &[("retry-after", retry_after)])
}

fn start(origin: &Origin, provider: &str, rest: &str) -> Sidecar {
    let yaml = policy(&[("a", &origin.url(), provider)], rest);
    let builder = Sidecar::builder().policy("policy", &yaml).workers(1);
    builder.env("KEY_A", "first").env("KEY_B", "second").start()
}

fn keys_used(origin: &Origin) -> Vec<String> {
    let key = |headers: &crate::support::Headers| headers.get("authorization").map(str::to_owned);
    origin.requests().iter().filter_map(|request| key(&request.headers)).collect()
}

fn held(sidecar: &Sidecar) -> Vec<String> {
    let list = api(sidecar, "/api/circuit-breakers")["held"].clone();
    let keys = list.as_array().expect("a list").iter();
    keys.map(|held| held["key"].as_str().expect("a key").to_owned()).collect()
}

#[test]
fn one_model_out_of_quota_does_not_stop_another() {
    for form in FORMS {
        let a = if_sent("big", Behaviour::status(200, form));
        let sidecar = start(&a, "auth: none", &route(QUICK));
        assert_eq!(sidecar.send(&chat_for("big")).status, 200);
        let refused = sidecar.send(&chat_for("big"));
        assert_eq!(problem_type(&refused), "rate-limited", "{form:?}");
        assert!(refused.text().contains("quota headers"), "{}", refused.text());
        (0..5).for_each(|_| assert_eq!(sidecar.send(&chat_for("small")).status, 200, "{form:?}"));
        assert_eq!(a.count(), 6, "{form:?}");
        let used = sidecar.metric(r#"outrigger_rate_limit_used{provider="a",of="requests"}"#);
        assert!(used.is_some_and(|used| used > 0.99), "the largest share: {used:?}, {form:?}");
    }
}

#[test]
fn one_key_out_of_quota_moves_to_the_other_key() {
    for named in [true, false] {
        let a = Origin::start(Behaviour::custom(|request| {
            match request.headers.get("authorization") {
                Some("Bearer first") => Behaviour::status(200, &USED_UP),
                _ => Behaviour::Chat,
            }
        }));
        let sidecar = start(&a, TWO_KEYS, &route(QUICK));
        let call = if named { chat() } else { Call::post(CHAT, "{}") };
        (0..8).for_each(|_| assert_eq!(sidecar.send(&call).status, 200, "model: {named}"));
        let keys = keys_used(&a);
        let first = keys.iter().filter(|key| *key == "Bearer first").count();
        assert_eq!((first, keys.len()), (1, 8), "model: {named}");
    }
}

#[test]
fn a_429_for_one_model_holds_only_that_model_at_that_key() {
    for scope in ["endpoint", "model"] {
        let a = if_sent("big", throttled("100"));
        let rest = route(QUICK) + &format!("breakers: {{ default: {{ scope: {scope} }} }}\n");
        let sidecar = start(&a, TWO_KEYS, &rest);
        for _ in 0..2 {
            assert_eq!(sidecar.send(&chat_for("big")).status, 429, "{scope}");
        }
        assert_eq!(problem_type(&sidecar.send(&chat_for("big"))), "held", "{scope}");
        (0..6).for_each(|_| assert_eq!(sidecar.send(&chat_for("small")).status, 200, "{scope}"));
        let keys = keys_used(&a);
        let first = keys[2..].iter().filter(|key| *key == "Bearer first").count();
        assert_eq!((first, keys.len()), (3, 8), "both keys serve the other model: {scope}");
        let shown = held(&sidecar);
        assert!(shown.len() == 2 && shown[0].ends_with("/env:KEY_A/big"), "{shown:?}");
    }
}

#[test]
fn an_operator_sees_which_model_an_endpoint_is_held_for() {
    let a = if_sent("big", throttled("100"));
    let sidecar = start(&a, "auth: none", &route(QUICK));
    assert_eq!(sidecar.send(&chat_for("big")).status, 429);
    let state = |query: &str| {
        let path = format!("/api/selection?method=POST&url=/v1/x{query}");
        api(&sidecar, &path)["route"]["endpoints"][0]["state"].clone()
    };
    assert_eq!(state("&model=big"), "held");
    assert_eq!(state("/models/big:generate"), "held");
    assert_eq!(state("&model=small"), "selected");
    let status = api(&sidecar, "/api/status");
    let endpoint = &status["providers"][0]["endpoints"][0];
    assert_eq!(endpoint["obstacle"], "models on hold: 1", "{status}");
}

#[test]
fn a_path_names_the_model_that_a_429_holds() {
    let a = if_sent("/big/", throttled("100"));
    let sidecar = start(&a, "auth: none", &route(QUICK));
    let call = |model: &str| Call::post(&format!("{DEPLOYMENT}/{model}/chat/completions"), "{}");
    assert_eq!(sidecar.send(&call("big")).status, 429);
    assert_eq!(problem_type(&sidecar.send(&call("big"))), "held");
    assert_eq!(sidecar.send(&call("small")).status, 200);
}

#[test]
fn a_429_to_a_request_without_a_model_holds_the_key_for_all() {
    let a = Origin::script([throttled("100"), Behaviour::Chat]);
    let sidecar = start(&a, "auth: none", &route(QUICK));
    assert_eq!(sidecar.send(&Call::post(CHAT, "{}")).status, 429);
    assert_eq!(problem_type(&sidecar.send(&chat_for("small"))), "held");
    assert_eq!(a.count(), 1);
}

#[test]
fn a_rejected_key_is_held_for_all_models() {
    let a =
        Origin::start(Behaviour::custom(|request| match request.headers.get("authorization") {
            Some("Bearer first") => Behaviour::status(401, &[]),
            _ => Behaviour::Chat,
        }));
    let sidecar = start(&a, TWO_KEYS, &(route("providers: [a]") + GENEROUS));
    for model in ["big", "small", "other", "big"] {
        assert_eq!(sidecar.send(&chat_for(model)).status, 200);
    }
    assert_eq!(keys_used(&a).iter().filter(|key| *key == "Bearer first").count(), 1);
    assert!(held(&sidecar)[0].ends_with("/env:KEY_A"), "{:?}", held(&sidecar));
}

#[test]
fn a_daily_quota_of_one_model_does_not_hold_the_key_for_others() {
    let quota = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel"}]}]}}"#;
    let json = vec![("content-type".to_owned(), "application/json".to_owned())];
    let (a, b) = (
        if_sent("big", Behaviour::Status(429, json, quota.to_owned())),
        Origin::start(Behaviour::Chat),
    );
    let key = r#"auth: { bearer: "${env:PATH}" }"#;
    let providers = [("a", &*a.url(), key), ("b", &*b.url(), "auth: none")];
    let rest = route("providers: [a], fallback: [b]") + GENEROUS;
    let sidecar = single_worker(&policy(&providers, &rest));
    (0..5).for_each(|_| assert!(is_from(&sidecar.send(&chat_for("big")), &b)));
    assert_eq!(a.count(), 3, "held after three in a row");
    (0..3).for_each(|_| assert!(is_from(&sidecar.send(&chat_for("small")), &a)));
    assert!(held(&sidecar)[0].ends_with("/env:PATH/big"), "{:?}", held(&sidecar));
}

#[test]
fn a_fallback_takes_only_the_model_that_is_held() {
    let (a, b) = (if_sent("big", throttled("100")), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), "auth: none"), ("b", &*b.url(), "auth: none")];
    let rest = route("providers: [a], fallback: [b]") + GENEROUS;
    let sidecar = single_worker(&policy(&providers, &rest));
    for _ in 0..3 {
        assert!(is_from(&sidecar.send(&chat_for("big")), &b));
        assert!(is_from(&sidecar.send(&chat_for("small")), &a));
    }
    assert_eq!((a.count(), b.count()), (4, 3));
}

#[test]
fn a_throttled_model_does_not_turn_the_balancer_against_its_endpoint() {
    let (a, b) = (if_sent("big", throttled("100")), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), "auth: none"), ("b", &*b.url(), "auth: none")];
    let sidecar = single_worker(&policy(&providers, &(route("providers: [a, b]") + GENEROUS)));
    (0..20).for_each(|_| assert_eq!(sidecar.send(&chat_for("small")).status, 200));
    sidecar.wait_until(|sidecar| {
        sidecar.send(&chat_for("big"));
        !held(sidecar).is_empty()
    });
    let before = a.count();
    (0..20).for_each(|_| assert_eq!(sidecar.send(&chat_for("small")).status, 200));
    assert!(a.count() > before, "none of 20 requests for another model");
}

#[test]
fn a_queued_request_for_another_model_passes_those_that_are_held() {
    let gate = Gate::closed();
    let a = if_sent("big", throttled("100").held(&gate));
    let provider = "auth: none, capacity: { concurrency: 1 }";
    let rest = route("providers: [a], retry: none, timeout: 20s");
    let sidecar = start(&a, provider, &rest);
    thread::scope(|scope| {
        let first = scope.spawn(|| sidecar.send(&chat_for("big")).status);
        a.wait_for_requests(1);
        let waiting = |sidecar: &Sidecar| {
            sidecar.metric(r#"outrigger_waiting_requests{provider="a"}"#).unwrap_or(0.0)
        };
        // They wait in one order before anything is known about their models.
        let second = scope.spawn(|| sidecar.send(&chat_for("big")).status);
        sidecar.wait_until(|sidecar| waiting(sidecar) == 1.0);
        let third = scope.spawn(|| sidecar.send(&chat_for("small")).status);
        sidecar.wait_until(|sidecar| waiting(sidecar) == 2.0);
        gate.open_wide();
        assert_eq!(first.join().expect("a status"), 429);
        assert_eq!(third.join().expect("a status"), 200, "it is not held");
        assert_eq!(second.join().expect("a status"), 503);
    });
    assert_eq!(a.count(), 2);
}

#[test]
fn models_past_the_first_64_share_their_hold() {
    let a = if_sent("big", throttled("100"));
    let sidecar = start(&a, "auth: none", &route(QUICK));
    for n in 0..64 {
        assert_eq!(sidecar.send(&chat_for(&format!("big-{n}"))).status, 429);
    }
    assert_eq!(sidecar.send(&chat_for("small")).status, 200);
    assert_eq!(sidecar.send(&chat_for("big-64")).status, 429);
    assert_eq!(problem_type(&sidecar.send(&chat_for("small"))), "held", "it has no own state");
    let shown = held(&sidecar);
    assert!(shown.len() == 65 && shown[0].ends_with("/-/*"), "{shown:?}");
    let long = format!("big{}", "x".repeat(200));
    assert_eq!(problem_type(&sidecar.send(&chat_for(&long))), "held");
}

#[test]
fn a_reset_ends_the_hold_of_one_model_or_of_its_key() {
    for by in ["a", "a/main/big", "a/main/-/big", "a/main/-"] {
        let a = if_sent("big", throttled("100"));
        let yaml = format!(
            "version: 1\nproviders: {{ a: {{ auth: none, endpoints: [ {{ name: main, url: \"{}\" }} ] }} }}\n{}",
            a.url(),
            route(QUICK)
        );
        let sidecar = single_worker(&yaml);
        for model in ["big", "bigger"] {
            assert_eq!(sidecar.send(&chat_for(model)).status, 429);
        }
        assert_eq!(held(&sidecar), ["a/main/-/big", "a/main/-/bigger"]);
        cli_stdout(&sidecar, &["breakers", "reset", by]);
        let rest: &[&str] = if by.ends_with("/big") { &["a/main/-/bigger"] } else { &[] };
        assert_eq!(held(&sidecar), rest, "{by}");
        assert_eq!(sidecar.send(&chat_for("big")).status, 429, "it is sent: {by}");
    }
}

#[test]
fn quotas_that_headers_reported_survive_a_reload_unless_it_ignores_them() {
    let a = if_sent("big", Behaviour::status(200, &USED_UP));
    let yaml = |capacity: &str| {
        let provider = format!("auth: none, {capacity}");
        policy(&[("a", &a.url(), &provider)], &route(QUICK))
    };
    let sidecar = single_worker(&yaml("capacity: { concurrency: 9 }"));
    assert_eq!(sidecar.send(&chat_for("big")).status, 200);
    for (capacity, status) in [("concurrency: 8", 503), ("follow_headers: false", 200)] {
        let change = yaml(&format!("capacity: {{ {capacity} }}"));
        crate::fixtures::reload(&sidecar, || sidecar.write_policy("policy", &change));
        assert_eq!(sidecar.send(&chat_for("big")).status, status, "{capacity}");
    }
}

#[test]
fn a_date_in_quota_headers_counts_from_the_date_of_its_response() {
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    // The provider's clock is an hour behind, and by ours the reset is over.
    let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3_600));
    let reset = (now - 3_600 + 100).to_string();
    let headers = [
        ("date", &*date),
        ("x-ratelimit-limit", "10"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", &*reset),
    ];
    let a = Origin::start(Behaviour::status(200, &headers));
    let sidecar = start(&a, "auth: none", &route(QUICK));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let refused = sidecar.send(&chat());
    assert_eq!(problem_type(&refused), "rate-limited");
    let wait: u64 = refused.header("retry-after").and_then(|s| s.parse().ok()).unwrap_or(0);
    assert!((80..=100).contains(&wait), "{wait}");
    assert_eq!(a.count(), 1);
}
