//! Fixtures shared by most tests: a policy over some origins, a chat request, admin requests.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Call, Origin, POLL_INTERVAL, Response, Sidecar};

pub const CHAT: &str = "/v1/chat/completions";

/// A retry budget that no test exhausts, and short delays.
pub const GENEROUS: &str =
    "retries: { default: { initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100 } } }\n";

pub fn chat() -> Call {
    chat_for("small")
}

pub fn chat_for(model: &str) -> Call {
    Call::json(CHAT, &json!({ "model": model, "messages": [] }))
}

/// A policy with these providers (name, URL, other keys) followed by `rest`.
pub fn policy(providers: &[(&str, &str, &str)], rest: &str) -> String {
    let mut yaml = "version: 1\nproviders:\n".to_owned();
    for (name, url, more) in providers {
        let comma = if more.is_empty() { "" } else { ", " };
        yaml.push_str(&format!("  {name}: {{ url: \"{url}\"{comma}{more} }}\n"));
    }
    yaml.push_str(rest);
    yaml
}

/// Starts a sidecar with one worker: its log is in the order of the requests, and it has one
/// connection pool.
pub fn single_worker(yaml: &str) -> Sidecar {
    Sidecar::builder().policy("policy", yaml).workers(1).start()
}

/// One route for everything, with these keys.
pub fn route(more: &str) -> String {
    format!("routes: [ {{ name: all, {more} }} ]\n")
}

/// A JSON document of the admin API.
pub fn api(sidecar: &Sidecar, path: &str) -> Value {
    let (status, text) = sidecar.admin_get(path);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path} is not JSON ({e}): {text}"))
}

/// Posts a change to the admin API and returns its response; panics unless it succeeds.
#[track_caller]
pub fn post_admin(sidecar: &Sidecar, path: &str, body: &Value) -> Value {
    let (status, text) = sidecar.admin_post(path, body);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// A CLI command for the admin API of a sidecar.
pub fn cli_command(sidecar: &Sidecar, arguments: &[&str]) -> Command {
    let admin = sidecar.admin_url("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).args(["--admin", admin.trim_end_matches('/')]).env("USER", "tester");
    command
}

/// Runs a CLI command against the admin API of a sidecar.
pub fn run_cli(sidecar: &Sidecar, arguments: &[&str]) -> Output {
    cli_command(sidecar, arguments).output().expect("the command can be started")
}

/// The standard output of a CLI command that succeeds.
pub fn cli_stdout(sidecar: &Sidecar, arguments: &[&str]) -> String {
    let output = run_cli(sidecar, arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The output of `outrigger status`, which exits with 1 while there is a problem.
pub fn status_text(sidecar: &Sidecar) -> String {
    let output = run_cli(sidecar, &["status"]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The breaker of a provider with one endpoint.
pub fn breaker(sidecar: &Sidecar, provider: &str) -> Value {
    let all = api(sidecar, "/api/circuit-breakers");
    let list = all["breakers"].as_array().expect("a list of breakers");
    let found = list.iter().find(|breaker| breaker["provider"] == provider);
    found.unwrap_or_else(|| panic!("no breaker for {provider} in {all}")).clone()
}

pub fn state(sidecar: &Sidecar, provider: &str) -> String {
    breaker(sidecar, provider)["state"].as_str().expect("a state").to_owned()
}

/// The hash of the active policy.
pub fn policy_hash(sidecar: &Sidecar) -> String {
    let policies = api(sidecar, "/api/policies");
    policies["in_force"]["hash"].as_str().expect("a hash").to_owned()
}

/// The result of the last policy load.
pub fn last_load(sidecar: &Sidecar) -> Value {
    api(sidecar, "/api/policies")["last_load"].clone()
}

/// Changes the policy files, waits until another policy is active, and returns the time it took.
pub fn reload(sidecar: &Sidecar, change: impl FnOnce()) -> Duration {
    let before = policy_hash(sidecar);
    change();
    let changed = Instant::now();
    sidecar.wait_until(|sidecar| policy_hash(sidecar) != before);
    changed.elapsed()
}

/// Did this origin send the response?
pub fn is_from(response: &Response, origin: &Origin) -> bool {
    response.header("x-origin") == Some(origin.address().to_string().as_str())
}

/// The last part of the problem type of an error response of the sidecar; panics on any other
/// response.
#[track_caller]
pub fn problem_type(response: &Response) -> String {
    let shown = response.text();
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{shown}");
    assert!(response.header("proxy-status").is_some(), "{:?}", response.headers);
    let problem = response.json();
    assert_eq!(problem["status"], response.status, "{shown}");
    let kind =
        problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:outrigger:problem:"));
    kind.unwrap_or_else(|| panic!("not a problem type of Outrigger: {shown}")).to_owned()
}

pub fn cache_status(response: &Response) -> &str {
    response.header("cache-status").expect("the response has a cache-status")
}

/// The joined content of a chat stream.
pub fn streamed_content(text: &str) -> String {
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    values.filter_map(|v| v["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// Waits for `count` access records and returns the last of them.
pub fn access_record(sidecar: &Sidecar, count: usize) -> Value {
    sidecar.wait_for_access(count).swap_remove(count - 1)
}

/// The classes of the attempts in an access record, in order.
pub fn classes(access_record: &Value) -> Vec<String> {
    let attempts = access_record["attempts"].as_array().expect("a list of attempts");
    attempts.iter().map(|attempt| attempt["class"].as_str().expect("a class").to_owned()).collect()
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Sleeps until `at`. For generating load at a rate, never for waiting for an effect.
pub fn sleep_until(at: Instant) {
    while let Some(left) = at.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left.min(POLL_INTERVAL));
    }
}
