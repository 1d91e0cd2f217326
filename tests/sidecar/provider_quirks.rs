//! Responses as providers really send them: odd terminal values, wrong labels, compressed streams,
//! errors with status 200, events of any size.

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, classes, is_from, policy, route, single_worker,
};
use crate::support::{Behaviour, Call, End, Ending, Origin, Response, Sidecar, Stream};

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";
const GOOGLE: &str = "/v1beta/models/m:streamGenerateContent";

fn start(a: &Origin, b: &Origin, more: &str) -> Sidecar {
    let more = format!("auth: none, breaker: none{more}");
    let route = route("providers: [a, b], balance: first, idempotent: always");
    single_worker(&policy(
        &[("a", &a.url(), &more), ("b", &b.url(), "auth: none, breaker: none")],
        &(route + GENEROUS),
    ))
}

/// A chunked 200; without its last chunk unless it is `whole`.
fn chunked(content_type: &str, pieces: &[&str], whole: bool) -> Behaviour {
    let mut text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for piece in pieces {
        text += &format!("{:x}\r\n{piece}\r\n", piece.len());
    }
    if whole {
        text += "0\r\n\r\n";
    }
    Behaviour::Raw(text.into_bytes())
}

fn chunk(delta: Value, finish: Value) -> String {
    json!({ "id": "c", "object": "chat.completion.chunk", "model": "m",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
    .to_string()
}

fn part(text: &str) -> String {
    json!({ "candidates": [{ "content": { "parts": [{ "text": text }], "role": "model" } }] })
        .to_string()
}

fn streamed() -> Call {
    Call::json(CHAT, &json!({ "model": "small", "messages": [], "stream": true }))
}

fn google() -> Call {
    Call::json(GOOGLE, &json!({ "contents": [] }))
}

fn send_to(behaviour: Behaviour, call: &Call) -> (Response, Origin, Origin) {
    let (a, b) = (Origin::start(behaviour), Origin::start(Behaviour::Chat));
    let response = start(&a, &b, "").send(call);
    (response, a, b)
}

#[test]
fn a_stream_with_an_empty_finish_reason_in_each_event_fails_over_until_its_content() {
    for value in [json!(""), json!("null"), json!(false), json!(0)] {
        let role = chunk(json!({ "role": "assistant" }), value.clone());
        let text = chunk(json!({ "content": "Hi" }), value.clone());
        let a = Stream::of([role.clone()]).ending(Ending::Cut);
        let (response, _, b) = send_to(a.into(), &streamed());
        assert!(is_from(&response, &b), "{value}: {}", response.text());
        let a = Stream::of([role, text]).ending(Ending::Complete);
        let (response, _, b) = send_to(a.into(), &streamed());
        assert_ne!(response.end, End::Complete, "{value}: {}", response.text());
        assert_eq!(b.count(), 0);
    }
}

#[test]
fn a_stream_is_requested_uncompressed_and_nothing_else() {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(Behaviour::Chat));
    let sidecar = start(&a, &b, "");
    let chat = |stream: Value| Call::json(CHAT, &json!({ "messages": ["hi"], "stream": stream }));
    for (call, expected) in [
        (chat(json!(true)), "identity"),
        (google(), "identity"),
        (Call::json("/api/chat", &json!({ "model": "m" })), "identity"),
        (Call::json("/v1/x", &json!({})).header("accept", SSE), "identity"),
        (Call::get("/events").header("accept", SSE), "identity"),
        (chat(json!(false)), "gzip, br"),
        (chat(json!(null)), "gzip, br"),
        (Call::json(CHAT, &json!({ "messages": ["\"stream\":true"] })), "gzip, br"),
        (Call::get("/v1/models"), "gzip, br"),
    ] {
        sidecar.send(&call.clone().header("accept-encoding", "gzip, br"));
        let sent = a.last();
        assert_eq!(sent.headers.all("accept-encoding").collect::<Vec<_>>(), [expected], "{call:?}");
    }
}

#[test]
fn a_stream_labelled_json_commits_at_its_first_content_and_not_before() {
    let [role, text] = [json!({ "role": "assistant" }), json!({ "content": "Hi" })]
        .map(|delta| format!("data: {}\n\n", chunk(delta, Value::Null)));
    for label in [JSON, "text/plain"] {
        let (response, _, b) = send_to(chunked(label, &[&role], false), &streamed());
        assert!(is_from(&response, &b), "{label}: {}", response.text());
        let (response, _, b) = send_to(chunked(label, &[&role, &text], false), &streamed());
        assert!(response.text().starts_with(&(role.clone() + &text)), "{}", response.text());
        assert!(
            response.text().contains("\"finish_reason\":\"error\"")
                && response.end != End::Complete
        );
        assert_eq!((response.status, b.count()), (200, 0), "{label}");
    }
    let first = format!("[{}", part("Hi"));
    let (response, _, b) = send_to(chunked(JSON, &[&first], false), &google());
    assert!(response.text().starts_with(&first) && b.count() == 0, "{}", response.text());
    let events: Value =
        serde_json::from_str(&response.text()).expect("an array with the error in it");
    assert_eq!(events[1]["error"]["status"], "UNAVAILABLE");
    assert_ne!(response.end, End::Complete);
    let error = r#"[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]"#;
    let (response, _, b) = send_to(chunked(JSON, &[error], true), &google());
    assert!(is_from(&response, &b), "{}", response.text());
}

#[test]
fn a_document_is_held_to_its_end_although_a_stream_was_requested() {
    let document = json!({ "choices": [{ "message": { "content": "hi" } }] }).to_string();
    let (response, ..) = send_to(chunked(JSON, &[&document], true), &streamed());
    assert_eq!((response.text(), response.end), (document.clone(), End::Complete));
    let (response, _, b) = send_to(chunked(JSON, &[&document[..20]], false), &streamed());
    assert!(is_from(&response, &b), "{}", response.text());
}

#[test]
fn the_usage_of_an_event_of_any_size_is_charged() {
    let output = "x".repeat(400 << 10);
    let usage = json!({ "input_tokens": 37, "output_tokens": 11 });
    let completed =
        json!({ "type": "response.completed", "response": { "output": [output], "usage": usage } });
    let created = json!({ "type": "response.created", "response": {} });
    let a = Origin::start(Stream::of([created.to_string(), completed.to_string()]));
    let b = Origin::start(Behaviour::Chat);
    let sidecar = start(&a, &b, ", price: { input: 1, output: 1, currency: USD }");
    let response =
        sidecar.send(&Call::json("/v1/responses", &json!({ "model": "m", "stream": true })));
    assert_eq!(response.end, End::Complete);
    let record = access_record(&sidecar, 1);
    assert_eq!((&record["tokens_in"], &record["tokens_out"]), (&json!(37), &json!(11)), "{record}");
}

#[test]
fn an_error_with_status_200_is_a_failure_where_the_request_expects_content() {
    let with = |label: &str, body: &str| {
        Behaviour::Status(200, vec![("content-type".to_owned(), label.to_owned())], body.to_owned())
    };
    let error = r#"{"error":{"message":"overloaded"}}"#;
    let json = Call::json(CHAT, &json!({ "messages": [] }));
    let messages = Call::json("/v1/messages", &json!({ "messages": [] }));
    for (call, behaviour) in [
        (&json, with(JSON, error)),
        (&messages, with(JSON, r#"{"type":"error","error":{"type":"overloaded_error"}}"#)),
        (&streamed(), with(JSON, error)),
        (&streamed(), with("text/html", "<html>maintenance</html>")),
        (&json, with("text/html", "<html>maintenance</html>")),
        (&Call::get("/v1/models").header("accept", JSON), with("text/html", "<html></html>")),
        (&json, with(JSON, "")),
        (&json, with("text/plain", "")),
    ] {
        let (a, b) = (Origin::start(behaviour.clone()), Origin::start(Behaviour::Chat));
        let sidecar = start(&a, &b, "");
        let response = sidecar.send(call);
        assert!(is_from(&response, &b), "{behaviour:?}: {}", response.text());
        assert_eq!(classes(&access_record(&sidecar, 1)), ["failure", "success"], "{behaviour:?}");
    }
}

#[test]
fn audio_files_and_empty_responses_are_never_judged() {
    let with = |status: u16, label: &str, body: &str| {
        Behaviour::Status(
            status,
            vec![("content-type".to_owned(), label.to_owned())],
            body.to_owned(),
        )
    };
    for (call, behaviour) in [
        (Call::json("/v1/audio/speech", &json!({ "input": "error" })), with(200, "audio/mpeg", "")),
        (
            Call::json("/v1/audio/transcriptions", &json!({})),
            with(200, JSON, "{\"error\":\"?\",\"x\":1}"),
        ),
        (Call::get("/v1/files/1/content"), with(200, "text/html", "<html></html>")),
        (Call::get("/v1/files/1/content"), with(200, JSON, "{\"error\":{\"message\":\"m\"}}")),
        (Call::json(CHAT, &json!({})), with(204, JSON, "")),
        (Call::new("HEAD", "/v1/models").header("accept", JSON), with(200, "text/html", "")),
    ] {
        let (response, a, b) = send_to(behaviour.clone(), &call);
        assert!(is_from(&response, &a) && b.count() == 0, "{behaviour:?}: {}", response.text());
    }
}

#[test]
fn an_error_event_has_the_form_of_the_stream_that_it_ends() {
    let anthropic = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Hi" } });
    let response =
        json!({ "type": "response.output_text.delta", "sequence_number": 3, "delta": "Hi" });
    let cohere = json!({ "type": "content-delta", "index": 0, "delta": { "message": { "content": { "text": "Hi" } } } });
    let ollama = json!({ "model": "m", "message": { "content": "Hi" }, "done": false });
    let post = |path: &str| Call::json(path, &json!({ "stream": true }));
    let named = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))
    };
    for (call, label, event, field, expected) in [
        (
            streamed(),
            SSE,
            format!("data: {}\n\n", chunk(json!({ "content": "Hi" }), Value::Null)),
            "/choices/0/finish_reason",
            json!("error"),
        ),
        (post("/v1/responses"), SSE, named(&response), "/sequence_number", json!(4)),
        (post("/v1/messages"), SSE, named(&anthropic), "/error/type", json!("api_error")),
        (google(), SSE, format!("data: {}\n\n", part("Hi")), "/error/status", json!("UNAVAILABLE")),
        (post("/v2/chat"), SSE, named(&cohere), "/delta/finish_reason", json!("ERROR")),
        (
            post("/api/chat"),
            "application/x-ndjson",
            format!("{ollama}\n"),
            "/error",
            json!(
                "the connection to the provider was lost: the connection broke during the response"
            ),
        ),
    ] {
        let (response, ..) = send_to(chunked(label, &[&event], false), &call);
        let text = response.text();
        let last = text.strip_prefix(&event).unwrap_or_else(|| panic!("{text}"));
        let data = last.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let error = data.filter_map(|data| serde_json::from_str::<Value>(data).ok()).next();
        let error = error.unwrap_or_else(|| panic!("no error event: {text}"));
        assert_eq!(error.pointer(field), Some(&expected), "{error}");
        assert_ne!(response.end, End::Complete);
    }
}
