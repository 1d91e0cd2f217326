//! The spans of records, as they are sent.

use serde_json::{Value, json};

use super::otlp::{Attributes, ExportRequest};
use super::record::TracedRequest;
use super::spans::{EndpointCatalog, EndpointFacts, spans_of};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const START: u64 = 1_700_000_000_000_000_000;

fn catalog() -> EndpointCatalog {
    let facts = |host: &str, preset| EndpointFacts {
        host: host.to_owned(),
        port: 443,
        gen_ai_provider: preset,
    };
    let endpoints = [
        ("a/one".to_owned(), facts("api.openai.com", Some("openai"))),
        ("b/two".to_owned(), facts("llm.example.com", None)),
    ];
    EndpointCatalog { is_https: false, endpoints: endpoints.into() }
}

/// The export of a record, as JSON.
fn export(record: &Value) -> Value {
    let line = format!("{START} {record}");
    let request = TracedRequest::read(line.as_bytes()).expect("a record");
    let spans = spans_of(&request, &catalog());
    let mut resource = Attributes::default();
    resource.text("service.name", "outrigger");
    serde_json::to_value(ExportRequest::new(resource, &spans)).expect("JSON")
}

fn spans(record: &Value) -> Vec<Value> {
    let export = export(record);
    export["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone()
}

/// An attribute without the tag of its type.
fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|attribute| attribute["key"] == key);
    let value = found.and_then(|found| found["value"].as_object()?.values().next().cloned());
    value.unwrap_or_default()
}

fn record(more: &Value) -> Value {
    let mut record = json!({
        "route": "chat", "method": "POST", "path": "/v1/chat/completions", "status": 200,
        "result": "complete", "duration_ms": 900.5, "request_id": "r1", "trace_id": TRACE,
        "span_id": "00000000000000aa", "model": "small", "policy": "abc", "attempts": []
    });
    for (key, value) in more.as_object().expect("an object") {
        record[key] = value.clone();
    }
    record
}

fn attempt(span: &str, endpoint: &str, more: &Value) -> Value {
    let mut attempt = json!({
        "endpoint": endpoint, "class": "success", "status": 200, "start_ms": 0.0,
        "duration_ms": 100.0, "span_id": span
    });
    for (key, value) in more.as_object().expect("an object") {
        attempt[key] = value.clone();
    }
    attempt
}

#[test]
fn a_record_with_a_retry_is_three_spans() {
    let failed = json!({ "class": "failure", "status": 503, "duration_ms": 100.0,
        "code": "overloaded", "tokens_in": 1, "tokens_out": 0 });
    let good = json!({ "start_ms": 200.25, "duration_ms": 300.0, "model": "small-2",
        "tokens_in": 12, "tokens_out": 34, "stream": true });
    let record = record(&json!({
        "parent_span_id": "00f067aa0ba902b7", "wait_ms": 99.5, "class": "high", "cost": 0.5,
        "degraded": [{ "mode": "lean", "action": "reduce" }],
        "attempts": [attempt("00000000000000a1", "a/one", &failed),
            attempt("00000000000000a2", "b/two", &good)],
    }));
    insta::assert_snapshot!(serde_json::to_string_pretty(&export(&record)).expect("JSON"));
}

#[test]
fn a_cancelled_hedge_is_no_error_and_the_winner_lasts_until_the_end() {
    let cancelled = json!({ "class": "ignored", "status": null, "error": "cancelled" });
    let hedge = json!({ "start_ms": 50.0, "duration_ms": 50.0, "kind": "hedge" });
    let attempts = [attempt("a1", "a/one", &cancelled), attempt("a2", "b/two", &hedge)];
    let all = spans(&record(&json!({ "attempts": attempts })));
    let [request, first, hedge] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (&first["status"], attribute(first, "outrigger.cancelled")),
        (&Value::Null, true.into())
    );
    assert_eq!(attribute(hedge, "outrigger.hedge"), true);
    assert_eq!(attribute(hedge, "outrigger.retry_reason"), Value::Null);
    assert_eq!(hedge["endTimeUnixNano"], request["endTimeUnixNano"]);
    assert_ne!(first["endTimeUnixNano"], request["endTimeUnixNano"]);
    for attempt in [first, hedge] {
        assert_eq!(attempt["parentSpanId"], request["spanId"]);
    }
}

#[test]
fn an_interrupted_stream_is_an_error_of_the_request_and_of_its_attempt() {
    let more = json!({ "result": "interrupted", "reason": "idle",
        "attempts": [attempt("a1", "a/one", &json!({}))] });
    for span in spans(&record(&more)) {
        assert_eq!(span["status"]["code"], 2, "{span}");
        assert_eq!(attribute(&span, "error.type"), "idle");
    }
}

#[test]
fn an_interrupted_attempt_ends_where_its_continuation_begins() {
    let next = json!({ "start_ms": 400.0, "kind": "continuation" });
    let attempts = [attempt("a1", "a/one", &json!({})), attempt("a2", "b/two", &next)];
    let all = spans(&record(&json!({ "attempts": attempts })));
    let [request, first, next] = &all[..] else { panic!("{all:?}") };
    assert_eq!(first["endTimeUnixNano"], next["startTimeUnixNano"]);
    assert_eq!(next["endTimeUnixNano"], request["endTimeUnixNano"]);
    assert_eq!(attribute(next, "outrigger.continuation"), true);
}

#[test]
fn errors_of_the_client_are_no_errors_of_the_server() {
    let rejected = attempt("a1", "a/one", &json!({ "class": "ignored", "status": 404 }));
    let all = spans(&record(&json!({ "status": 404, "attempts": [rejected] })));
    assert_eq!((&all[0]["status"], attribute(&all[0], "error.type")), (&Value::Null, Value::Null));
    assert_eq!(
        (&all[1]["status"]["code"], attribute(&all[1], "error.type")),
        (&json!(2), json!("404"))
    );
    let local = json!({ "status": 503, "result": "local_response", "reason": "queue-full" });
    let span = &spans(&record(&local))[0];
    assert_eq!(
        (&span["status"]["code"], attribute(span, "error.type")),
        (&json!(2), json!("queue-full"))
    );
}

#[test]
fn the_run_of_a_job_is_a_consumer_and_its_enqueue_a_server() {
    let (name, kind) = (|span: &Value| span["name"].clone(), |span: &Value| span["kind"].clone());
    let enqueue = &spans(&record(&json!({ "status": 202, "job": "j" })))[0];
    assert_eq!((name(enqueue), kind(enqueue)), (json!("POST chat"), json!(2)));
    let attempts = [attempt("a1", "a/one", &json!({}))];
    let run = &spans(&record(&json!({ "job": "j", "run": true, "attempts": attempts })))[0];
    assert_eq!((name(run), kind(run)), (json!("job chat"), json!(5)));
}

#[test]
fn a_request_without_route_or_model_has_a_name_and_no_attribute_for_them() {
    let more =
        json!({ "route": "-", "method": "BREW", "path": "/x", "model": null, "status": 404 });
    let span = &spans(&record(&more))[0];
    assert_eq!(span["name"], "HTTP");
    assert_eq!(attribute(span, "http.request.method"), "_OTHER");
    assert_eq!(attribute(span, "http.request.method_original"), "BREW");
    for key in ["http.route", "gen_ai.request.model", "gen_ai.operation.name"] {
        assert_eq!(attribute(span, key), Value::Null, "{key}");
    }
}

#[test]
fn a_line_that_is_no_record_is_skipped() {
    for line in ["", "x", "1 {", "x {}", "1"] {
        assert!(TracedRequest::read(line.as_bytes()).is_none(), "{line}");
    }
}
