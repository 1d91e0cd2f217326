//! Checks the claims of `tests/drills/compare` about the two configurations that it measures: one
//! with every feature on (the shipped `examples/policies/llm.yaml`) and one that only passes through. The
//! tests use the request of the drill.

use std::fs;
use std::io;
use std::path::Path;

use http::{HeaderMap, Method};
use outrigger::policy::sections::model::{LogFormat, LogTarget, Policy, Scope};
use outrigger::policy::{self, SourceFile, Sources};
use serde_json::Value;

use support::{Behaviour, Call, Origin, Sidecar};

mod support;

const CHAT: &str = "/v1/chat/completions";

/// A source in which every environment variable has a value.
struct AllSecrets;

impl Sources for AllSecrets {
    fn env(&self, _: &str) -> Option<String> {
        Some("not-a-secret".to_owned())
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        panic!("the policy needs {}, which the drill does not have", path.display())
    }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The request body of the drill.
fn body() -> Value {
    let lua = read("tests/drills/peers/post.lua");
    let text = lua.split_once("wrk.body = '").and_then(|(_, rest)| rest.split_once('\''));
    serde_json::from_str(text.expect("a body").0).expect("JSON")
}

fn full_policy() -> Policy {
    let bytes = read("examples/policies/llm.yaml").into_bytes();
    let loaded = policy::load(&[SourceFile { name: "llm.yaml".to_owned(), bytes }], &AllSecrets);
    loaded.expect("the shipped policy is valid").policy
}

/// Starts a sidecar with the origin in place of all providers, and sends the drill's request
/// `requests` times.
fn start_and_send(yaml: &str, origin: &Origin, requests: usize) -> Sidecar {
    let mut with_urls = yaml.replace("http://127.0.0.1:@BACKEND@", &origin.url());
    for host in ["https://api.openai.com", "https://your-resource.openai.azure.com"] {
        with_urls = with_urls.replace(host, &origin.url());
    }
    let mut builder = Sidecar::builder().policy("policy", &with_urls).workers(1);
    for secret in ["OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY"] {
        builder = builder.env(secret, "not-a-secret");
    }
    let sidecar = builder.start();
    let mut client = sidecar.client();
    for _ in 0..requests {
        assert_eq!(client.send(&Call::json(CHAT, &body())).status, 200);
    }
    sidecar
}

fn breakers(sidecar: &Sidecar) -> Vec<Value> {
    let (status, text) = sidecar.admin_get("/api/circuit-breakers");
    assert_eq!(status, 200, "{text}");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all["breakers"].as_array().expect("a list of breakers").clone()
}

#[test]
fn the_measured_policy_enables_every_feature() {
    let policy = full_policy();
    let matches = |route: &&policy::sections::model::RoutePolicy| {
        route.matcher.matches(&Method::POST, "127.0.0.1", CHAT, &HeaderMap::new())
    };
    let route = policy.routes.iter().find(matches).expect("a route for the drill's request");
    assert!(route.retry.max_attempts > 1 && route.retry.fallback_attempts > 0);
    assert!(route.retry.budget.ratio > 0.0 && route.replay > 0);
    assert!(route.providers.len() > 1, "the balancer has only one provider");
    let model = body()["model"].clone();
    let mut is_mapped = false;
    for provider in route.providers.iter().map(|weighted| &policy.providers[weighted.provider]) {
        let breaker = provider.breaker.as_ref().expect("a breaker");
        assert_eq!(breaker.scope, Some(Scope::Model), "{}", provider.name);
        assert!(breaker.failure_threshold > 0 && breaker.failure_rate.is_some());
        assert!(provider.capacity.concurrency < u32::MAX, "{}", provider.name);
        is_mapped |= provider.models.iter().any(|(name, _)| model == name.as_str());
    }
    assert!(is_mapped, "no provider has the drill's model, {model}, among its `models`");
    assert_eq!(policy.server.access_log.format, LogFormat::Json);
    assert_ne!(policy.server.access_log.to, LogTarget::None);
}

#[test]
fn the_measured_request_uses_every_feature() {
    let origin = Origin::start(Behaviour::Chat);
    let sidecar = start_and_send(&read("examples/policies/llm.yaml"), &origin, 8);
    let lines = sidecar.wait_for_access(8);
    assert!(lines.iter().all(|line| line["route"] == "chat"), "{lines:?}");
    let requests = "outrigger_requests_total{route=\"chat\",status=\"2xx\"}";
    sidecar.wait_until(|sidecar| sidecar.metric(requests) == Some(8.0));
    let breakers_by_model = breakers(&sidecar);
    assert!(
        breakers_by_model.iter().any(|breaker| breaker["model"] == body()["model"]),
        "{breakers_by_model:?}"
    );
}

#[test]
fn the_pass_through_policy_has_metrics_and_nothing_else() {
    let origin = Origin::start(Behaviour::Chat);
    let sidecar = start_and_send(&read("tests/drills/peers/pass-through.yaml"), &origin, 3);
    let requests = "outrigger_requests_total{route=\"everything\",status=\"2xx\"}";
    sidecar.wait_until(|sidecar| sidecar.metric(requests) == Some(3.0));
    assert_eq!(breakers(&sidecar), Vec::<Value>::new());
    assert_eq!(sidecar.access_log(), Vec::<Value>::new());
}
