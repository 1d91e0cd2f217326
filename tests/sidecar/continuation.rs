//! A stream that is cut in its middle, and gone on from by a provider that can.

use serde_json::{Value, json};

use crate::fixtures::{CHAT, GENEROUS, access_record, alone, classes, policy, route};
use crate::support::{Behaviour, Call, End, Ending, Origin, Request, Response, Sidecar, Stream};

fn delta(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    json!({ "object": "chat.completion.chunk", "model": "m", "choices": [choice] }).to_string()
}

fn stream(words: &[&str], whole: bool) -> Stream {
    let mut events = vec![delta(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(words.iter().map(|word| delta(json!({ "content": word }), None)));
    if whole {
        events.extend([delta(json!({}), Some("stop")), "[DONE]".to_owned()]);
    }
    Stream::of(events)
}

fn ask(more: Value) -> Call {
    let mut body = json!({ "model": "small", "stream": true,
                           "messages": [{ "role": "user", "content": "count" }] });
    more.as_object().into_iter().flatten().for_each(|(k, v)| body[k] = v.clone());
    Call::json(CHAT, &body)
}

/// `a` says the beginning; `b` declares what it can go on from.
fn scene(a: &Origin, b: &Origin, prefill: &str) -> Sidecar {
    let limits = "auth: none, breaker: none, timeouts: { headers: 400ms, idle: 400ms }";
    let second = format!("{limits}{prefill}");
    let route =
        route("providers: [a], fallback: [b], idempotent: always, stream: { on_cut: continue }");
    alone(&policy(&[("a", &a.url(), limits), ("b", &b.url(), &second)], &(route + GENEROUS)))
}

const CAN: &str = ", prefill: [large], models: { small: large }";

fn said(response: &Response) -> String {
    let text = response.text();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    values.filter_map(|v| v["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn messages(request: &Request) -> Value {
    let body: Value = serde_json::from_slice(&request.body).expect("a JSON body");
    body["messages"].clone()
}

#[test]
fn a_stream_that_breaks_arrives_whole_from_one_that_can_go_on() {
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        let a = Origin::start(stream(&["one ", "two ", "three"], false).ending(ending));
        // It begins with the end of what was said.
        let b = Origin::start(stream(&["three, ", "four, ", "five"], true));
        let sidecar = scene(&a, &b, CAN);
        for call in 1..=20 {
            let response = sidecar.send(&ask(json!({})));
            assert_eq!(
                (response.status, response.end),
                (200, End::Complete),
                "{ending:?} {}",
                response.text()
            );
            assert_eq!(said(&response), "one two three, four, five", "{}", response.text());
            let text = response.text();
            assert!(text.contains(": outrigger: continued by b/"), "{text}");
            assert!(
                text.ends_with("data: [DONE]\n\n") && text.matches("\"role\"").count() == 1,
                "{text}"
            );
            if call == 1 {
                let told = access_record(&sidecar, 1);
                assert_eq!(told["attempts"][1]["turn"], "continuation", "{told}");
                assert_eq!(classes(&told).len(), 2);
            }
        }
        let asked = messages(&b.requests()[0]);
        assert_eq!(asked[1], json!({ "role": "assistant", "content": "one two three" }));
        assert_eq!(asked[0]["content"], "count");
        let joined =
            sidecar.metric("outrigger_stream_continuations_total{route=\"all\",reason=\"joined\"}");
        assert!(joined.is_some_and(|joined| joined >= 1.0));
    }
}

#[test]
fn an_error_in_the_middle_is_gone_on_from() {
    let mut broken = stream(&["one "], false);
    broken.frames.push(json!({ "error": { "message": "overloaded" } }).to_string());
    let (a, b) = (Origin::start(broken), Origin::start(stream(&["two"], true)));
    let response = scene(&a, &b, CAN).send(&ask(json!({})));
    assert_eq!((said(&response).as_str(), response.end), ("one two", End::Complete));
    assert!(!response.text().contains("overloaded"));
}

#[test]
fn one_that_did_not_declare_it_is_never_asked_to() {
    for prefill in ["", ", prefill: [other]", ", prefill: [small], models: { small: large }"] {
        let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
        let b = Origin::start(stream(&["two"], true));
        let sidecar = scene(&a, &b, prefill);
        let response = sidecar.send(&ask(json!({})));
        assert_ne!(response.end, End::Complete, "{}", response.text());
        assert!(response.text().contains("event: error\n"), "{}", response.text());
        assert_eq!((a.count(), b.count()), (1, 0), "{prefill}");
        let nobody =
            sidecar.metric("outrigger_stream_continuations_total{route=\"all\",reason=\"nobody\"}");
        assert_eq!(nobody, Some(1.0));
    }
}

#[test]
fn tool_calls_and_structured_output_are_never_gone_on_from() {
    let call = json!({ "tool_calls": [{ "index": 0, "id": "c", "function": { "name": "f", "arguments": "" } }] });
    let mut tools = stream(&["one "], false).ending(Ending::Cut);
    tools.frames.push(delta(call, None));
    let plain = || stream(&["one "], false).ending(Ending::Cut);
    let schema = json!({ "response_format": { "type": "json_schema", "json_schema": {} } });
    for (stream_a, more) in [(tools, json!({})), (plain(), schema), (plain(), json!({ "n": 2 }))] {
        let (a, b) = (Origin::start(stream_a), Origin::start(stream(&["two"], true)));
        let response = scene(&a, &b, CAN).send(&ask(more.clone()));
        assert_ne!(response.end, End::Complete, "{more}");
        assert_eq!(b.count(), 0, "{more}");
    }
}

#[test]
fn one_that_goes_on_and_breaks_too_is_gone_on_from_again() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::script([
        stream(&["two "], false).ending(Ending::Cut).into(),
        Behaviour::from(stream(&["three"], true)),
    ]);
    let limits = "auth: none, breaker: none, timeouts: { headers: 400ms, idle: 400ms }";
    let second = format!("{limits}{CAN}");
    let route =
        route("providers: [a], fallback: [b], idempotent: always, stream: { on_cut: continue }");
    let retries = "retries: { default: { fallback_attempts: 2, initial_delay: 1ms, budget: { ratio: 1, min_per_second: 100 } } }\n";
    let sidecar =
        alone(&policy(&[("a", &a.url(), limits), ("b", &b.url(), &second)], &(route + retries)));
    let response = sidecar.send(&ask(json!({})));
    assert_eq!(
        (said(&response).as_str(), response.end),
        ("one two three", End::Complete),
        "{}",
        response.text()
    );
    assert_eq!(messages(&b.last())[1]["content"], "one two");
}

#[test]
fn what_is_no_stream_of_the_same_kind_is_never_joined_on() {
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
        let can = format!("{CAN}, classify: [ {{ status: 404, as: ignored }} ]");
        let response = scene(&a, &b, &can).send(&ask(json!({})));
        assert_ne!(response.end, End::Complete, "{}", response.text());
        assert!(response.text().contains("event: error\n"), "{}", response.text());
        assert!(!response.text().contains("continued by"), "{}", response.text());
    }
}

#[test]
fn an_answer_that_may_not_be_repeated_is_not_gone_on_from_and_a_key_is_not_sent_again() {
    let a = Origin::start(stream(&["one "], false).ending(Ending::Cut));
    let b = Origin::start(stream(&["two"], true));
    let limits = "auth: none, breaker: none";
    let providers = [("a", &*a.url(), limits), ("b", &*b.url(), &*format!("{limits}{CAN}"))];
    let route = |more: &str| {
        route(&format!("providers: [a], fallback: [b], {more}, stream: {{ on_cut: continue }}"))
    };
    let never = alone(&policy(&providers, &(route("idempotent: never") + GENEROUS)));
    assert_ne!(never.send(&ask(json!({}))).end, End::Complete);
    assert_eq!(b.count(), 0);
    let auto = alone(&policy(&providers, &(route("idempotent: auto") + GENEROUS)));
    let keyed = ask(json!({})).header("idempotency-key", "k");
    assert_eq!(said(&auto.send(&keyed)), "one two");
    assert_eq!(b.last().headers.get("idempotency-key"), None, "it is another request");
    assert_eq!(a.last().headers.get("accept-encoding"), Some("identity"));
}
