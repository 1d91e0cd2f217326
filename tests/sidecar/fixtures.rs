//! What most scenes have: a policy over some origins, a chat call, a look at the admin side.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Call, Origin, POLL_INTERVAL, Response, Sidecar};

pub const CHAT: &str = "/v1/chat/completions";

/// A budget that no test empties, and short delays.
pub const GENEROUS: &str =
    "retries: { default: { initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100 } } }\n";

pub fn chat() -> Call {
    chat_for("small")
}

pub fn chat_for(model: &str) -> Call {
    Call::json(CHAT, &json!({ "model": model, "messages": [] }))
}

/// A policy with these providers (name, URL, what else stands in its braces) and `rest` as it is.
pub fn policy(providers: &[(&str, &str, &str)], rest: &str) -> String {
    let mut yaml = "version: 1\nproviders:\n".to_owned();
    for (name, url, more) in providers {
        let comma = if more.is_empty() { "" } else { ", " };
        yaml.push_str(&format!("  {name}: {{ url: \"{url}\"{comma}{more} }}\n"));
    }
    yaml.push_str(rest);
    yaml
}

/// On one worker: its log is in the order of its requests, and its pool is the only one.
pub fn alone(yaml: &str) -> Sidecar {
    Sidecar::builder().policy("policy", yaml).workers(1).start()
}

/// One route for everything, with this in its braces.
pub fn route(more: &str) -> String {
    format!("routes: [ {{ name: all, {more} }} ]\n")
}

/// A document of the admin side.
pub fn api(sidecar: &Sidecar, path: &str) -> Value {
    let (status, text) = sidecar.admin_get(path);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path} is no JSON ({e}): {text}"))
}

/// The breaker of a provider with one address.
pub fn breaker(sidecar: &Sidecar, provider: &str) -> Value {
    let all = api(sidecar, "/api/circuit-breakers");
    let list = all["breakers"].as_array().expect("a list of breakers");
    let found = list.iter().find(|breaker| breaker["provider"] == provider);
    found.unwrap_or_else(|| panic!("no breaker of {provider} in {all}")).clone()
}

pub fn state(sidecar: &Sidecar, provider: &str) -> String {
    breaker(sidecar, provider)["state"].as_str().expect("a state").to_owned()
}

/// The whole hash of the policy in force.
pub fn in_force(sidecar: &Sidecar) -> String {
    let policies = api(sidecar, "/api/policies");
    policies["in_force"]["hash"].as_str().expect("a hash").to_owned()
}

/// Carries out a change of the files and waits until another policy is in force: how long it took.
pub fn reload(sidecar: &Sidecar, change: impl FnOnce()) -> Duration {
    let before = in_force(sidecar);
    change();
    let changed = Instant::now();
    sidecar.wait_until(|sidecar| in_force(sidecar) != before);
    changed.elapsed()
}

/// Did this origin give the answer?
pub fn is_from(response: &Response, origin: &Origin) -> bool {
    response.header("x-origin") == Some(origin.address().to_string().as_str())
}

/// The last part of the type of a problem that the sidecar tells; panics where it is none.
#[track_caller]
pub fn problem(response: &Response) -> String {
    let shown = response.text();
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{shown}");
    assert!(response.header("proxy-status").is_some(), "{:?}", response.headers);
    let problem = response.json();
    assert_eq!(problem["status"], response.status, "{shown}");
    let kind =
        problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:outrigger:problem:"));
    kind.unwrap_or_else(|| panic!("no type of ours: {shown}")).to_owned()
}

/// The access-log line of the latest request, when `count` were made so far.
pub fn access_record(sidecar: &Sidecar, count: usize) -> Value {
    sidecar.wait_for_access(count).swap_remove(count - 1)
}

/// The classes of an access record's attempts, in order.
pub fn classes(access_record: &Value) -> Vec<String> {
    let attempts = access_record["attempts"].as_array().expect("a list of attempts");
    attempts.iter().map(|attempt| attempt["class"].as_str().expect("a class").to_owned()).collect()
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Lets the clock go on until `at`: for load that comes at a rate, never to wait for an effect.
pub fn pace(at: Instant) {
    while let Some(left) = at.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left.min(POLL_INTERVAL));
    }
}
