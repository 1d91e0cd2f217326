//! Provider faults that are known to break gateways. With a healthy fallback, the application must
//! get the correct response in time, ordinary and streamed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{
    CHAT, GENEROUS, access_record, classes, is_from, policy, route, sleep_until, streamed_content,
};
use crate::support::{Behaviour, Call, End, Ending, Gate, Origin, Response, Sidecar, Stream};

/// The timeouts of the primary, and the additional time that a request may take.
const LIMIT: Duration = Duration::from_millis(400);
const MARGIN: Duration = Duration::from_secs(1);
const CALLS: usize = 20;
const WORDS: usize = 5;

/// The `classify` rules of the shipped policies for LLM APIs.
const CLASSIFY: &str = r#"classify: [
      { status: 400, json: { /error/code: context_length_exceeded }, as: unsupported },
      { status: 200, json: { /error: ".*" }, as: failure },
      { status: 200, event: { /error/code: context_length_exceeded }, as: unsupported },
      { status: 200, body: invalid_json, as: failure } ]"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Ordinary,
    Streamed,
}

use Style::{Ordinary, Streamed};

fn chat_request(style: Style) -> Call {
    let user = json!([{ "role": "user", "content": "hi" }]);
    let stream = style == Streamed;
    Call::json(CHAT, &json!({ "model": "small", "messages": user, "stream": stream }))
}

/// A provider that responds with a stream if the request has `stream: true`.
fn healthy() -> Behaviour {
    Behaviour::custom(|request| {
        let body: Value = serde_json::from_slice(&request.body).expect("a JSON body");
        match body["stream"].as_bool() {
            Some(true) => Behaviour::sse(WORDS),
            _ => Behaviour::Chat,
        }
    })
}

/// Starts with the primary `a` and the fallback `b`.
fn start_with_fallback(a: &str, b: &Origin, route_more: &str, rest: &str) -> Sidecar {
    with_keys("\"${env:ONE}\"", a, b, route_more, rest)
}

fn with_keys(keys: &str, a: &str, b: &Origin, route_more: &str, rest: &str) -> Sidecar {
    let limits = "timeouts: { connect: 400ms, headers: 400ms, idle: 400ms }";
    let first = format!("auth: {{ bearer: {keys} }}, {limits}, {CLASSIFY}");
    let providers = [("a", a, &*first), ("b", &*b.url(), "auth: none")];
    let route = route(&format!("providers: [a], fallback: [b], idempotent: always{route_more}"));
    let yaml = policy(&providers, &(route + GENEROUS + rest));
    let sidecar = Sidecar::builder().policy("policy", &yaml).workers(1);
    sidecar.env("ONE", "one").env("TWO", "two").start()
}

#[track_caller]
fn assert_correct(response: &Response, style: Style, context: &str) {
    assert_eq!(
        (response.status, response.end),
        (200, End::Complete),
        "{context}: {}",
        response.text()
    );
    match style {
        Ordinary => {
            let response = response.json();
            assert!(
                response["choices"][0]["message"]["content"].is_string(),
                "{context}: {response}"
            );
        }
        Streamed => {
            let text = response.text();
            let words: Vec<_> = (0..WORDS).map(|i| format!("word{i} ")).collect();
            assert_eq!(streamed_content(&text), words.concat(), "{context}: {text}");
            assert!(text.ends_with("data: [DONE]\n\n"), "{context}: {text}");
        }
    }
}

/// Checks that the fallback serves every request correctly and in time.
#[track_caller]
fn assert_survives(
    name: &str,
    fault: impl Into<Behaviour>,
    style: Style,
    more: &str,
) -> (Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(healthy()));
    let sidecar = start_with_fallback(&a.url(), &b, more, "");
    a.set(fault);
    let mut client = sidecar.client();
    for call in 0..CALLS {
        let context = format!("{name}, {style:?}, call {call}");
        let began = Instant::now();
        let response = client.send(&chat_request(style));
        let took = began.elapsed();
        assert_correct(&response, style, &context);
        assert!(is_from(&response, &b), "{context}");
        assert!(took < LIMIT + MARGIN, "{context}: {took:?}");
    }
    (a, sidecar)
}

/// A stream of these events with this ending.
fn events(events: &[Value], ending: Ending) -> Behaviour {
    Stream::of(events.iter().map(Value::to_string)).ending(ending).into()
}

fn chunk(delta: Value, finish: Option<&str>) -> Value {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    json!({ "object": "chat.completion.chunk", "model": "m", "choices": [choice] })
}

fn role() -> Value {
    chunk(json!({ "role": "assistant", "content": "" }), None)
}

#[test]
fn refused_connections() {
    for style in [Ordinary, Streamed] {
        assert_survives("refused", Behaviour::RefuseConnections, style, "");
    }
}

#[test]
fn a_name_that_does_not_resolve() {
    for style in [Ordinary, Streamed] {
        let b = Origin::start(healthy());
        let sidecar = start_with_fallback("http://no-such-host.invalid:1", &b, "", "");
        for _ in 0..CALLS {
            let began = Instant::now();
            assert_correct(&sidecar.send(&chat_request(style)), style, "no such host");
            assert!(began.elapsed() < LIMIT + MARGIN);
        }
    }
}

#[test]
fn statuses_that_report_a_failure() {
    let long = ("retry-after", "60");
    for style in [Ordinary, Streamed] {
        for (status, headers) in [
            (429, vec![long]),
            (529, vec![long]),
            (503, vec![long]),
            (500, vec![]),
            (502, vec![]),
            (503, vec![]),
        ] {
            let fault = Behaviour::status(status, &headers);
            assert_survives(&format!("{status} {headers:?}"), fault, style, "");
        }
    }
}

#[test]
fn a_429_without_retry_after_is_retried_or_moves_to_the_fallback() {
    for style in [Ordinary, Streamed] {
        for status in [429, 529] {
            let (a, b) = (Origin::start(Behaviour::status(status, &[])), Origin::start(healthy()));
            let sidecar = start_with_fallback(&a.url(), &b, "", "");
            let mut client = sidecar.client();
            for call in 0..CALLS {
                let context = format!("{status}, call {call}");
                assert_correct(&client.send(&chat_request(style)), style, &context);
            }
        }
    }
}

#[test]
fn a_rejected_key_is_replaced_by_the_other() {
    for style in [Ordinary, Streamed] {
        let by_key = Behaviour::custom(move |request| match request.headers.get("authorization") {
            Some("Bearer one") => Behaviour::status(401, &[]),
            _ if style == Streamed => Behaviour::sse(WORDS),
            _ => Behaviour::Chat,
        });
        let (a, b) = (Origin::start(by_key), Origin::start(healthy()));
        let sidecar = with_keys("[\"${env:ONE}\", \"${env:TWO}\"]", &a.url(), &b, "", "");
        for call in 0..CALLS {
            let response = sidecar.send(&chat_request(style));
            assert_correct(&response, style, &format!("call {call}"));
            assert!(is_from(&response, &a), "the request moved to the fallback");
        }
        let first = a
            .requests()
            .iter()
            .filter(|r| r.headers.get("authorization") == Some("Bearer one"))
            .count();
        assert_eq!(first, 1, "the rejected key is not held");
    }
}

#[test]
fn silence_costs_no_more_than_its_timeout() {
    for style in [Ordinary, Streamed] {
        assert_survives("silent", Behaviour::Silent, style, "");
        assert_survives("headers, then nothing", Behaviour::HeadersThenSilence, style, "");
    }
    let hang = || events(&[], Ending::Hang);
    assert_survives("stream of nothing", hang(), Streamed, "");
}

#[test]
fn a_first_token_that_arrives_too_late() {
    for buffer in ["", ", stream: { buffer: { for: 50ms } }"] {
        assert_survives("late", events(&[role()], Ending::Hang), Streamed, buffer);
    }
    let pings = Behaviour::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: ping\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n".to_vec(),
    );
    assert_survives("pings only", pings, Streamed, "");
}

#[test]
fn a_stream_that_breaks_before_its_first_content() {
    for ending in [Ending::Cut, Ending::Reset, Ending::Complete] {
        assert_survives("role only", events(&[role()], ending), Streamed, "");
    }
}

#[test]
fn a_fully_buffered_stream_that_breaks_is_retried() {
    let content = [
        role(),
        chunk(json!({ "content": "word0 " }), None),
        chunk(json!({ "content": "wo" }), None),
    ];
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        assert_survives(
            &format!("{ending:?}"),
            events(&content, ending),
            Streamed,
            ", stream: { commit: complete }",
        );
    }
}

#[test]
fn a_stream_that_breaks_midway_ends_with_an_error_event() {
    let content = [role(), chunk(json!({ "content": "word0 " }), None)];
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        let (a, b) = (Origin::start(events(&content, ending)), Origin::start(healthy()));
        let sidecar = start_with_fallback(
            &a.url(),
            &b,
            "",
            "breakers: { default: { failure_threshold: 0 } }\n",
        );
        for _ in 0..CALLS {
            let response = sidecar.send(&chat_request(Streamed));
            let text = response.text();
            assert_eq!(
                (response.status, streamed_content(&text).as_str()),
                (200, "word0 "),
                "{text}"
            );
            assert_ne!(response.end, End::Complete, "{ending:?}: {text}");
            let last = text.trim_end().rsplit("\n\n").next().expect("an event");
            let data = last.strip_prefix("data: ").expect("an error event");
            let error: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(error["choices"][0]["finish_reason"], "error", "{error}");
            assert!(error["error"]["message"].is_string(), "not in the format of SDKs: {error}");
        }
    }
}

#[test]
fn a_response_that_breaks_midway() {
    assert_survives("half", Behaviour::HalfBody, Ordinary, "");
    assert_survives("reset", Behaviour::ResetMidBody, Ordinary, "");
}

#[test]
fn malformed_json_with_a_200() {
    assert_survives("malformed", Behaviour::MalformedJson, Ordinary, "");
    // Without a rule of the policy, too.
    let (a, b) = (Origin::start(Behaviour::MalformedJson), Origin::start(healthy()));
    let providers = [("a", &*a.url(), ""), ("b", &*b.url(), "")];
    let rest = route("providers: [a], fallback: [b], idempotent: always");
    let sidecar = Sidecar::builder().policy("policy", &policy(&providers, &(rest + GENEROUS)));
    let response = sidecar.start().send(&chat_request(Ordinary));
    assert_correct(&response, Ordinary, "built in");
    assert!(is_from(&response, &b));
    let broken = Stream::of(["{\"choices\": [{\"delta\": {\"con", "[DONE]"]);
    assert_survives("malformed, then its end", broken, Streamed, "");
    let broken = Stream::of(["{\"choices\": [{\"delta\": {\"con"]);
    assert_survives("malformed", broken, Streamed, "");
}

#[test]
fn an_error_inside_a_200() {
    let error = json!({ "error": { "type": "server_error", "message": "overloaded" } });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    assert_survives("JSON", Behaviour::Status(200, headers, error.to_string()), Ordinary, "");
    assert_survives(
        "first event",
        events(std::slice::from_ref(&error), Ending::Complete),
        Streamed,
        "",
    );
    assert_survives(
        "second event",
        events(&[role(), error.clone()], Ending::Complete),
        Streamed,
        "",
    );
    assert_survives("and then silence", events(&[role(), error], Ending::Hang), Streamed, "");
    let anthropic = Behaviour::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\", \"message\": \"Overloaded\"}}\n\n".to_vec(),
    );
    assert_survives("Anthropic's", anthropic, Streamed, "");
}

#[test]
fn an_empty_body() {
    assert_survives("empty", Behaviour::EmptyBody, Ordinary, "");
    assert_survives("empty", events(&[], Ending::Complete), Streamed, "");
}

#[test]
fn a_refusal_by_the_content_filter_is_returned() {
    let refused = json!({ "error": { "code": "content_filter", "message": "filtered" } });
    let json_type = || vec![("content-type".to_owned(), "application/json".to_owned())];
    let empty = json!({ "choices": [{ "index": 0, "finish_reason": "content_filter",
                        "message": { "role": "assistant", "content": "" } }], "model": "theirs" });
    let streamed = [role(), chunk(json!({}), Some("content_filter"))];
    for (style, fault, status) in [
        (Ordinary, Behaviour::Status(400, json_type(), refused.to_string()), 400),
        (Streamed, Behaviour::Status(400, json_type(), refused.to_string()), 400),
        (Ordinary, Behaviour::Status(200, json_type(), empty.to_string()), 200),
        (Streamed, events(&streamed, Ending::Complete), 200),
    ] {
        let (a, b) = (Origin::start(fault), Origin::start(healthy()));
        let sidecar = start_with_fallback(&a.url(), &b, "", "");
        for _ in 0..CALLS {
            let response = sidecar.send(&chat_request(style));
            assert_eq!((response.status, response.end), (status, End::Complete));
            assert!(is_from(&response, &a) && response.text().contains("content_filter"));
        }
        assert_eq!((a.count(), b.count()), (CALLS, 0), "the fallback got a request");
    }
}

#[test]
fn a_context_that_is_too_long_moves_to_the_fallback() {
    let error = json!({ "error": { "code": "context_length_exceeded", "message": "too long" } });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    for style in [Ordinary, Streamed] {
        let fault = Behaviour::Status(400, headers.clone(), error.to_string());
        let (a, sidecar) = assert_survives("too long", fault, style, "");
        assert_eq!(a.count(), CALLS, "the primary was retried");
        assert_eq!(classes(&access_record(&sidecar, CALLS)), ["unsupported", "success"]);
    }
    assert_survives("an event", events(&[error], Ending::Complete), Streamed, "");
}

#[test]
fn the_model_name_in_the_response_is_not_rewritten() {
    let stream = Stream::of([chunk(json!({ "content": "x" }), Some("stop")).to_string()]);
    let a = Origin::start(stream);
    let sidecar = start_with_fallback(&a.url(), &Origin::start(healthy()), "", "");
    let text = sidecar.send(&chat_request(Streamed)).text();
    assert!(text.contains("\"model\":\"m\""), "{text}");
}

#[test]
fn a_429_within_patience_is_retried_at_the_same_provider() {
    for style in [Ordinary, Streamed] {
        let healthy = if style == Streamed { Behaviour::sse(WORDS) } else { Behaviour::Chat };
        let a = Origin::script([Behaviour::status(429, &[("retry-after", "1")]), healthy]);
        let b = Origin::start(self::healthy());
        let sidecar = start_with_fallback(&a.url(), &b, "", "");
        let began = Instant::now();
        let response = sidecar.send(&chat_request(style));
        assert_correct(&response, style, "429");
        assert!(is_from(&response, &a) && began.elapsed() >= Duration::from_secs(1));
        assert_eq!((a.count(), b.count()), (2, 0));
    }
}

#[test]
fn a_500_is_retried_at_its_provider_before_the_fallback() {
    for style in [Ordinary, Streamed] {
        let healthy = if style == Streamed { Behaviour::sse(WORDS) } else { Behaviour::Chat };
        let a = Origin::script([Behaviour::status(500, &[]), Behaviour::status(500, &[]), healthy]);
        let b = Origin::start(self::healthy());
        let sidecar = start_with_fallback(&a.url(), &b, "", "");
        let response = sidecar.send(&chat_request(style));
        assert_correct(&response, style, "500");
        assert!(is_from(&response, &a));
        assert_eq!((a.count(), b.count()), (3, 0));
        a.set(Behaviour::status(500, &[]));
        assert!(is_from(&sidecar.send(&chat_request(style)), &b));
        assert_eq!((a.count(), b.count()), (6, 1));
    }
}

#[test]
fn a_provider_that_times_out_is_not_retried() {
    for style in [Ordinary, Streamed] {
        let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(healthy()));
        let sidecar = start_with_fallback(
            &a.url(),
            &b,
            "",
            "breakers: { default: { failure_threshold: 0 } }\n",
        );
        assert_correct(&sidecar.send(&chat_request(style)), style, "silent");
        assert_eq!((a.count(), b.count()), (1, 1));
    }
}

#[test]
fn a_failing_primary_gets_only_probes_until_it_recovers() {
    let breakers = "breakers: { default: { failure_threshold: 5, recovery_timeout: 300ms, max_recovery_timeout: 300ms, success_threshold: 1, ramp: 0s } }\n";
    for style in [Ordinary, Streamed] {
        let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(healthy()));
        let sidecar = start_with_fallback(&a.url(), &b, "", breakers);
        let mut client = sidecar.client();
        let (began, mut calls) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2) {
            assert_correct(&client.send(&chat_request(style)), style, "dead");
            calls += 1;
        }
        // Five failures that trip the breaker, then one probe per recovery timeout.
        let probes = began.elapsed().as_millis() as usize / 300 + 1;
        assert!(a.count() <= 5 + probes, "{} of {calls}", a.count());
        a.set(healthy());
        let recovered = Instant::now();
        sidecar.wait_until(|_| is_from(&client.send(&chat_request(style)), &a));
        assert!(recovered.elapsed() < Duration::from_secs(5), "{:?}", recovered.elapsed());
    }
}

/// `tests/drill recovery` does the same with an outage of a minute.
#[test]
fn after_an_outage_the_primary_serves_again_within_ten_seconds() {
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(healthy()));
    let sidecar = start_with_fallback(&a.url(), &b, "", "");
    let mut client = sidecar.client();
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        sleep_until(began + calls * Duration::from_millis(50));
        assert_correct(&client.send(&chat_request(Ordinary)), Ordinary, "down");
        calls += 1;
    }
    // The failures that trip the breaker.
    assert!(a.count() <= 5 + 3, "{} of {calls}", a.count());
    a.set(healthy());
    let recovered = Instant::now();
    while !is_from(&client.send(&chat_request(Ordinary)), &a) {
        calls += 1;
        sleep_until(began + calls * Duration::from_millis(50));
        assert!(recovered.elapsed() < Duration::from_secs(10), "the primary gets no request");
    }
}

#[test]
fn the_start_of_a_stream_is_buffered_no_longer_than_configured() {
    let gate = Gate::closed();
    let mut frames = Stream::chat(WORDS).frames;
    frames.insert(0, role().to_string());
    let a = Origin::start(Stream::of(frames).gated(&gate));
    let b = Origin::start(healthy());
    let sidecar = start_with_fallback(&a.url(), &b, ", stream: { buffer: { for: 100ms } }", "");
    let mut client = sidecar.client();
    client.send_only(&chat_request(Streamed));
    // The first frame begins the time, and the second comes after it.
    gate.let_through(1);
    a.wait_for_in_flight(1);
    sleep_until(Instant::now() + Duration::from_millis(300));
    gate.let_through(1);
    let mut response = client.read_response("POST").expect("the head before any content");
    assert!(response.next_event().is_some_and(|event| event.contains("assistant")));
    gate.open_wide();
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(response.end(), End::Complete);
}
