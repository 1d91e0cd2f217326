//! Modes of degradation as an application sees them: entered and left in time, their actions in
//! order, and each answer that one had a part in marked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, alone, api, chat, is_from, policy, problem, reload, route,
};
use crate::support::{Behaviour, Call, Ending, Origin, Request, Response, Sidecar, Stream};

pub const PLAIN: &str = "auth: none, breaker: none";
const IN_FORCE: &str = r#"outrigger_degradation_active{mode="brownout"}"#;

/// Modes with these bodies, and one route for everything.
pub fn degraded(providers: &[(&str, &str, &str)], more: &str, modes: &[(&str, &str)]) -> String {
    let names: Vec<_> = modes.iter().map(|(name, _)| *name).collect();
    let mut yaml =
        policy(providers, &route(&format!("degrade: [{}], {more}", names.join(", ")))) + GENEROUS;
    yaml.push_str("degradations:\n");
    modes.iter().for_each(|(name, body)| yaml.push_str(&format!("  {name}: {{ {body} }}\n")));
    yaml
}

pub fn mode(sidecar: &Sidecar, name: &str) -> Value {
    let said = api(sidecar, "/api/degradation");
    let modes = said["modes"].as_array().expect("a list of modes").clone();
    modes.into_iter().find(|mode| mode["name"] == name).expect("the mode")
}

pub fn hand(sidecar: &Sidecar, action: &str, name: &str, body: &Value) -> Value {
    let path = format!("/api/degradation/{action}/{name}");
    let (status, text) = sidecar.admin_post(&path, body);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

pub fn marks(response: &Response) -> Option<&str> {
    response.header("outrigger-degraded")
}

/// As long as a hand lasts where nothing is said.
fn about_an_hour(response: &Response) -> bool {
    let seconds = response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    seconds.is_some_and(|seconds| (3_500..=3_600).contains(&seconds))
}

fn sent_json(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

fn is_in_force(sidecar: &Sidecar) -> bool {
    sidecar.metric(IN_FORCE) == Some(1.0)
}

/// Until the mode is in force, or not: how long it took.
fn changes(sidecar: &Sidecar, to: bool) -> Duration {
    let began = Instant::now();
    sidecar.wait_until(|sidecar| is_in_force(sidecar) == to);
    began.elapsed()
}

#[test]
fn a_mode_is_entered_and_left_in_time_when_the_error_rate_climbs_and_falls() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let when = "when: { error_rate: { of: all, above: 0.5, over: 1s, min_requests: 5 } }, \
                for: 500ms, recover_after: 700ms, actions: [ { respond: { status: 418 } } ]";
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", when)]);
    let sidecar = alone(&yaml);
    let mut client = sidecar.client();
    let began = Instant::now();
    // It holds from the fifth on.
    (0..5).for_each(|_| assert_eq!(client.send(&chat()).status, 500));
    let held = Instant::now();
    let mut last = client.send(&chat());
    while last.status == 500 {
        last = client.send(&chat());
    }
    let (since_first, entered) = (began.elapsed(), held.elapsed());
    assert!(since_first >= Duration::from_millis(500), "{since_first:?}");
    assert!(entered <= Duration::from_millis(700), "entered after {entered:?}");
    assert_eq!((last.status, marks(&last)), (418, Some("brownout")));
    origin.set(Behaviour::Chat);
    // Nobody is asked, so there is no error rate once the second is over: `at_most` that plus the rest.
    let left = changes(&sidecar, false);
    let at_most = Duration::from_millis(1_000 + 700 + 200);
    assert!((Duration::from_millis(700)..=at_most).contains(&left), "left after {left:?}");
    let answer = client.send(&chat());
    assert_eq!((answer.status, marks(&answer)), (200, None));
}

#[test]
fn a_stream_that_is_cut_counts_as_bad_for_its_provider_and_its_route() {
    for of in ["a", "all"] {
        let origin = Origin::start(Stream::chat(5).first(3).ending(Ending::Cut));
        let when = format!(
            "when: {{ error_rate: {{ of: {of}, above: 0.9, over: 1m, min_requests: 3 }} }}, \
             for: 0s, actions: [ {{ respond: {{ status: 418 }} }} ]"
        );
        let providers = [("a", &*origin.url(), PLAIN)];
        let sidecar = alone(&degraded(&providers, "providers: [a]", &[("brownout", &when)]));
        (0..3).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
        changes(&sidecar, true);
        assert_eq!(sidecar.send(&chat()).status, 418, "{of}");
    }
}

#[test]
fn an_open_breaker_is_heard_of_at_once() {
    let (a, b) = (Origin::start(Behaviour::RefuseConnections), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), "auth: none"), ("b", &*b.url(), PLAIN)];
    let when = "when: { breaker_open: a }, for: 0s, recover_after: 0s, actions: [ { use: [b] } ]";
    let rest = "breakers: { default: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let yaml = degraded(&providers, "providers: [a]", &[("brownout", when)]) + rest;
    let sidecar = alone(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 502);
    let took = changes(&sidecar, true);
    assert!(took < Duration::from_millis(200), "{took:?}");
    let answer = sidecar.send(&chat());
    assert_eq!((answer.status, marks(&answer)), (200, Some("brownout")));
    assert!(is_from(&answer, &b));
    let standing = mode(&sidecar, "brownout");
    assert_eq!(standing["cause"]["signals"][0]["signal"], "breaker_open a");
    assert_eq!(
        (&standing["impact"]["use"], &standing["impact"]["errors_avoided"]),
        (&json!(1), &json!(1))
    );
    let told = access_record(&sidecar, 2);
    assert_eq!(told["degraded"], json!([{ "mode": "brownout", "action": "use" }]));
    let (status, text) = sidecar.admin_post("/api/circuit-breakers/reset/a", &json!({}));
    assert_eq!(status, 200, "{text}");
    let took = changes(&sidecar, false);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn reductions_apply_one_over_the_other_and_before_the_providers_own() {
    let origin = Origin::start(Behaviour::Chat);
    let provider = format!("{PLAIN}, models: {{ tiny: their-tiny }}");
    let first = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 256, /stream: false }, \
                 remove: [/tools] }, headers: { set: { x-effort: low }, remove: [x-trace] } } ]";
    let second = "when: { manual: true }, actions: [ { models: { small: tiny }, \
                  body: { set: { /max_tokens: 16 } }, path: { from: ^/v1/, to: /v2/ } } ]";
    let modes = [("first", first), ("second", second)];
    let sidecar = alone(&degraded(&[("a", &origin.url(), &provider)], "providers: [a]", &modes));
    let body = json!({ "model": "small", "tools": [1], "max_tokens": 9000 });
    let call = Call::json(&format!("{CHAT}?x=1"), &body).header("x-trace", "1");
    assert_eq!(marks(&sidecar.send(&call)), None);
    hand(&sidecar, "enter", "first", &json!({}));
    assert_eq!(marks(&sidecar.send(&call)), Some("first"));
    let sent = origin.last();
    assert_eq!(sent_json(&sent), json!({ "model": "small", "max_tokens": 256, "stream": false }));
    assert_eq!((sent.headers.get("x-effort"), sent.headers.has("x-trace")), (Some("low"), false));
    hand(&sidecar, "enter", "second", &json!({}));
    assert_eq!(marks(&sidecar.send(&call)), Some("first, second"));
    let sent = origin.last();
    assert_eq!(
        sent_json(&sent),
        json!({ "model": "their-tiny", "max_tokens": 16, "stream": false })
    );
    assert!(sent.path.starts_with("/v2/chat/completions"), "{}", sent.path);
}

#[test]
fn a_body_that_was_not_kept_goes_as_it_came_and_the_log_says_so() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 1 } }, headers: { set: { x-low: a } } } ]";
    let yaml = degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a], replay: 1KiB",
        &[("brownout", when)],
    );
    let sidecar = alone(&yaml);
    hand(&sidecar, "enter", "brownout", &json!({}));
    let body = json!({ "model": "small", "text": "x".repeat(5000) });
    assert_eq!(sidecar.send(&Call::json(CHAT, &body)).status, 200);
    assert_eq!((sent_json(&origin.last()), origin.last().headers.get("x-low")), (body, Some("a")));
    assert_eq!(access_record(&sidecar, 1)["not_reduced"], "body");
}

#[test]
fn a_class_and_those_below_it_are_turned_away_and_the_rest_is_answered() {
    let origin = Origin::start(Behaviour::Chat);
    let modes = [
        ("busy", "when: { manual: true }, recover_after: 7s, actions: [ { shed: normal } ]"),
        (
            "dead",
            "when: { manual: true }, actions: [ { respond: { status: 503, \
             headers: { retry-after: \"{{retry_after}}\", x-mode: \"{{mode}}\" }, \
             json: { id: \"{{request_id}}\", mode: \"{{mode}}\" } } } ]",
        ),
    ];
    let more = "providers: [a], allow_override: [priority]";
    let sidecar = alone(&degraded(&[("a", &origin.url(), PLAIN)], more, &modes));
    let of = |class: &str| chat().header("x-outrigger-priority", class);
    hand(&sidecar, "enter", "busy", &json!({}));
    for class in ["normal", "low"] {
        let shed = sidecar.send(&of(class));
        assert_eq!((problem(&shed).as_str(), shed.status), ("shed", 503), "{class}");
        assert_eq!((marks(&shed), about_an_hour(&shed)), (Some("busy"), true));
    }
    assert_eq!(sidecar.send(&of("high")).status, 200);
    hand(&sidecar, "enter", "dead", &json!({}));
    assert_eq!(problem(&sidecar.send(&of("low"))), "shed", "the first that answers is the answer");
    let answer = sidecar.send(&of("high").header("x-request-id", "a\"b"));
    assert_eq!((answer.status, marks(&answer)), (503, Some("dead")));
    assert_eq!((about_an_hour(&answer), answer.header("x-mode")), (true, Some("dead")));
    assert_eq!(answer.json(), json!({ "id": "a\"b", "mode": "dead" }));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let made = sidecar.send(&of("high")).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(access_record(&sidecar, 6)["request_id"], made.as_str());
    assert_eq!(origin.count(), 1);
    let touched = |mode: &str, action: &str| {
        let labels = format!(r#"{{mode="{mode}",action="{action}"}}"#);
        sidecar.metric(&format!("outrigger_degradation_requests_total{labels}"))
    };
    assert_eq!((touched("busy", "shed"), touched("dead", "respond")), (Some(3.0), Some(2.0)));
}

#[test]
fn providers_of_a_mode_are_asked_in_order_instead_of_the_routes_own() {
    let origins: Vec<_> = (0..3).map(|_| Origin::start(Behaviour::Chat)).collect();
    let urls: Vec<_> = origins.iter().map(Origin::url).collect();
    let providers: Vec<_> =
        ["a", "b", "c"].into_iter().zip(&urls).map(|(name, url)| (name, &**url, PLAIN)).collect();
    let modes = [
        ("first", "when: { manual: true }, actions: [ { use: [a] } ]"),
        ("second", "when: { manual: true }, actions: [ { use: [b, c] } ]"),
    ];
    let sidecar = alone(&degraded(&providers, "providers: [a]", &modes));
    hand(&sidecar, "enter", "first", &json!({}));
    hand(&sidecar, "enter", "second", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &origins[1]), "the last `use` counts");
    origins[1].set(Behaviour::RefuseConnections);
    let answer = sidecar.send(&chat());
    assert!(is_from(&answer, &origins[2]));
    assert_eq!(marks(&answer), Some("second"));
    hand(&sidecar, "leave", "second", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &origins[0]));
    assert_eq!(mode(&sidecar, "second")["in_force"], false);
}

#[test]
fn in_shadow_a_mode_counts_and_does_nothing() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "mode: shadow, when: { manual: true }, actions: [ { respond: { status: 503 } } ]";
    let sidecar =
        alone(&degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", when)]));
    hand(&sidecar, "enter", "brownout", &json!({}));
    let answer = sidecar.send(&chat());
    assert_eq!((answer.status, marks(&answer)), (200, None));
    let standing = mode(&sidecar, "brownout");
    assert_eq!((&standing["mode"], &standing["impact"]["respond"]), (&json!("shadow"), &json!(1)));
}

#[test]
fn an_error_rate_that_dances_around_its_bound_makes_no_mode_flap() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { error_rate: { of: a, above: 0.5, over: 1s, min_requests: 2 } }, \
                for: 300ms, recover_after: 5s, actions: [ { headers: { set: { x-low: a } } } ]";
    let sidecar =
        alone(&degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", when)]));
    let (began, mut client, mut bad) = (Instant::now(), sidecar.client(), false);
    while began.elapsed() < Duration::from_secs(4) {
        let turn = began.elapsed().as_millis() / 600 % 2 == 0;
        if std::mem::replace(&mut bad, turn) != turn {
            origin.set(if bad { Behaviour::status(500, &[]) } else { Behaviour::Chat });
        }
        client.send(&chat());
    }
    let changes = |to: &str| {
        let labels = format!(r#"{{mode="brownout",to="{to}",cause="condition"}}"#);
        sidecar.metric(&format!("outrigger_degradation_transitions_total{labels}"))
    };
    assert_eq!((changes("entered"), changes("left")), (Some(1.0), None));
}

#[test]
fn a_reload_keeps_what_is_in_force_and_leaves_what_the_policy_no_longer_has() {
    let origin = Origin::start(Behaviour::Chat);
    let with = |more: &str, modes: &[(&str, &str)]| {
        degraded(&[("a", &origin.url(), PLAIN)], &format!("providers: [a]{more}"), modes)
    };
    let low = "when: { manual: true }, actions: [ { headers: { set: { x-low: a } } } ]";
    let lower = "when: { manual: true }, actions: [ { headers: { set: { x-low: b } } } ]";
    let both = [("brownout", low), ("other", low)];
    let sidecar = alone(&with("", &both));
    hand(&sidecar, "enter", "brownout", &json!({ "for": "10m", "reason": "a drill" }));
    let since = mode(&sidecar, "brownout")["since"].clone();
    let changed = with(", timeout: 50s", &[("brownout", lower), ("other", low)]);
    reload(&sidecar, || sidecar.write_policy("policy", &changed));
    assert_eq!(marks(&sidecar.send(&chat())), Some("brownout"));
    assert_eq!(origin.last().headers.get("x-low"), Some("b"));
    let standing = mode(&sidecar, "brownout");
    assert_eq!((&standing["since"], &standing["override"]["reason"]), (&since, &json!("a drill")));
    reload(&sidecar, || sidecar.write_policy("policy", &with("", &[("other", low)])));
    assert_eq!(marks(&sidecar.send(&chat())), None);
    sidecar
        .wait_until(|sidecar| api(sidecar, "/api/degradation")["episodes"][0]["ended"].is_string());
    let episode = api(&sidecar, "/api/degradation")["episodes"][0].clone();
    assert_eq!(
        (&episode["ended_by"], &episode["impact"]["reduce"]),
        (&json!("removed"), &json!(1))
    );
    reload(&sidecar, || sidecar.write_policy("policy", &with("", &both)));
    assert_eq!(mode(&sidecar, "brownout")["in_force"], false);
}

#[test]
fn where_all_providers_are_dead_the_answer_of_a_mode_comes_at_once() {
    let origin = Origin::start(Behaviour::RefuseConnections);
    let when = "when: { breaker_open: a }, for: 0s, recover_after: 30s, \
                actions: [ { respond: { status: 503, headers: { retry-after: \"{{retry_after}}\" }, \
                json: { message: later } } } ]";
    let rest = "breakers: { default: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), "auth: none")], "providers: [a]", &[("brownout", when)]);
    let sidecar = alone(&(yaml + rest));
    assert_eq!(sidecar.send(&chat()).status, 502);
    changes(&sidecar, true);
    let mut client = sidecar.client();
    let times = (0..200).map(|_| {
        let began = Instant::now();
        let answer = client.send(&chat());
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("30")));
        began.elapsed()
    });
    let mut times: Vec<_> = times.collect();
    times.sort();
    assert!(times[197] < Duration::from_millis(5), "99 of 100 within {:?}", times[197]);
}

#[test]
fn a_reload_that_brings_the_first_mode_is_heard_of() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let providers = [("a", &*origin.url(), PLAIN)];
    let sidecar = alone(&(policy(&providers, &route("providers: [a]")) + GENEROUS));
    assert_eq!(sidecar.send(&chat()).status, 500);
    let when = "when: { error_rate: { of: a, above: 0.5, over: 10s, min_requests: 1 } }, for: 0s, \
                actions: [ { respond: { status: 418 } } ]";
    let changed = degraded(&providers, "providers: [a]", &[("brownout", when)]);
    reload(&sidecar, || sidecar.write_policy("policy", &changed));
    assert_eq!(sidecar.send(&chat()).status, 500);
    changes(&sidecar, true);
    assert_eq!(sidecar.send(&chat()).status, 418);
}

#[test]
fn a_mode_serves_stale_what_the_cache_has_and_the_next_action_answers_the_rest() {
    let origin = Origin::start(Behaviour::Chat);
    let actions =
        "[ { serve_stale: 1h }, { respond: { status: 503, json: { mode: \"{{mode}}\" } } } ]";
    let when = format!("when: {{ manual: true }}, actions: {actions}");
    let cache =
        "caches: { c: { store: { ttl: 1ms }, stale_if_error: 0s, stale_while_revalidate: 0s } }\n";
    let yaml = degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a], cache: c",
        &[("brownout", when.as_str())],
    ) + cache;
    let sidecar = alone(&yaml);
    let first = sidecar.send(&chat());
    hand(&sidecar, "enter", "brownout", &json!({}));
    // Within its millisecond it is fresh, and no mode is asked.
    let mut answer = sidecar.send(&chat());
    while marks(&answer).is_none() {
        answer = sidecar.send(&chat());
    }
    assert_eq!((answer.status, answer.text()), (200, first.text()));
    assert_eq!(marks(&answer), Some("brownout"));
    let told = answer.header("cache-status").expect("it tells what the cache did");
    assert!(told.ends_with("; detail=degraded") && answer.header("age").is_some(), "{told}");
    let rest = sidecar.send(&Call::json(CHAT, &json!({ "model": "m", "messages": ["new"] })));
    assert_eq!((rest.status, rest.text().as_ref()), (503, r#"{"mode":"brownout"}"#));
    assert_eq!(origin.count(), 1);
    let impact = mode(&sidecar, "brownout")["impact"].clone();
    assert_eq!((&impact["serve_stale"], &impact["respond"]), (&json!(1), &json!(1)));
}

#[test]
fn what_a_mode_has_made_smaller_is_not_kept_for_later() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 16 } } } ]";
    let cache = "caches: { c: { store: { ttl: 1h } } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), PLAIN)], "providers: [a], cache: c", &[("brownout", when)])
            + cache;
    let sidecar = alone(&yaml);
    hand(&sidecar, "enter", "brownout", &json!({}));
    let small = sidecar.send(&chat());
    assert_eq!((small.status, marks(&small)), (200, Some("brownout")));
    hand(&sidecar, "leave", "brownout", &json!({}));
    for (count, told) in [(2, "outrigger; fwd=uri-miss; stored"), (2, "outrigger; hit; ttl=")] {
        let answer = sidecar.send(&chat());
        assert_eq!((marks(&answer), origin.count()), (None, count));
        assert!(answer.header("cache-status").is_some_and(|text| text.starts_with(told)));
    }
    assert_eq!(sent_json(&origin.last()).get("max_tokens"), None);
    // What is kept is better than what is made smaller.
    hand(&sidecar, "enter", "brownout", &json!({}));
    assert_eq!((marks(&sidecar.send(&chat())), origin.count()), (None, 2));
}

#[test]
fn what_is_served_stale_is_whole_for_who_asks_without_conditions() {
    let headers = [("cache-control", "max-age=0"), ("etag", "\"one\"")];
    let origin = Origin::start(Behaviour::status(200, &headers));
    let when = "when: { manual: true }, actions: [ { serve_stale: 1h } ]";
    let cache = "caches: { c: { store: http, stale_while_revalidate: 0s } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), PLAIN)], "providers: [a], cache: c", &[("brownout", when)])
            + cache;
    let sidecar = alone(&yaml);
    let first = sidecar.send(&Call::get("/page"));
    hand(&sidecar, "enter", "brownout", &json!({}));
    let answer = sidecar.send(&Call::get("/page"));
    assert_eq!((answer.status, answer.text()), (200, first.text()));
    assert_eq!((marks(&answer), origin.count()), (Some("brownout"), 1));
    let known = sidecar.send(&Call::get("/page").header("if-none-match", "\"one\""));
    assert_eq!((known.status, known.text().as_ref()), (304, ""));
    let other = sidecar.send(&Call::get("/page").header("if-none-match", "\"old\""));
    assert_eq!((other.status, other.text()), (200, first.text()));
    assert_eq!(origin.count(), 1);
}
