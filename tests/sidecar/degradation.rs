//! Degradation modes as seen by an application: entered and left in time, with actions applied in
//! order, and each affected response carrying a header.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, api, chat, is_from, policy, post_admin, problem_type, reload,
    route, single_worker,
};
use crate::support::{Behaviour, Call, Ending, Gate, Origin, Request, Response, Sidecar, Stream};

pub const PLAIN: &str = "auth: none, breaker: none";
const ACTIVE: &str = r#"outrigger_degradation_active{mode="brownout"}"#;

/// A policy with these modes and one route for everything.
pub fn degraded(providers: &[(&str, &str, &str)], more: &str, modes: &[(&str, &str)]) -> String {
    let names: Vec<_> = modes.iter().map(|(name, _)| *name).collect();
    let mut yaml =
        policy(providers, &route(&format!("degrade: [{}], {more}", names.join(", ")))) + GENEROUS;
    yaml.push_str("degradations:\n");
    modes.iter().for_each(|(name, body)| yaml.push_str(&format!("  {name}: {{ {body} }}\n")));
    yaml
}

pub fn mode(sidecar: &Sidecar, name: &str) -> Value {
    let document = api(sidecar, "/api/degradation");
    let modes = document["modes"].as_array().expect("a list of modes").clone();
    modes.into_iter().find(|mode| mode["name"] == name).expect("the mode")
}

pub fn post_mode(sidecar: &Sidecar, action: &str, name: &str, body: &Value) -> Value {
    post_admin(sidecar, &format!("/api/degradation/{action}/{name}"), body)
}

pub fn degraded_header(response: &Response) -> Option<&str> {
    response.header("outrigger-degraded")
}

/// An hour is the default duration of a manual override.
fn retries_in_about_an_hour(response: &Response) -> bool {
    let seconds = response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    seconds.is_some_and(|seconds| (3_500..=3_600).contains(&seconds))
}

fn sent_json(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

fn is_active(sidecar: &Sidecar) -> bool {
    sidecar.metric(ACTIVE) == Some(1.0)
}

/// Waits until the mode is active (or not) and returns the time it took.
fn wait_for_active(sidecar: &Sidecar, to: bool) -> Duration {
    let began = Instant::now();
    sidecar.wait_until(|sidecar| is_active(sidecar) == to);
    began.elapsed()
}

#[test]
fn a_mode_is_entered_and_left_in_time_as_the_error_rate_changes() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let when = "when: { error_rate: { of: all, above: 0.5, over: 1s, min_requests: 5 } }, \
                for: 500ms, recover_after: 700ms, actions: [ { respond: { status: 418 } } ]";
    let yaml = degraded(&[("a", &origin.url(), PLAIN)], "providers: [a]", &[("brownout", when)]);
    let sidecar = single_worker(&yaml);
    let mut client = sidecar.client();
    let began = Instant::now();
    // The condition holds from the fifth request on.
    (0..5).for_each(|_| assert_eq!(client.send(&chat()).status, 500));
    let condition_held = Instant::now();
    let mut last = client.send(&chat());
    while last.status == 500 {
        last = client.send(&chat());
    }
    let (since_first, entered) = (began.elapsed(), condition_held.elapsed());
    assert!(since_first >= Duration::from_millis(500), "{since_first:?}");
    assert!(entered <= Duration::from_millis(700), "entered after {entered:?}");
    assert_eq!((last.status, degraded_header(&last)), (418, Some("brownout")));
    origin.set(Behaviour::Chat);
    // No request is sent, so after one second there is no error rate. `recover_after` follows.
    let left = wait_for_active(&sidecar, false);
    let at_most = Duration::from_millis(1_000 + 700 + 200);
    assert!((Duration::from_millis(700)..=at_most).contains(&left), "left after {left:?}");
    let response = client.send(&chat());
    assert_eq!((response.status, degraded_header(&response)), (200, None));
}

#[test]
fn an_interrupted_stream_is_an_error_of_its_provider_and_its_route() {
    for of_class in ["a", "all"] {
        let origin = Origin::start(Stream::chat(5).first(3).ending(Ending::Cut));
        let when = format!(
            "when: {{ error_rate: {{ of: {of_class}, above: 0.9, over: 1m, min_requests: 3 }} }}, \
             for: 0s, actions: [ {{ respond: {{ status: 418 }} }} ]"
        );
        let providers = [("a", &*origin.url(), PLAIN)];
        let sidecar =
            single_worker(&degraded(&providers, "providers: [a]", &[("brownout", &when)]));
        (0..3).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
        wait_for_active(&sidecar, true);
        assert_eq!(sidecar.send(&chat()).status, 418, "{of_class}");
    }
}

#[test]
fn an_open_breaker_enters_a_mode_at_once() {
    let (a, b) = (Origin::start(Behaviour::RefuseConnections), Origin::start(Behaviour::Chat));
    let providers = [("a", &*a.url(), "auth: none"), ("b", &*b.url(), PLAIN)];
    let when = "when: { breaker_open: a }, for: 0s, recover_after: 0s, actions: [ { use: [b] } ]";
    let rest = "breakers: { default: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let yaml = degraded(&providers, "providers: [a]", &[("brownout", when)]) + rest;
    let sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 502);
    let took = wait_for_active(&sidecar, true);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let response = sidecar.send(&chat());
    assert_eq!((response.status, degraded_header(&response)), (200, Some("brownout")));
    assert!(is_from(&response, &b));
    let state = mode(&sidecar, "brownout");
    assert_eq!(state["cause"]["signals"][0]["signal"], "breaker_open a");
    assert_eq!(
        (&state["impact"]["use"], &state["impact"]["errors_avoided"]),
        (&json!(1), &json!(1))
    );
    let cache_status_header = access_record(&sidecar, 2);
    assert_eq!(cache_status_header["degraded"], json!([{ "mode": "brownout", "action": "use" }]));
    let (status, text) = sidecar.admin_post("/api/circuit-breakers/reset/a", &json!({}));
    assert_eq!(status, 200, "{text}");
    let took = wait_for_active(&sidecar, false);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_mode_that_was_left_is_not_entered_again_by_a_probe() {
    let gate = Gate::closed();
    let failing = Behaviour::status(500, &[]);
    let a = Origin::script([failing, Behaviour::Chat.held(&gate), Behaviour::Chat]);
    let open = "when: { breaker_open: a }, for: 0s, recover_after: 0s, \
                actions: [ { respond: { status: 418 } } ]";
    // In force once the conditions were evaluated with the probe in flight.
    let busy = "when: { capacity_used: { of: a, above: 0.1% } }, for: 0s, recover_after: 0s, \
                actions: [ { headers: { set: { x-busy: \"1\" } } } ]";
    let providers = [("a", &*a.url(), "auth: none, capacity: { concurrency: 100 }")];
    let modes = [("brownout", open), ("busy", busy)];
    let rest = "breakers: { default: { failure_threshold: 1, recovery_timeout: 100ms } }\n";
    let yaml = degraded(&providers, "providers: [a], retry: none", &modes) + rest;
    let sidecar = single_worker(&yaml);
    assert_eq!(sidecar.send(&chat()).status, 500);
    wait_for_active(&sidecar, true);
    assert_eq!(sidecar.send(&chat()).status, 418);
    wait_for_active(&sidecar, false);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| sidecar.send(&chat()));
        let is_busy = r#"outrigger_degradation_active{mode="busy"}"#;
        sidecar.wait_until(|sidecar| sidecar.metric(is_busy) == Some(1.0));
        gate.open_wide();
        assert_eq!(probe.join().expect("a response").status, 200);
    });
    assert_eq!(sidecar.send(&chat()).status, 200);
    let entered = api(&sidecar, "/api/degradation")["episodes"].clone();
    let entered = entered.as_array().expect("episodes").iter().filter(|e| e["mode"] == "brownout");
    assert_eq!(entered.count(), 1);
}

#[test]
fn reductions_of_modes_combine_and_apply_before_those_of_the_provider() {
    let origin = Origin::start(Behaviour::Chat);
    let provider = format!("{PLAIN}, models: {{ tiny: their-tiny }}");
    let first = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 256, /stream: false }, \
                 remove: [/tools] }, headers: { set: { x-effort: low }, remove: [x-trace] } } ]";
    let second = "when: { manual: true }, actions: [ { models: { small: tiny }, \
                  body: { set: { /max_tokens: 16 } }, path: { from: ^/v1/, to: /v2/ } } ]";
    let modes = [("first", first), ("second", second)];
    let sidecar =
        single_worker(&degraded(&[("a", &origin.url(), &provider)], "providers: [a]", &modes));
    let body = json!({ "model": "small", "tools": [1], "max_tokens": 9000 });
    let call = Call::json(&format!("{CHAT}?x=1"), &body).header("x-trace", "1");
    assert_eq!(degraded_header(&sidecar.send(&call)), None);
    post_mode(&sidecar, "enter", "first", &json!({}));
    assert_eq!(degraded_header(&sidecar.send(&call)), Some("first"));
    let sent = origin.last();
    assert_eq!(sent_json(&sent), json!({ "model": "small", "max_tokens": 256, "stream": false }));
    assert_eq!((sent.headers.get("x-effort"), sent.headers.has("x-trace")), (Some("low"), false));
    post_mode(&sidecar, "enter", "second", &json!({}));
    assert_eq!(degraded_header(&sidecar.send(&call)), Some("first, second"));
    let sent = origin.last();
    assert_eq!(
        sent_json(&sent),
        json!({ "model": "their-tiny", "max_tokens": 16, "stream": false })
    );
    assert!(sent.path.starts_with("/v2/chat/completions"), "{}", sent.path);
}

#[test]
fn a_body_that_is_not_buffered_is_not_reduced_and_the_log_says_so() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 1 } }, headers: { set: { x-low: a } } } ]";
    let yaml = degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a], replay: 1KiB",
        &[("brownout", when)],
    );
    let sidecar = single_worker(&yaml);
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    let body = json!({ "model": "small", "text": "x".repeat(5000) });
    assert_eq!(sidecar.send(&Call::json(CHAT, &body)).status, 200);
    assert_eq!((sent_json(&origin.last()), origin.last().headers.get("x-low")), (body, Some("a")));
    assert_eq!(access_record(&sidecar, 1)["not_reduced"], "body");
}

#[test]
fn shedding_rejects_a_class_and_lower_ones_and_respond_handles_the_rest() {
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
    let sidecar = single_worker(&degraded(&[("a", &origin.url(), PLAIN)], more, &modes));
    let of_class = |class: &str| chat().header("x-outrigger-priority", class);
    post_mode(&sidecar, "enter", "busy", &json!({}));
    for class in ["normal", "low"] {
        let shed = sidecar.send(&of_class(class));
        assert_eq!((problem_type(&shed).as_str(), shed.status), ("shed", 503), "{class}");
        assert_eq!((degraded_header(&shed), retries_in_about_an_hour(&shed)), (Some("busy"), true));
    }
    assert_eq!(sidecar.send(&of_class("high")).status, 200);
    post_mode(&sidecar, "enter", "dead", &json!({}));
    assert_eq!(
        problem_type(&sidecar.send(&of_class("low"))),
        "shed",
        "the first mode that responds wins"
    );
    let response = sidecar.send(&of_class("high").header("x-request-id", "a\"b"));
    assert_eq!((response.status, degraded_header(&response)), (503, Some("dead")));
    assert_eq!(
        (retries_in_about_an_hour(&response), response.header("x-mode")),
        (true, Some("dead"))
    );
    assert_eq!(response.json(), json!({ "id": "a\"b", "mode": "dead" }));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let made = sidecar.send(&of_class("high")).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(access_record(&sidecar, 6)["request_id"], made.as_str());
    assert_eq!(origin.count(), 1);
    let requests_by = |mode: &str, action: &str| {
        let labels = format!(r#"{{mode="{mode}",action="{action}"}}"#);
        sidecar.metric(&format!("outrigger_degradation_requests_total{labels}"))
    };
    assert_eq!(
        (requests_by("busy", "shed"), requests_by("dead", "respond")),
        (Some(3.0), Some(2.0))
    );
}

#[test]
fn providers_of_a_mode_replace_those_of_the_route_in_order() {
    let origins: Vec<_> = (0..3).map(|_| Origin::start(Behaviour::Chat)).collect();
    let urls: Vec<_> = origins.iter().map(Origin::url).collect();
    let providers: Vec<_> =
        ["a", "b", "c"].into_iter().zip(&urls).map(|(name, url)| (name, &**url, PLAIN)).collect();
    let modes = [
        ("first", "when: { manual: true }, actions: [ { use: [a] } ]"),
        ("second", "when: { manual: true }, actions: [ { use: [b, c] } ]"),
    ];
    let sidecar = single_worker(&degraded(&providers, "providers: [a]", &modes));
    post_mode(&sidecar, "enter", "first", &json!({}));
    post_mode(&sidecar, "enter", "second", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &origins[1]), "the last `use` counts");
    origins[1].set(Behaviour::RefuseConnections);
    let response = sidecar.send(&chat());
    assert!(is_from(&response, &origins[2]));
    assert_eq!(degraded_header(&response), Some("second"));
    post_mode(&sidecar, "leave", "second", &json!({}));
    assert!(is_from(&sidecar.send(&chat()), &origins[0]));
    assert_eq!(mode(&sidecar, "second")["in_force"], false);
}

#[test]
fn a_mode_in_shadow_counts_and_does_nothing() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "mode: shadow, when: { manual: true }, actions: [ { respond: { status: 503 } } ]";
    let sidecar = single_worker(&degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a]",
        &[("brownout", when)],
    ));
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    let response = sidecar.send(&chat());
    assert_eq!((response.status, degraded_header(&response)), (200, None));
    let state = mode(&sidecar, "brownout");
    assert_eq!((&state["mode"], &state["impact"]["respond"]), (&json!("shadow"), &json!(1)));
}

#[test]
fn a_mode_does_not_flap_when_the_error_rate_oscillates_around_its_limit() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { error_rate: { of: a, above: 0.5, over: 1s, min_requests: 2 } }, \
                for: 300ms, recover_after: 5s, actions: [ { headers: { set: { x-low: a } } } ]";
    let sidecar = single_worker(&degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a]",
        &[("brownout", when)],
    ));
    let (began, mut client, mut was_failing) = (Instant::now(), sidecar.client(), false);
    while began.elapsed() < Duration::from_secs(4) {
        let failing = began.elapsed().as_millis() / 600 % 2 == 0;
        if std::mem::replace(&mut was_failing, failing) != failing {
            origin.set(if was_failing { Behaviour::status(500, &[]) } else { Behaviour::Chat });
        }
        client.send(&chat());
    }
    let transitions = |to: &str| {
        let labels = format!(r#"{{mode="brownout",to="{to}",cause="condition"}}"#);
        sidecar.metric(&format!("outrigger_degradation_transitions_total{labels}"))
    };
    assert_eq!((transitions("entered"), transitions("left")), (Some(1.0), None));
}

#[test]
fn a_reload_keeps_active_modes_and_leaves_removed_ones() {
    let origin = Origin::start(Behaviour::Chat);
    let with = |more: &str, modes: &[(&str, &str)]| {
        degraded(&[("a", &origin.url(), PLAIN)], &format!("providers: [a]{more}"), modes)
    };
    let low = "when: { manual: true }, actions: [ { headers: { set: { x-low: a } } } ]";
    let lower = "when: { manual: true }, actions: [ { headers: { set: { x-low: b } } } ]";
    let both = [("brownout", low), ("other", low)];
    let sidecar = single_worker(&with("", &both));
    post_mode(&sidecar, "enter", "brownout", &json!({ "for": "10m", "reason": "a drill" }));
    let since = mode(&sidecar, "brownout")["since"].clone();
    let changed = with(", timeout: 50s", &[("brownout", lower), ("other", low)]);
    reload(&sidecar, || sidecar.write_policy("policy", &changed));
    assert_eq!(degraded_header(&sidecar.send(&chat())), Some("brownout"));
    assert_eq!(origin.last().headers.get("x-low"), Some("b"));
    let state = mode(&sidecar, "brownout");
    assert_eq!((&state["since"], &state["override"]["reason"]), (&since, &json!("a drill")));
    reload(&sidecar, || sidecar.write_policy("policy", &with("", &[("other", low)])));
    assert_eq!(degraded_header(&sidecar.send(&chat())), None);
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
fn a_mode_responds_at_once_when_all_providers_are_down() {
    let origin = Origin::start(Behaviour::RefuseConnections);
    let when = "when: { breaker_open: a }, for: 0s, recover_after: 30s, \
                actions: [ { respond: { status: 503, headers: { retry-after: \"{{retry_after}}\" }, \
                json: { message: later } } } ]";
    let rest = "breakers: { default: { failure_threshold: 1, recovery_timeout: 60s } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), "auth: none")], "providers: [a]", &[("brownout", when)]);
    let sidecar = single_worker(&(yaml + rest));
    assert_eq!(sidecar.send(&chat()).status, 502);
    wait_for_active(&sidecar, true);
    let mut client = sidecar.client();
    let times = (0..200).map(|_| {
        let began = Instant::now();
        let response = client.send(&chat());
        assert_eq!((response.status, response.header("retry-after")), (503, Some("30")));
        began.elapsed()
    });
    let mut times: Vec<_> = times.collect();
    times.sort();
    // No attempt and no backoff precedes it.
    assert!(times[100] < Duration::from_millis(50), "half of them within {:?}", times[100]);
}

#[test]
fn a_reload_that_adds_the_first_mode_takes_effect() {
    let origin = Origin::start(Behaviour::status(500, &[]));
    let providers = [("a", &*origin.url(), PLAIN)];
    let sidecar = single_worker(&(policy(&providers, &route("providers: [a]")) + GENEROUS));
    assert_eq!(sidecar.send(&chat()).status, 500);
    let when = "when: { error_rate: { of: a, above: 0.5, over: 10s, min_requests: 1 } }, for: 0s, \
                actions: [ { respond: { status: 418 } } ]";
    let changed = degraded(&providers, "providers: [a]", &[("brownout", when)]);
    reload(&sidecar, || sidecar.write_policy("policy", &changed));
    assert_eq!(sidecar.send(&chat()).status, 500);
    wait_for_active(&sidecar, true);
    assert_eq!(sidecar.send(&chat()).status, 418);
}

#[test]
fn a_mode_serves_stale_responses_and_the_next_action_handles_the_rest() {
    let origin = Origin::start(Behaviour::Chat);
    let actions =
        "[ { serve_stale: 1h }, { respond: { status: 503, json: { mode: \"{{mode}}\" } } } ]";
    let when = format!("when: {{ manual: true }}, actions: {actions}");
    let cache = "caches: { c: { store: { ttl: 1ms }, stale_if_error: 0s } }\n";
    let yaml = degraded(
        &[("a", &origin.url(), PLAIN)],
        "providers: [a], cache: c",
        &[("brownout", when.as_str())],
    ) + cache;
    let sidecar = single_worker(&yaml);
    let first = sidecar.send(&chat());
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    // For one millisecond the response is fresh, and the mode does not apply.
    let mut response = sidecar.send(&chat());
    while degraded_header(&response).is_none() {
        response = sidecar.send(&chat());
    }
    assert_eq!((response.status, response.text()), (200, first.text()));
    assert_eq!(degraded_header(&response), Some("brownout"));
    let cache_status_header = response.header("cache-status").expect("a cache-status header");
    assert!(
        cache_status_header.ends_with("; detail=degraded") && response.header("age").is_some(),
        "{cache_status_header}"
    );
    let rest = sidecar.send(&Call::json(CHAT, &json!({ "model": "m", "messages": ["new"] })));
    assert_eq!((rest.status, rest.text().as_ref()), (503, r#"{"mode":"brownout"}"#));
    assert_eq!(origin.count(), 1);
    let impact = mode(&sidecar, "brownout")["impact"].clone();
    assert_eq!((&impact["serve_stale"], &impact["respond"]), (&json!(1), &json!(1)));
}

#[test]
fn a_reduced_response_is_not_stored() {
    let origin = Origin::start(Behaviour::Chat);
    let when = "when: { manual: true }, actions: [ { body: { set: { /max_tokens: 16 } } } ]";
    let cache = "caches: { c: { store: { ttl: 1h } } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), PLAIN)], "providers: [a], cache: c", &[("brownout", when)])
            + cache;
    let sidecar = single_worker(&yaml);
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    let small = sidecar.send(&chat());
    assert_eq!((small.status, degraded_header(&small)), (200, Some("brownout")));
    post_mode(&sidecar, "leave", "brownout", &json!({}));
    for (count, cache_status_header) in
        [(2, "outrigger; fwd=uri-miss; stored"), (2, "outrigger; hit; ttl=")]
    {
        let response = sidecar.send(&chat());
        assert_eq!((degraded_header(&response), origin.count()), (None, count));
        assert!(
            response
                .header("cache-status")
                .is_some_and(|text| text.starts_with(cache_status_header))
        );
    }
    assert_eq!(sent_json(&origin.last()).get("max_tokens"), None);
    // A stored response is preferred to a reduced one.
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    assert_eq!((degraded_header(&sidecar.send(&chat())), origin.count()), (None, 2));
}

#[test]
fn a_stale_response_is_complete_unless_the_request_is_conditional() {
    let headers = [("cache-control", "max-age=0"), ("etag", "\"one\"")];
    let origin = Origin::start(Behaviour::status(200, &headers));
    let when = "when: { manual: true }, actions: [ { serve_stale: 1h } ]";
    let cache = "caches: { c: { store: http } }\n";
    let yaml =
        degraded(&[("a", &origin.url(), PLAIN)], "providers: [a], cache: c", &[("brownout", when)])
            + cache;
    let sidecar = single_worker(&yaml);
    let first = sidecar.send(&Call::get("/page"));
    post_mode(&sidecar, "enter", "brownout", &json!({}));
    let response = sidecar.send(&Call::get("/page"));
    assert_eq!((response.status, response.text()), (200, first.text()));
    assert_eq!((degraded_header(&response), origin.count()), (Some("brownout"), 1));
    let not_modified = sidecar.send(&Call::get("/page").header("if-none-match", "\"one\""));
    assert_eq!((not_modified.status, not_modified.text().as_ref()), (304, ""));
    let other = sidecar.send(&Call::get("/page").header("if-none-match", "\"old\""));
    assert_eq!((other.status, other.text()), (200, first.text()));
    assert_eq!(origin.count(), 1);
}
