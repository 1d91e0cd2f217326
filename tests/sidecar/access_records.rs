//! The access record names the request, its model and its flow, and the endpoints that were passed
//! over, each with its reason.

use serde_json::{Value, json};

use crate::fixtures::{
    GENEROUS, access_record, api, chat, cli_stdout, policy, post_admin, problem_type, route,
    single_worker, status_text,
};
use crate::support::{Behaviour, Call, Origin};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The reasons of the endpoints passed over, as `provider: reason`.
fn passed_over(record: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let all = record["passed_over"].as_array().cloned().unwrap_or_default();
    let provider =
        |one: &Value| text(&one["endpoint"]).split('/').next().expect("a provider").to_owned();
    all.iter().map(|one| format!("{}: {}", provider(one), text(&one["reason"]))).collect()
}

#[test]
fn the_client_s_request_id_is_used_and_another_is_made() {
    let response =
        Behaviour::Status(200, vec![("x-request-id".into(), "theirs".into())], "{}".into());
    let a = Origin::start(response);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let given = sidecar.send(&chat().header("x-request-id", "mine-1"));
    assert_eq!(given.header("outrigger-request-id"), Some("mine-1"));
    assert_eq!(a.last().headers.get("x-request-id"), Some("mine-1"));
    // An SDK shows the provider's own id to its support.
    assert_eq!(given.header("x-request-id"), Some("theirs"));
    let record = access_record(&sidecar, 1);
    assert_eq!(record["request_id"], "mine-1");
    assert_eq!(record["attempts"][0]["provider_request_id"], "theirs");
    for call in [chat(), chat().header("x-request-id", &"x".repeat(129))] {
        let made = sidecar.send(&call).header("outrigger-request-id").map(str::to_owned);
        let made = made.expect("an id");
        assert_eq!((made.len(), a.last().headers.get("x-request-id")), (32, Some(&*made)));
        assert_eq!(access_record(&sidecar, a.count())["request_id"], *made);
    }
}

#[test]
fn a_policy_may_keep_the_request_id_from_a_provider() {
    let a = Origin::start(Behaviour::Chat);
    let remove = "headers: { remove: [x-request-id] }";
    let sidecar = single_worker(&policy(&[("a", &a.url(), remove)], &route("providers: [a]")));
    for call in [chat(), chat().header("x-request-id", "mine")] {
        assert!(sidecar.send(&call).header("outrigger-request-id").is_some());
        assert_eq!(a.last().headers.get("x-request-id"), None);
    }
}

#[test]
fn a_problem_names_the_request_in_body_headers_and_log() {
    let sidecar =
        single_worker(&policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]")));
    let refused = sidecar.send(&chat().header("x-request-id", "mine"));
    assert_eq!((refused.status, &refused.json()["request_id"]), (502, &json!("mine")));
    assert_eq!(refused.header("x-request-id"), Some("mine"));
    assert_eq!(refused.header("outrigger-request-id"), Some("mine"));
    assert_eq!(access_record(&sidecar, 1)["request_id"], "mine");
}

#[test]
fn the_body_of_a_local_response_counts_as_sent_unless_it_is_not_sent() {
    let sidecar =
        single_worker(&policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]")));
    let refused = sidecar.send(&chat());
    assert!(!refused.body.is_empty());
    assert_eq!(access_record(&sidecar, 1)["bytes_out"], refused.body.len());
    assert_eq!(sidecar.send(&Call::new("HEAD", "/v1/models")).status, 502);
    assert_eq!(access_record(&sidecar, 2)["bytes_out"], 0);
}

#[test]
fn the_trace_id_of_a_valid_traceparent_is_logged_and_the_header_passes_unchanged() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let calls = [(valid, json!(TRACE)), ("00-nothing".to_owned(), Value::Null)];
    for (at, (header, trace)) in calls.into_iter().enumerate() {
        assert_eq!(sidecar.send(&chat().header("traceparent", &header)).status, 200);
        assert_eq!(a.last().headers.get("traceparent"), Some(&*header));
        assert_eq!(access_record(&sidecar, at + 1)["trace_id"], trace);
    }
}

#[test]
fn model_class_and_flow_are_logged() {
    let a = Origin::start(Behaviour::Chat);
    let queues =
        "queues: { q: { class: { header: x-class, default: low }, flow: { header: x-team } } }\n";
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), "models: { small: small-2 }")],
        &(queues.to_owned() + &route("providers: [a], queue: q")),
    ));
    assert_eq!(sidecar.send(&chat().header("x-class", "high").header("x-team", "red")).status, 200);
    let record = access_record(&sidecar, 1);
    let found = ["model", "class", "flow"].map(|key| record[key].clone());
    assert_eq!(found, [json!("small"), json!("high"), json!("red")], "{record}");
    assert_eq!(record["attempts"][0]["model"], "small-2");
}

#[test]
fn each_endpoint_that_was_passed_over_is_logged_with_its_reason() {
    let origins = [
        Origin::start(Behaviour::status(429, &[("retry-after", "60")])),
        Origin::start(Behaviour::Chat),
        Origin::start(Behaviour::Chat),
        Origin::start(Behaviour::Chat),
        Origin::start(Behaviour::Chat),
    ];
    let url = |at: usize| origins[at].url();
    let rest = route("providers: [a, b, c, d, e], balance: first") + GENEROUS;
    let sidecar = single_worker(&policy(
        &[
            ("a", &url(0), ""),
            ("b", &url(1), ""),
            ("c", &url(2), ""),
            ("d", &url(3), "capacity: { requests: 1/h }"),
            ("e", &url(4), ""),
        ],
        &rest,
    ));
    post_admin(&sidecar, "/api/circuit-breakers/open/b", &json!({}));
    post_admin(&sidecar, "/api/providers/drain/c", &json!({}));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let first = access_record(&sidecar, 1);
    assert_eq!(passed_over(&first), ["b: breaker_open", "c: drained"], "{first}");
    assert_eq!(sidecar.send(&chat()).status, 200);
    let second = access_record(&sidecar, 2);
    let all = ["a: held", "b: breaker_open", "c: drained", "d: rate_limited"];
    assert_eq!(passed_over(&second), all, "{second}");
    assert_eq!(second["passed_over"][0]["attempt"], 1);
    assert_eq!(second["attempts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_request_that_no_endpoint_takes_names_them_too_and_a_plain_one_names_none() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    assert_eq!(sidecar.send(&chat()).status, 200);
    assert_eq!(access_record(&sidecar, 1)["passed_over"], Value::Null);
    post_admin(&sidecar, "/api/circuit-breakers/open/a", &json!({}));
    assert_eq!(problem_type(&sidecar.send(&chat())), "breaker-open");
    assert_eq!(passed_over(&access_record(&sidecar, 2)), ["a: breaker_open"]);
}

#[test]
fn more_endpoints_than_a_line_has_room_for_are_counted() {
    let names: Vec<String> = (0..12).map(|at| format!("p{at}")).collect();
    let providers: Vec<_> = names.iter().map(|name| (&**name, "http://127.0.0.1:9", "")).collect();
    let list = names.join(", ");
    let sidecar = single_worker(&policy(&providers, &route(&format!("providers: [{list}]"))));
    for name in &names {
        post_admin(&sidecar, &format!("/api/providers/drain/{name}"), &json!({}));
    }
    assert_eq!(problem_type(&sidecar.send(&chat())), "drained");
    let record = access_record(&sidecar, 1);
    assert_eq!((passed_over(&record).len(), &record["more_passed_over"]), (8, &json!(4)));
}

#[test]
fn the_code_of_a_provider_s_error_is_logged_but_not_its_text() {
    let json_type = vec![("content-type".to_owned(), "application/json".to_owned())];
    let body = r#"{"error":{"message":"secret words","code":"rate_limit_exceeded"}}"#;
    let a = Origin::start(Behaviour::Status(429, json_type, body.to_owned()));
    let b = Origin::start(Behaviour::Chat);
    let rest = route("providers: [a], fallback: [b]") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest));
    assert_eq!(sidecar.send(&chat()).status, 200);
    let record = access_record(&sidecar, 1);
    assert_eq!(record["attempts"][0]["code"], "rate_limit_exceeded");
    assert!(!record.to_string().contains("secret words"), "{record}");
}

#[test]
fn a_hold_shows_its_cause_in_the_admin_api_and_in_the_status() {
    let json_type = ("content-type".to_owned(), "application/json".to_owned());
    let headers = vec![json_type, ("retry-after".to_owned(), "60".to_owned())];
    let body = r#"{"error":{"code":"rate_limit_exceeded"}}"#;
    let a = Origin::start(Behaviour::Status(429, headers, body.to_owned()));
    let b = Origin::start(Behaviour::Chat);
    let rest = route("providers: [a], fallback: [b]") + GENEROUS;
    let sidecar = single_worker(&policy(&[("a", &a.url(), ""), ("b", &b.url(), "")], &rest));
    assert_eq!(sidecar.send(&chat()).status, 200);
    for path in ["/api/circuit-breakers", "/api/status"] {
        let held = api(&sidecar, path)["held"][0].clone();
        let found = ["status", "code", "reason"].map(|key| held[key].clone());
        let cause = [json!(429), json!("rate_limit_exceeded"), json!("retry_after")];
        assert_eq!(found, cause, "{path}: {held}");
        assert!(held["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{held}");
    }
    for text in [status_text(&sidecar), cli_stdout(&sidecar, &["breakers"])] {
        assert!(text.contains("429 rate_limit_exceeded retry_after"), "{text}");
    }
}
