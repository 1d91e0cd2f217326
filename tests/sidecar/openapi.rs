//! The OpenAPI document describes the API as it is: every operation is called, with what it declares
//! and with what it does not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::benchmarks::ended;
use crate::fixtures::{GENEROUS, api, chat, policy, route};
use crate::jobs::{accepted_path, data_dir, job_id, job_request, wait_for_job};
use crate::support::{Behaviour, Call, Origin, Response, Sidecar};

/// An operation of the document.
struct Operation<'d> {
    method: String,
    path: &'d str,
    declared: &'d Value,
    document: &'d Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, declared) in operations.as_object().expect("operations") {
            all.push(Operation { method: method.to_uppercase(), path, declared, document });
        }
    }
    // A baseline is set before it is read; a run starts before its provider is drained.
    all.sort_by_key(|one| match (&*one.method, one.path.starts_with("/api/benchmarks")) {
        ("PUT", _) => 0,
        ("GET", _) => 1,
        ("POST", true) => 2,
        ("DELETE", _) => 4,
        _ => 3,
    });
    all
}

impl Operation<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn parameters(&self, place: &str) -> Vec<&Value> {
        let all = self.declared["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    /// Its path with these values; the first action, and `unknown` for other names.
    fn target(&self, values: &[(&str, &str)]) -> String {
        let mut path = self.path.to_owned();
        for parameter in self.parameters("path") {
            let name = parameter["name"].as_str().expect("a name");
            let value = values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            let first = parameter["schema"]["enum"][0].as_str();
            let value = value.or(first).unwrap_or("unknown");
            path = path.replace(&format!("{{{name}}}"), value);
        }
        path
    }

    fn call(&self, target: &str) -> Call {
        let call = Call::new(&self.method, target);
        let is_change = self.declared["requestBody"].is_object();
        if is_change { Call { body: Some(Vec::new()), ..call } } else { call }
    }

    /// Sends a call and compares the response with the document.
    fn check(&self, sidecar: &Sidecar, call: &Call) -> u16 {
        let name = format!("{} {}", call.method, call.target);
        if self.parameters("header").iter().any(|one| one["name"] == "Last-Event-ID") {
            let mut client = crate::support::Client::to(&sidecar.admin_url(""));
            let head = client.start(call);
            if head.status == 200 {
                assert_eq!(head.header("content-type"), Some("text/event-stream"), "{name}");
                return 200;
            }
            return self.compare(&name, &head.rest());
        }
        self.compare(&name, &sidecar.admin_send(call))
    }

    fn compare(&self, name: &str, response: &Response) -> u16 {
        let text = response.text();
        let declared = &self.declared["responses"][response.status.to_string()];
        assert!(declared.is_object(), "{name}: {} is not declared: {text}", response.status);
        let content = declared["content"].as_object().expect("content");
        let found = response.header("content-type").expect("a content type");
        let found = found.split(';').next().unwrap_or_default();
        let media = content.get(found).unwrap_or_else(|| panic!("{name}: {found} is not declared"));
        if found.ends_with("json") {
            let body: Value = serde_json::from_str(&text).expect("JSON");
            let missing = missing_fields(&media["schema"], &body, self.document);
            assert_eq!(missing, [""; 0], "{name}: {text}");
        }
        response.status
    }
}

/// The required fields of a schema that a value has not, at any depth.
fn missing_fields(schema: &Value, value: &Value, document: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        let schema = document.pointer(pointer).expect("the schema");
        missing.extend(missing_fields(schema, value, document));
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| value.get(*name).is_none()) {
        missing.push(name.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            missing.extend(missing_fields(property, value, document));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        missing.extend(missing_fields(&schema["items"], item, document));
    }
    missing
}

/// A sidecar with one of everything, and a job and a run that have ended.
fn with_everything(origin: &Origin, data: &std::path::Path) -> (Sidecar, String, String) {
    let more = "providers: [a], cache: c, degrade: [brownout]";
    let rest = route(more)
        + GENEROUS
        + "caches: { c: { max_bytes: 1MiB, store: http } }\n\
           queues: { default: { max_waiting: 10 } }\n\
           degradations: { brownout: { when: { breaker_open: a }, actions: [ { use: [a] } ] } }\n\
           benchmarks: { speed: { requests: [ { path: /v1/chat/completions, json: { model: small, \
           messages: [] } } ], target: { route: all }, load: { rate: 20/s, for: 1s } } }\n";
    let yaml = policy(&[("a", &origin.url(), "auth: none")], &rest);
    let sidecar = Sidecar::builder().policy("policy", &yaml).workers(1).data(data).start();
    assert_eq!(sidecar.send(&chat().header("x-request-id", "mine")).status, 200);
    let path = accepted_path(&sidecar.send(&job_request()));
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let (status, text) = sidecar.admin_post("/api/benchmarks/speed/runs", &json!({}));
    assert_eq!(status, 201, "{text}");
    let run: Value = serde_json::from_str(&text).expect("JSON");
    let run = run["id"].as_str().expect("an id").to_owned();
    assert_eq!(ended(&sidecar, &run)["state"], "done");
    sidecar.wait_until(|sidecar| api(sidecar, "/api/requests").to_string().contains("\"mine\""));
    (sidecar, job_id(&path).to_owned(), run)
}

/// The name of the object in a path.
fn names<'n>(path: &str, job: &'n str, run: &'n str) -> Vec<(&'static str, &'n str)> {
    let name = match path {
        path if path.starts_with("/api/caches") => "c",
        path if path.starts_with("/api/degradation") => "brownout",
        path if path.starts_with("/api/benchmarks") => "speed",
        path if path.starts_with("/api/queue") => "default",
        _ => "a",
    };
    let id = match path {
        path if path.starts_with("/api/queue") => job,
        path if path.starts_with("/api/requests") => "mine",
        _ => run,
    };
    vec![("name", name), ("key", "a"), ("id", id)]
}

#[test]
fn every_operation_responds_as_the_document_declares() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let (sidecar, job, run) = with_everything(&origin, data.path());
    let document = api(&sidecar, "/api/openapi.json");
    let mut failed = BTreeSet::new();
    for operation in &operations(&document) {
        let mut target = operation.target(&names(operation.path, &job, &run));
        let required =
            operation.parameters("query").into_iter().filter(|it| it["required"] == true);
        for (at, parameter) in required.enumerate() {
            let name = parameter["name"].as_str().expect("a name");
            let value = if name == "metric" { "requests" } else { "a" };
            target.push_str(&format!("{}{name}={value}", if at == 0 { '?' } else { '&' }));
        }
        let call = match operation.path {
            "/api/benchmarks/{name}/baseline" if operation.method == "PUT" => {
                let body = json!({ "run": run, "by": "ann" });
                Call { method: "PUT".to_owned(), ..Call::json(&target, &body) }
            }
            _ => operation.call(&target),
        };
        if !(200..300).contains(&operation.check(&sidecar, &call)) {
            failed.insert(operation.name());
        }
    }
    // Without a fleet, with a job that has ended, and before a regression.
    let expected = [
        "GET /api/fleet",
        "POST /api/benchmarks/series/accept",
        "POST /api/queue/jobs/{action}/{id}",
    ];
    assert_eq!(failed.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn every_operation_rejects_bad_input_with_a_declared_problem() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let (sidecar, job, run) = with_everything(&origin, data.path());
    let document = api(&sidecar, "/api/openapi.json");
    for operation in operations(&document).iter().filter(|one| one.path.starts_with("/api/")) {
        let target = operation.target(&names(operation.path, &job, &run));
        let rejects = |call: &Call, status: u16| {
            let found = operation.check(&sidecar, call);
            assert_eq!(found, status, "{} {}", call.method, call.target);
            sidecar.admin_send(call).text()
        };
        let text = rejects(&operation.call(&format!("{target}?no_such=1")), 400);
        assert!(text.contains("`no_such` (expected "), "{text}");
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().expect("a name");
            if parameter["schema"]["type"] == "integer" {
                let text = rejects(&operation.call(&format!("{target}?{name}=x")), 400);
                assert!(text.contains(&format!("`{name}` is `x` (expected a whole number")));
            }
        }
        if let Some(missing) =
            operation.parameters("query").iter().find(|it| it["required"] == true)
        {
            let name = missing["name"].as_str().expect("a name");
            let text = rejects(&operation.call(&target), 400);
            assert!(text.contains(&format!("`{name}` is missing")), "{text}");
            continue;
        }
        if !operation.parameters("path").is_empty() {
            let unknown = operation.call(&operation.target(&[]));
            operation.check(&sidecar, &unknown);
            rejects(
                &operation.call(&operation.target(&[
                    ("name", "%ff"),
                    ("id", "%ff"),
                    ("key", "%ff"),
                ])),
                400,
            );
        }
        if operation.parameters("path").iter().any(|one| one["name"] == "action") {
            rejects(&operation.call(&operation.target(&[("action", "explode")])), 404);
        }
        if operation.declared["requestBody"].is_object() {
            let with = |body: &Value| Call {
                method: operation.method.clone(),
                ..Call::json(&target, body)
            };
            rejects(&with(&json!({ "no_such": 1 })), 400);
            let plain = Call { headers: Vec::new(), ..with(&json!({})) };
            rejects(&plain, 415);
            rejects(&with(&"x".repeat(3 << 20).into()), 413);
        }
    }
}

#[test]
fn a_client_that_is_still_sending_receives_an_early_rejection() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::start(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    // More than the buffers of both sockets hold.
    let body = Value::from("x".repeat(12 << 20));
    for (path, status) in [
        ("/api/none", 404),
        ("/api/status", 405),
        ("/api/circuit-breakers/explode/a", 404),
        ("/api/circuit-breakers/open/a", 413),
    ] {
        for _ in 0..5 {
            assert_eq!(sidecar.admin_send(&Call::json(path, &body)).status, status, "{path}");
        }
    }
}

#[test]
fn unknown_paths_and_methods_are_problems() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = Sidecar::start(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    for (method, path, status, kind) in [
        ("GET", "/api/none", 404, "unknown-path"),
        ("POST", "/api/status", 405, "wrong-method"),
        ("GET", "/api/status?verbose", 400, "invalid-query"),
    ] {
        let response = sidecar.admin_send(&Call::new(method, path));
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{path}");
        let kind = format!("urn:outrigger:problem:admin:{kind}");
        assert_eq!(response.json()["type"], kind, "{path}");
    }
    // A scrape may have parameters of its own.
    assert_eq!(sidecar.admin_get("/metrics?target=x").0, 200);
}
