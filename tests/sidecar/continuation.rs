//! Stream continuation: another provider continues an interrupted stream.

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, classes, policy, route, single_worker, streamed_content,
};
use crate::support::{Behaviour, Call, End, Ending, Origin, Request, Sidecar, Stream};

fn delta(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    json!({ "object": "chat.completion.chunk", "model": "m", "choices": [choice] }).to_string()
}

fn stream(words: &[&str], complete: bool) -> Stream {
    let mut events = vec![delta(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(words.iter().map(|word| delta(json!({ "content": word }), None)));
    if complete {
        events.extend([delta(json!({}), Some("stop")), "[DONE]".to_owned()]);
    }
    Stream::of(events)
}

fn completion_request(more: Value) -> Call {
    let mut body = json!({ "model": "small", "stream": true,
                           "messages": [{ "role": "user", "content": "count" }] });
    more.as_object().into_iter().flatten().for_each(|(k, v)| body[k] = v.clone());
    Call::json(CHAT, &body)
}

/// `a` starts the stream; `b` continues it with the given `prefill` keys.
fn start_with_prefill(a: &Origin, b: &Origin, prefill: &str) -> Sidecar {
    let limits = "auth: none, breaker: none, timeouts: { headers: 400ms, idle: 400ms }";
    let second = format!("{limits}{prefill}");
    let route =
        route("providers: [a], fallback: [b], idempotent: always, stream: { on_cut: continue }");
    single_worker(&policy(
        &[("a", &a.url(), limits), ("b", &b.url(), &second)],
        &(route + GENEROUS),
    ))
}

const PREFILL: &str = ", prefill: [large], models: { small: large }";

fn messages(request: &Request) -> Value {
    let body: Value = serde_json::from_slice(&request.body).expect("a JSON body");
    body["messages"].clone()
}

#[test]
fn an_interrupted_stream_is_completed_by_a_provider_with_prefill() {
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        let a = Origin::start(stream(&["one ", "two ", "three"], false).ending(ending));
        // It repeats the end of the first part.
        let b = Origin::start(stream(&["three, ", "four, ", "five"], true));
        let sidecar = start_with_prefill(&a, &b, PREFILL);
        for call in 1..=20 {
            let response = sidecar.send(&completion_request(json!({})));
            assert_eq!(
                (response.status, response.end),
                (200, End::Complete),
                "{ending:?} {}",
                response.text()
            );
            assert_eq!(
                streamed_content(&response.text()),
                "one two three, four, five",
                "{}",
                response.text()
            );
            let text = response.text();
            assert!(text.contains(": outrigger: continued by b/"), "{text}");
            assert!(
                text.ends_with("data: [DONE]\n\n") && text.matches("\"role\"").count() == 1,
                "{text}"
            );
            if call == 1 {
                let record = access_record(&sidecar, 1);
                assert_eq!(record["attempts"][1]["kind"], "continuation", "{record}");
                assert_eq!(classes(&record).len(), 2);
            }
        }
        let sent = messages(&b.requests()[0]);
        assert_eq!(sent[1], json!({ "role": "assistant", "content": "one two three" }));
        assert_eq!(sent[0]["content"], "count");
        let continued =
            sidecar.metric("outrigger_stream_continuations_total{route=\"all\",reason=\"joined\"}");
        assert!(continued.is_some_and(|continued| continued >= 1.0));
    }
}

#[test]
fn a_stream_with_an_error_event_is_continued() {
    let mut broken = stream(&["one "], false);
    broken.frames.push(json!({ "error": { "message": "overloaded" } }).to_string());
    let (a, b) = (Origin::start(broken), Origin::start(stream(&["two"], true)));
    let response = start_with_prefill(&a, &b, PREFILL).send(&completion_request(json!({})));
    assert_eq!(
        (streamed_content(&response.text()).as_str(), response.end),
        ("one two", End::Complete)
    );
    assert!(!response.text().contains("overloaded"));
}

#[test]
fn a_provider_without_prefill_never_continues_a_stream() {
    for prefill in ["", ", prefill: [other]", ", prefill: [small], models: { small: large }"] {
        let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
        let b = Origin::start(stream(&["two"], true));
        let sidecar = start_with_prefill(&a, &b, prefill);
        let response = sidecar.send(&completion_request(json!({})));
        assert_ne!(response.end, End::Complete, "{}", response.text());
        assert!(response.text().contains("\"error\":{"), "{}", response.text());
        assert_eq!((a.count(), b.count()), (1, 0), "{prefill}");
        let no_provider = sidecar
            .metric("outrigger_stream_continuations_total{route=\"all\",reason=\"no_provider\"}");
        assert_eq!(no_provider, Some(1.0));
    }
}

#[test]
fn tool_calls_and_structured_output_are_never_continued() {
    let call = json!({ "tool_calls": [{ "index": 0, "id": "c", "function": { "name": "f", "arguments": "" } }] });
    let mut tools = stream(&["one "], false).ending(Ending::Cut);
    tools.frames.push(delta(call, None));
    let plain = || stream(&["one "], false).ending(Ending::Cut);
    let schema = json!({ "response_format": { "type": "json_schema", "json_schema": {} } });
    for (stream_a, more) in [(tools, json!({})), (plain(), schema), (plain(), json!({ "n": 2 }))] {
        let (a, b) = (Origin::start(stream_a), Origin::start(stream(&["two"], true)));
        let response = start_with_prefill(&a, &b, PREFILL).send(&completion_request(more.clone()));
        assert_ne!(response.end, End::Complete, "{more}");
        assert_eq!(b.count(), 0, "{more}");
    }
}

#[test]
fn a_continuation_that_is_interrupted_is_continued_again() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::script([
        stream(&["two "], false).ending(Ending::Cut).into(),
        Behaviour::from(stream(&["three"], true)),
    ]);
    let limits = "auth: none, breaker: none, timeouts: { headers: 400ms, idle: 400ms }";
    let second = format!("{limits}{PREFILL}");
    let route =
        route("providers: [a], fallback: [b], idempotent: always, stream: { on_cut: continue }");
    let retries = "retries: { default: { fallback_attempts: 2, initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100 } } }\n";
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), limits), ("b", &b.url(), &second)],
        &(route + retries),
    ));
    let response = sidecar.send(&completion_request(json!({})));
    assert_eq!(
        (streamed_content(&response.text()).as_str(), response.end),
        ("one two three", End::Complete),
        "{}",
        response.text()
    );
    assert_eq!(messages(&b.last())[1]["content"], "one two");
}

#[test]
fn a_response_of_another_kind_is_never_used_as_a_continuation() {
    let plain = vec![("content-type".to_owned(), "text/plain".to_owned())];
    for other in [
        Behaviour::Status(404, plain, "no such thing".to_owned()),
        Behaviour::Chat,
        Behaviour::Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n{\"a\":1}\n".to_vec(),
        ),
    ] {
        let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
        let b = Origin::start(other);
        let prefill = format!("{PREFILL}, classify: [ {{ status: 404, as: ignored }} ]");
        let response = start_with_prefill(&a, &b, &prefill).send(&completion_request(json!({})));
        assert_ne!(response.end, End::Complete, "{}", response.text());
        assert!(response.text().contains("\"error\":{"), "{}", response.text());
        assert!(!response.text().contains("continued by"), "{}", response.text());
    }
}

#[test]
fn a_response_is_continued_only_if_its_request_may_be_retried_and_without_its_idempotency_key() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::start(stream(&["two"], true));
    let limits = "auth: none, breaker: none";
    let providers = [("a", &*a.url(), limits), ("b", &*b.url(), &*format!("{limits}{PREFILL}"))];
    let route = |more: &str| {
        route(&format!("providers: [a], fallback: [b], {more}, stream: {{ on_cut: continue }}"))
    };
    let never = single_worker(&policy(&providers, &(route("idempotent: never") + GENEROUS)));
    assert_ne!(never.send(&completion_request(json!({}))).end, End::Complete);
    assert_eq!(b.count(), 0);
    let auto = single_worker(&policy(&providers, &(route("idempotent: auto") + GENEROUS)));
    let keyed = completion_request(json!({})).header("idempotency-key", "k");
    assert_eq!(streamed_content(&auto.send(&keyed).text()), "one two");
    assert_eq!(b.last().headers.get("idempotency-key"), None, "a continuation is another request");
    assert_eq!(a.last().headers.get("accept-encoding"), Some("identity"));
}

#[test]
fn a_model_that_the_body_rewrite_names_is_known_to_prefill() {
    let rewrite = ", rewrite: { body: { set: { /model: large } } }";
    for (prefill, calls) in [("prefill: [large]", 1), ("prefill: [small]", 0)] {
        let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
        let b = Origin::start(stream(&["two"], true));
        let sidecar = start_with_prefill(&a, &b, &format!(", {prefill}{rewrite}"));
        let response = sidecar.send(&completion_request(json!({})));
        assert_eq!(b.count(), calls, "{prefill}: {}", response.text());
        let is_joined = calls == 1;
        assert_eq!(response.end == End::Complete, is_joined, "{}", response.text());
        if is_joined {
            assert_eq!(streamed_content(&response.text()), "one two");
        }
    }
}

#[test]
fn a_backup_that_starts_over_is_not_joined() {
    let begun = || Origin::start(stream(&["one ", "two ", "three, "], false).ending(Ending::Cut));
    let over = || Origin::start(stream(&["one ", "two ", "six"], true));
    let (a, b) = (begun(), over());
    let response = start_with_prefill(&a, &b, PREFILL).send(&completion_request(json!({})));
    assert_eq!(streamed_content(&response.text()), "one two three, ", "{}", response.text());
    assert!(response.text().contains("\"finish_reason\":\"error\""), "{}", response.text());
    assert_ne!(response.end, End::Complete);
    let limits = "auth: none, breaker: none";
    let able = format!("{limits}{PREFILL}");
    let (a, b, c) = (begun(), over(), Origin::start(stream(&["four"], true)));
    let providers = [("a", &*a.url(), limits), ("b", &*b.url(), &*able), ("c", &*c.url(), &*able)];
    let route =
        route("providers: [a], fallback: [b, c], idempotent: always, stream: { on_cut: continue }");
    let sidecar = single_worker(&policy(&providers, &(route + GENEROUS)));
    let response = sidecar.send(&completion_request(json!({})));
    assert_eq!(streamed_content(&response.text()), "one two three, four", "{}", response.text());
    assert_eq!(response.end, End::Complete);
}

/// The counts of streams that broke for the client, and of continuations by result.
fn interrupted_and_continued(sidecar: &Sidecar) -> [f64; 3] {
    [
        "outrigger_interrupted_streams_total{route=\"all\",reason=\"broken\"}",
        "outrigger_stream_continuations_total{route=\"all\",reason=\"joined\"}",
        "outrigger_stream_continuations_total{route=\"all\",reason=\"no_provider\"}",
    ]
    .map(|series| sidecar.metric(series).unwrap_or(0.0))
}

#[test]
fn a_stream_that_another_provider_completes_does_not_count_as_interrupted() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::start(stream(&["two"], true));
    let sidecar = start_with_prefill(&a, &b, PREFILL);
    let response = sidecar.send(&completion_request(json!({})));
    assert_eq!(response.end, End::Complete, "{}", response.text());
    assert_eq!(access_record(&sidecar, 1)["result"], "complete");
    assert_eq!(interrupted_and_continued(&sidecar), [0.0, 1.0, 0.0]);
}

#[test]
fn a_stream_that_breaks_again_after_its_continuation_counts_as_interrupted_once() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::start(stream(&["two"], false).ending(Ending::Cut));
    let sidecar = start_with_prefill(&a, &b, PREFILL);
    let response = sidecar.send(&completion_request(json!({})));
    assert_ne!(response.end, End::Complete, "{}", response.text());
    assert_eq!(access_record(&sidecar, 1)["result"], "interrupted");
    let [interrupted, joined, no_provider] = interrupted_and_continued(&sidecar);
    assert_eq!((interrupted, no_provider), (1.0, 1.0), "{joined} joined");
    assert!(joined >= 1.0);
}
