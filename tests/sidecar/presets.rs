//! Presets: a provider's URL, credential and errors are known by its name, and a request that only
//! generates is repeated at another provider.

use std::fs;

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, api, chat, chat_for, classes, is_from, policy, problem_type,
    route,
};
use crate::support::{Behaviour, Call, Origin, Response, Sidecar};

fn start(yaml: &str) -> Sidecar {
    let builder = Sidecar::builder().policy("policy", yaml).workers(1);
    builder.env("OPENAI_API_KEY", "sk-one").env("ANTHROPIC_API_KEY", "sk-two").start()
}

/// The smallest policy of the README, with other URLs.
fn readme(openai: &Origin, anthropic: &Origin) -> String {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = fs::read_to_string(readme).expect("the README can be read");
    let yaml = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut yaml = yaml.expect("the README has a policy").to_owned();
    for (preset, origin) in [("openai", openai), ("anthropic", anthropic)] {
        let name = format!("preset: {preset},");
        assert!(yaml.contains(&name), "{yaml}");
        yaml = yaml.replace(&name, &format!("{name} url: \"{}\",", origin.url()));
    }
    yaml
}

fn failing(status: u16) -> Behaviour {
    error(status, json!({ "error": { "message": "overloaded" } }))
}

fn error(status: u16, body: Value) -> Behaviour {
    let json = ("content-type".to_owned(), "application/json".to_owned());
    Behaviour::Status(status, vec![json], body.to_string())
}

fn post(path: &str, body: Value) -> Call {
    Call::json(path, &body)
}

fn gpt() -> Call {
    chat_for("gpt-4o")
}

// === the request ===

#[test]
fn each_preset_sends_the_credential_and_the_path_that_its_provider_expects() {
    let chat = "/v1/chat/completions";
    let google = "/v1beta/models/m:generateContent";
    let bearer = ("authorization", "Bearer sk-one");
    for (preset, path, sent, (name, value)) in [
        ("openai", chat, chat, bearer),
        ("azure", chat, chat, ("api-key", "sk-one")),
        ("anthropic", "/v1/messages", "/v1/messages", ("x-api-key", "sk-one")),
        ("anthropic", chat, chat, bearer),
        ("gemini", google, google, ("x-goog-api-key", "sk-one")),
        ("gemini", chat, "/v1beta/openai/chat/completions", ("x-goog-api-key", "sk-one")),
        ("vertex", "/v1/projects/p/x:rawPredict", "/v1/projects/p/x:rawPredict", bearer),
        ("bedrock", "/model/m/converse", "/model/m/converse", bearer),
        ("bedrock", chat, "/openai/v1/chat/completions", bearer),
        ("mistral", chat, chat, bearer),
        ("cohere", "/v2/chat", "/v2/chat", bearer),
        ("cohere", chat, "/compatibility/v1/chat/completions", bearer),
        ("groq", chat, chat, bearer),
        ("deepseek", chat, chat, bearer),
        ("deepseek", "/v1/messages", "/anthropic/v1/messages", bearer),
        ("openrouter", chat, chat, bearer),
        ("together", chat, chat, bearer),
        ("ollama", "/api/chat", "/api/chat", bearer),
        ("vllm", chat, chat, bearer),
        ("sglang", chat, chat, bearer),
        ("llama.cpp", chat, chat, bearer),
    ] {
        let a = Origin::start(Behaviour::Chat);
        let keys = format!("preset: {preset}, key: \"${{env:OPENAI_API_KEY}}\"");
        let sidecar = start(&policy(&[("a", &a.url(), &keys)], &route("providers: [a]")));
        let call = post(path, json!({ "model": "m" }));
        let call = call.header("authorization", "Bearer app").header("x-api-key", "app");
        assert_eq!(sidecar.send(&call).status, 200, "{preset}");
        let request = a.last();
        assert_eq!(
            (request.path.as_str(), request.headers.get(name)),
            (sent, Some(value)),
            "{preset}"
        );
        let all = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
        let credentials = all.iter().filter(|name| request.headers.has(name)).count();
        assert_eq!(credentials, 1, "{preset} {:?}", request.headers);
        let version = request.headers.get("anthropic-version");
        assert_eq!(version, (preset == "anthropic").then_some("2023-06-01"), "{preset}");
    }
}

#[test]
fn the_policy_s_own_keys_and_the_client_s_headers_come_first() {
    let a = Origin::start(Behaviour::Chat);
    let keys = "preset: anthropic, auth: { bearer: \"${env:ANTHROPIC_API_KEY}\" }, headers: { set: { x-team: blue } }";
    let sidecar = start(&policy(&[("a", &a.url(), keys)], &route("providers: [a]")));
    let call = post("/v1/messages", json!({})).header("anthropic-version", "2099-01-01");
    assert_eq!(sidecar.send(&call).status, 200);
    let headers = a.last().headers;
    assert_eq!(headers.get("authorization"), Some("Bearer sk-two"));
    assert_eq!((headers.has("x-api-key"), headers.get("x-team")), (false, Some("blue")));
    assert_eq!(headers.all("anthropic-version").collect::<Vec<_>>(), ["2099-01-01"]);
}

#[test]
fn several_keys_are_used_in_turn_and_each_endpoint_may_have_its_own() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let yaml = format!(
        "version: 1\nproviders:\n  a:\n    preset: azure\n    key: [\"${{env:OPENAI_API_KEY}}\", \"${{env:ANTHROPIC_API_KEY}}\"]\n    endpoints: [{{ url: \"{}\" }}, {{ url: \"{}\", key: \"${{env:ANTHROPIC_API_KEY}}\" }}]\n{}",
        a.url(),
        b.url(),
        route("providers: [a], balance: round_robin")
    );
    let sidecar = start(&yaml);
    (0..8).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 200));
    let keys = |origin: &Origin| {
        let requests = origin.requests();
        let keys = requests.iter().filter_map(|request| request.headers.get("api-key"));
        keys.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&a).into_iter().collect::<Vec<_>>(), ["sk-one", "sk-two"]);
    assert_eq!(keys(&b).into_iter().collect::<Vec<_>>(), ["sk-two"]);
}

#[test]
fn a_preset_without_a_key_passes_the_application_s_credential() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = start(&policy(&[("a", &a.url(), "preset: openai")], &route("providers: [a]")));
    assert_eq!(sidecar.send(&chat().header("authorization", "Bearer app")).status, 200);
    assert_eq!(a.last().headers.get("authorization"), Some("Bearer app"));
}

// === requests that only generate ===

/// The response to a request that fails at OpenAI, and whether Anthropic received it.
fn moves(call: &Call, change: impl Fn(String) -> String) -> (Response, bool) {
    let (a, b) = (Origin::start(failing(500)), Origin::start(Behaviour::Chat));
    let sidecar = start(&change(readme(&a, &b)));
    let response = sidecar.send(call);
    (response, b.count() == 1)
}

#[test]
fn a_chat_that_fails_is_repeated_at_the_other_provider_of_the_smallest_policy() {
    let (response, moved) = moves(&gpt(), |yaml| yaml);
    assert_eq!((response.status, moved), (200, true));
    assert_eq!(response.json()["model"], "claude-sonnet-4-5");
}

#[test]
fn idempotent_never_switches_repetition_off() {
    let never = |yaml: String| yaml.replace("name: all,", "name: all, idempotent: never,");
    let (response, moved) = moves(&gpt(), never);
    assert_eq!((response.status, moved), (500, false));
}

#[test]
fn a_write_or_an_unknown_path_is_not_repeated() {
    for path in ["/v1/files", "/v1/threads/t/messages", "/v1/fine_tuning/jobs", "/v1/unknown", "/"]
    {
        let (response, moved) = moves(&post(path, json!({ "model": "gpt-4o" })), |yaml| yaml);
        assert_eq!((response.status, moved), (500, false), "{path}");
    }
}

#[test]
fn a_request_moves_only_to_a_provider_that_generates_the_same() {
    for (path, expected) in [("/v1/embeddings", false), ("/v1/responses", false), (CHAT, true)] {
        let (_, moved) = moves(&post(path, json!({ "model": "gpt-4o" })), |yaml| yaml);
        assert_eq!(moved, expected, "{path}");
    }
    let (a, b) = (Origin::start(failing(500)), Origin::start(Behaviour::Chat));
    let providers =
        [("a", &*a.url(), "auth: none"), ("b", &*b.url(), "preset: openai, auth: none")];
    let sidecar = start(&policy(&providers, &route("providers: [a], fallback: [b]")));
    assert_eq!((sidecar.send(&chat()).status, b.count()), (500, 0), "`a` is not known");
}

#[test]
fn a_request_goes_to_the_providers_that_have_its_api() {
    let throttled =
        Behaviour::Status(429, vec![("retry-after".to_owned(), "60".to_owned())], String::new());
    let (a, b) = (Origin::start(throttled), Origin::start(Behaviour::Chat));
    let sidecar = start(&readme(&a, &b));
    let message =
        post("/v1/messages", json!({ "model": "claude-sonnet-4-5", "mcp_servers": [{}] }));
    assert!(is_from(&sidecar.send(&message), &b));
    assert_eq!((a.count(), b.last().headers.get("x-api-key")), (0, Some("sk-two")));
    let embedding = post("/v1/embeddings", json!({ "model": "text-embedding-3-small" }));
    assert_eq!(sidecar.send(&embedding).status, 429, "Anthropic has no embeddings");
    assert_eq!((a.count(), b.count()), (1, 1));
    assert!(is_from(&sidecar.send(&gpt()), &b));
}

#[test]
fn a_response_that_refers_to_stored_state_is_not_repeated() {
    let fails = |more: Value| {
        let a = Origin::script([failing(500), Behaviour::Chat]);
        let keys = "preset: openai, key: \"${env:OPENAI_API_KEY}\"";
        let rest = route("providers: [a]") + GENEROUS;
        let sidecar = start(&policy(&[("a", &a.url(), keys)], &rest));
        let mut body = json!({ "model": "gpt-4o", "input": "hi" });
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        sidecar.send(&post("/v1/responses", body)).status
    };
    assert_eq!(fails(json!({})), 200, "it is stored, and a second one does no harm");
    assert_eq!(fails(json!({ "store": false, "previous_response_id": null })), 200);
    assert_eq!(fails(json!({ "previous_response_id": "resp_1" })), 500);
    assert_eq!(fails(json!({ "conversation": "conv_1" })), 500);
    assert_eq!(fails(json!({ "background": true })), 500);
    assert_eq!(fails(json!({ "tools": [{ "type": "mcp" }] })), 500, "the tool may write");
}

#[test]
fn the_retry_budget_bounds_repetitions() {
    let a = Origin::start(failing(500));
    let keys = "preset: openai, key: \"${env:OPENAI_API_KEY}\", breaker: none";
    let budget = "retries: { default: { max_attempts: 100, initial_delay: 1ms, budget: { ratio: 0.01, min_per_second: 1 } } }";
    let sidecar = start(&policy(&[("a", &a.url(), keys)], &(route("providers: [a]") + budget)));
    (0..3).for_each(|_| assert_eq!(sidecar.send(&chat()).status, 500));
    assert!((4..50).contains(&a.count()), "{}", a.count());
    assert_eq!(access_record(&sidecar, 3)["retry_denied"], "budget");
}

// === errors, breakers, resources ===

#[test]
fn a_chat_that_is_too_long_or_for_an_unknown_model_moves_to_the_other_provider() {
    for (status, code) in [(400, "context_length_exceeded"), (404, "model_not_found")] {
        let a = Origin::start(error(status, json!({ "error": { "code": code } })));
        let b = Origin::start(Behaviour::Chat);
        let sidecar = start(&readme(&a, &b));
        assert!(is_from(&sidecar.send(&gpt()), &b), "{code}");
        assert_eq!(
            classes(&access_record(&sidecar, 1)).last().map(String::as_str),
            Some("success")
        );
    }
}

#[test]
fn a_model_that_fails_does_not_stop_the_others() {
    let a = Origin::start(Behaviour::custom(|request| {
        match String::from_utf8_lossy(&request.body).contains("bad") {
            true => failing(500),
            false => Behaviour::Chat,
        }
    }));
    let keys = "preset: openai, key: \"${env:OPENAI_API_KEY}\"";
    let rest =
        route("providers: [a], retry: none") + "breakers: { default: { failure_threshold: 3 } }";
    let sidecar = start(&policy(&[("a", &a.url(), keys)], &rest));
    (0..3).for_each(|_| assert_eq!(sidecar.send(&chat_for("bad")).status, 500));
    assert_eq!(problem_type(&sidecar.send(&chat_for("bad"))), "breaker-open");
    assert_eq!(sidecar.send(&chat_for("good")).status, 200);
    let all = api(&sidecar, "/api/circuit-breakers");
    let models = all["breakers"].as_array().expect("a list").iter().map(|one| &one["model"]);
    assert!(models.into_iter().any(|model| model == "bad"), "{all}");
}

#[test]
fn a_request_for_a_stored_resource_goes_to_the_first_provider_and_to_no_other() {
    let (a, b) = (Origin::start(failing(500)), Origin::start(Behaviour::Chat));
    let sidecar = start(&readme(&a, &b));
    for call in [
        Call::get("/v1/files/file-1"),
        Call::new("DELETE", "/v1/batches/b-1"),
        Call::get("/v1/responses/resp_1"),
    ] {
        assert!(sidecar.send(&call).status >= 500, "{call:?}");
    }
    assert_eq!(b.count(), 0);
    a.set(Behaviour::RefuseConnections);
    let response = sidecar.send(&Call::get("/v1/files/file-1"));
    assert!(response.status >= 500, "{}", response.text());
    assert_eq!(b.count(), 0);
    // Any other GET moves.
    assert!(is_from(&sidecar.send(&Call::get("/v1/models")), &b));
}
