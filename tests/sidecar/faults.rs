//! Fault by fault: a provider misbehaves in every way that gateways were seen to fail at, a backup
//! is healthy, and the application gets the right answer in time, ordinary and streamed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{CHAT, GENEROUS, access_record, classes, is_from, pace, policy, route};
use crate::support::{Behaviour, Call, End, Ending, Gate, Origin, Response, Sidecar, Stream};

/// The primary's limits, and what may come on top of them.
const LIMIT: Duration = Duration::from_millis(400);
const MORE: Duration = Duration::from_secs(1);
const CALLS: usize = 20;
const WORDS: usize = 5;

/// What the shipped policies say of LLM APIs.
const CLASSIFY: &str = r#"classify: [
      { status: 400, json: { /error/code: context_length_exceeded }, as: too_large },
      { status: 200, json: { /error: ".*" }, as: failure },
      { status: 200, event: { /error/code: context_length_exceeded }, as: too_large },
      { status: 200, body: invalid_json, as: failure } ]"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Ordinary,
    Streamed,
}

use Style::{Ordinary, Streamed};

fn ask(style: Style) -> Call {
    let user = json!([{ "role": "user", "content": "hi" }]);
    let stream = style == Streamed;
    Call::json(CHAT, &json!({ "model": "small", "messages": user, "stream": stream }))
}

/// A provider that answers as it is asked.
fn good() -> Behaviour {
    Behaviour::custom(|request| {
        let body: Value = serde_json::from_slice(&request.body).expect("a JSON body");
        match body["stream"].as_bool() {
            Some(true) => Behaviour::sse(WORDS),
            _ => Behaviour::Chat,
        }
    })
}

/// `a` in front, `b` behind it.
fn scene(a: &str, b: &Origin, route_more: &str, rest: &str) -> Sidecar {
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
fn is_right(response: &Response, style: Style, context: &str) {
    assert_eq!(
        (response.status, response.end),
        (200, End::Complete),
        "{context}: {}",
        response.text()
    );
    match style {
        Ordinary => {
            let answer = response.json();
            assert!(answer["choices"][0]["message"]["content"].is_string(), "{context}: {answer}");
        }
        Streamed => {
            let text = response.text();
            let words: Vec<_> = (0..WORDS).map(|i| format!("word{i} ")).collect();
            assert_eq!(said(&text), words.concat(), "{context}: {text}");
            assert!(text.ends_with("data: [DONE]\n\n"), "{context}: {text}");
        }
    }
}

/// The content of an event stream, joined.
fn said(text: &str) -> String {
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    values.filter_map(|v| v["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// Every call is answered by the backup, right and in time.
#[track_caller]
fn survives(
    name: &str,
    fault: impl Into<Behaviour>,
    style: Style,
    more: &str,
) -> (Origin, Sidecar) {
    let (a, b) = (Origin::start(Behaviour::Chat), Origin::start(good()));
    let sidecar = scene(&a.url(), &b, more, "");
    a.set(fault);
    let mut client = sidecar.client();
    for call in 0..CALLS {
        let context = format!("{name}, {style:?}, call {call}");
        let began = Instant::now();
        let response = client.send(&ask(style));
        let took = began.elapsed();
        is_right(&response, style, &context);
        assert!(is_from(&response, &b), "{context}");
        assert!(took < LIMIT + MORE, "{context}: {took:?}");
    }
    (a, sidecar)
}

/// Events as an LLM API gives them, then this ending.
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
        survives("refused", Behaviour::RefuseConnections, style, "");
    }
}

#[test]
fn a_name_that_does_not_resolve() {
    for style in [Ordinary, Streamed] {
        let b = Origin::start(good());
        let sidecar = scene("http://no-such-host.invalid:1", &b, "", "");
        for _ in 0..CALLS {
            let began = Instant::now();
            is_right(&sidecar.send(&ask(style)), style, "no such host");
            assert!(began.elapsed() < LIMIT + MORE);
        }
    }
}

#[test]
fn statuses_that_say_that_it_failed() {
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
            survives(&format!("{status} {headers:?}"), fault, style, "");
        }
    }
}

#[test]
fn too_many_requests_without_a_time_is_waited_out_shortly_or_left() {
    for style in [Ordinary, Streamed] {
        for status in [429, 529] {
            let (a, b) = (Origin::start(Behaviour::status(status, &[])), Origin::start(good()));
            let sidecar = scene(&a.url(), &b, "", "");
            let mut client = sidecar.client();
            for call in 0..CALLS {
                let began = Instant::now();
                is_right(&client.send(&ask(style)), style, &format!("{status}, call {call}"));
                println!("{status} {call} {:?}", began.elapsed());
            }
        }
    }
}

#[test]
fn a_refused_key_is_left_for_the_other() {
    for style in [Ordinary, Streamed] {
        let by_key = Behaviour::custom(move |request| match request.headers.get("authorization") {
            Some("Bearer one") => Behaviour::status(401, &[]),
            _ if style == Streamed => Behaviour::sse(WORDS),
            _ => Behaviour::Chat,
        });
        let (a, b) = (Origin::start(by_key), Origin::start(good()));
        let sidecar = with_keys("[\"${env:ONE}\", \"${env:TWO}\"]", &a.url(), &b, "", "");
        for call in 0..CALLS {
            let response = sidecar.send(&ask(style));
            is_right(&response, style, &format!("call {call}"));
            assert!(is_from(&response, &a), "the provider has another key");
        }
        let first = a
            .requests()
            .iter()
            .filter(|r| r.headers.get("authorization") == Some("Bearer one"))
            .count();
        assert_eq!(first, 1, "a refused key is held");
    }
}

#[test]
fn silence_costs_its_limit_and_no_more() {
    for style in [Ordinary, Streamed] {
        survives("silent", Behaviour::Silent, style, "");
        survives("headers, then nothing", Behaviour::HeadersThenSilence, style, "");
    }
    let hang = || events(&[], Ending::Hang);
    survives("stream of nothing", hang(), Streamed, "");
}

#[test]
fn a_first_token_that_comes_too_late() {
    survives("late", events(&[role()], Ending::Hang), Streamed, "");
    let pings = Behaviour::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: ping\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n".to_vec(),
    );
    survives("pings only", pings, Streamed, "");
}

#[test]
fn a_stream_that_breaks_before_its_first_content() {
    for ending in [Ending::Cut, Ending::Reset, Ending::Complete] {
        survives("role only", events(&[role()], ending), Streamed, "");
    }
}

#[test]
fn a_stream_that_breaks_in_the_middle_is_whole_where_it_is_held_back() {
    let content = [
        role(),
        chunk(json!({ "content": "word0 " }), None),
        chunk(json!({ "content": "wo" }), None),
    ];
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        survives(
            &format!("{ending:?}"),
            events(&content, ending),
            Streamed,
            ", stream: { commit: complete }",
        );
    }
}

#[test]
fn a_stream_that_breaks_in_the_middle_never_ends_cleanly() {
    let content = [role(), chunk(json!({ "content": "word0 " }), None)];
    for ending in [Ending::Cut, Ending::Reset, Ending::Hang, Ending::Complete] {
        let (a, b) = (Origin::start(events(&content, ending)), Origin::start(good()));
        let sidecar = scene(&a.url(), &b, "", "breakers: { default: { failure_threshold: 0 } }\n");
        for _ in 0..CALLS {
            let response = sidecar.send(&ask(Streamed));
            let text = response.text();
            assert_eq!((response.status, said(&text).as_str()), (200, "word0 "), "{text}");
            assert_ne!(response.end, End::Complete, "{ending:?}: {text}");
            let last = text.trim_end().rsplit("\n\n").next().expect("an event");
            let data = last.strip_prefix("event: error\ndata: ").expect("an error event");
            let told: Value = serde_json::from_str(data).expect("problem JSON");
            assert!(told["type"].as_str().is_some_and(|t| t.starts_with("urn:outrigger:problem:")));
            assert!(told["error"]["message"].is_string(), "as SDKs read it: {told}");
        }
    }
}

#[test]
fn an_answer_that_breaks_in_its_middle() {
    survives("half", Behaviour::HalfBody, Ordinary, "");
    survives("reset", Behaviour::ResetMidBody, Ordinary, "");
}

#[test]
fn malformed_json_with_a_200() {
    survives("malformed", Behaviour::MalformedJson, Ordinary, "");
    let broken = Stream::of(["{\"choices\": [{\"delta\": {\"con", "[DONE]"]);
    survives("malformed, then its end", broken, Streamed, "");
    let broken = Stream::of(["{\"choices\": [{\"delta\": {\"con"]);
    survives("malformed", broken, Streamed, "");
}

#[test]
fn an_error_inside_a_200() {
    let error = json!({ "error": { "type": "server_error", "message": "overloaded" } });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    survives("JSON", Behaviour::Status(200, headers, error.to_string()), Ordinary, "");
    survives("first event", events(std::slice::from_ref(&error), Ending::Complete), Streamed, "");
    survives("second event", events(&[role(), error.clone()], Ending::Complete), Streamed, "");
    survives("and then silence", events(&[role(), error], Ending::Hang), Streamed, "");
    let anthropic = Behaviour::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\", \"message\": \"Overloaded\"}}\n\n".to_vec(),
    );
    survives("Anthropic's", anthropic, Streamed, "");
}

#[test]
fn an_empty_body() {
    survives("empty", Behaviour::EmptyBody, Ordinary, "");
    survives("empty", events(&[], Ending::Complete), Streamed, "");
}

#[test]
fn a_refusal_by_the_content_filter_is_an_answer() {
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
        let (a, b) = (Origin::start(fault), Origin::start(good()));
        let sidecar = scene(&a.url(), &b, "", "");
        for _ in 0..CALLS {
            let response = sidecar.send(&ask(style));
            assert_eq!((response.status, response.end), (status, End::Complete));
            assert!(is_from(&response, &a) && response.text().contains("content_filter"));
        }
        assert_eq!((a.count(), b.count()), (CALLS, 0), "it is not routed around");
    }
}

#[test]
fn a_context_that_is_too_long_goes_to_the_larger_model() {
    let error = json!({ "error": { "code": "context_length_exceeded", "message": "too long" } });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    for style in [Ordinary, Streamed] {
        let fault = Behaviour::Status(400, headers.clone(), error.to_string());
        let (a, sidecar) = survives("too long", fault, style, "");
        assert_eq!(a.count(), CALLS, "it is asked once for each, and not again");
        assert_eq!(classes(&access_record(&sidecar, CALLS)), ["too_large", "success"]);
    }
    survives("an event", events(&[error], Ending::Complete), Streamed, "");
}

#[test]
fn the_model_of_the_answer_is_the_providers() {
    let stream = Stream::of([chunk(json!({ "content": "x" }), Some("stop")).to_string()]);
    let a = Origin::start(stream);
    let sidecar = scene(&a.url(), &Origin::start(good()), "", "");
    let text = sidecar.send(&ask(Streamed)).text();
    assert!(text.contains("\"model\":\"m\""), "{text}");
}

#[test]
fn a_wait_within_patience_is_spent_on_the_same_provider() {
    for style in [Ordinary, Streamed] {
        let good = if style == Streamed { Behaviour::sse(WORDS) } else { Behaviour::Chat };
        let a = Origin::script([Behaviour::status(429, &[("retry-after", "1")]), good]);
        let b = Origin::start(self::good());
        let sidecar = scene(&a.url(), &b, "", "");
        let began = Instant::now();
        let response = sidecar.send(&ask(style));
        is_right(&response, style, "429");
        assert!(is_from(&response, &a) && began.elapsed() >= Duration::from_secs(1));
        assert_eq!((a.count(), b.count()), (2, 0));
    }
}

#[test]
fn a_500_is_repeated_there_before_the_fallback() {
    for style in [Ordinary, Streamed] {
        let good = if style == Streamed { Behaviour::sse(WORDS) } else { Behaviour::Chat };
        let a = Origin::script([Behaviour::status(500, &[]), Behaviour::status(500, &[]), good]);
        let b = Origin::start(self::good());
        let sidecar = scene(&a.url(), &b, "", "");
        let response = sidecar.send(&ask(style));
        is_right(&response, style, "500");
        assert!(is_from(&response, &a));
        assert_eq!((a.count(), b.count()), (3, 0));
        a.set(Behaviour::status(500, &[]));
        assert!(is_from(&sidecar.send(&ask(style)), &b));
        assert_eq!((a.count(), b.count()), (6, 1));
    }
}

#[test]
fn one_that_times_out_is_not_asked_twice() {
    for style in [Ordinary, Streamed] {
        let (a, b) = (Origin::start(Behaviour::Silent), Origin::start(good()));
        let sidecar = scene(&a.url(), &b, "", "breakers: { default: { failure_threshold: 0 } }\n");
        is_right(&sidecar.send(&ask(style)), style, "silent");
        assert_eq!((a.count(), b.count()), (1, 1));
    }
}

#[test]
fn a_dead_primary_is_asked_by_probes_only_and_comes_back() {
    let breakers = "breakers: { default: { failure_threshold: 5, recovery_timeout: 300ms, max_recovery_timeout: 300ms, success_threshold: 1, ramp: 0s } }\n";
    for style in [Ordinary, Streamed] {
        let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(good()));
        let sidecar = scene(&a.url(), &b, "", breakers);
        let mut client = sidecar.client();
        let (began, mut calls) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2) {
            is_right(&client.send(&ask(style)), style, "dead");
            calls += 1;
        }
        // Five that tripped it, then one for each time that it was due.
        assert!(a.count() <= 5 + 2000 / 300 + 1, "{} of {calls}", a.count());
        a.set(good());
        let healed = Instant::now();
        sidecar.wait_until(|_| is_from(&client.send(&ask(style)), &a));
        assert!(healed.elapsed() < Duration::from_secs(2), "{:?}", healed.elapsed());
    }
}

/// `tests/drill recovery` has it down for a minute.
#[test]
fn after_an_outage_the_primary_answers_again_within_ten_seconds() {
    let seconds = std::env::var("OUTRIGGER_RECOVERY").map_or(1, |n| n.parse().expect("a number"));
    let (a, b) = (Origin::start(Behaviour::status(500, &[])), Origin::start(good()));
    let breakers = "breakers: { default: { max_recovery_timeout: 5s } }\n";
    let sidecar = scene(&a.url(), &b, "", breakers);
    let mut client = sidecar.client();
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        pace(began + calls * Duration::from_millis(50));
        is_right(&client.send(&ask(Ordinary)), Ordinary, "down");
        calls += 1;
    }
    let asked = a.count();
    // What tripped it, then one probe for each five seconds.
    assert!(asked as u64 <= 5 + 3 + seconds / 5 + 1, "{asked} of {calls}");
    a.set(good());
    let healed = Instant::now();
    while !is_from(&client.send(&ask(Ordinary)), &a) {
        calls += 1;
        pace(began + calls * Duration::from_millis(50));
        assert!(healed.elapsed() < Duration::from_secs(10), "it is not asked again");
    }
    let took = healed.elapsed();
    println!(
        "down for {seconds} s: asked {asked} times in {calls} calls; answers again after {took:?}"
    );
}

#[test]
fn what_opens_a_stream_is_withheld_no_longer_than_the_buffer_says() {
    let gate = Gate::closed();
    let a = Origin::start(Stream::chat(WORDS).gated(&gate));
    let b = Origin::start(good());
    let sidecar = scene(&a.url(), &b, ", stream: { buffer: { for: 100ms } }", "");
    let mut client = sidecar.client();
    client.send_only(&ask(Streamed));
    gate.let_through(1);
    let mut answer = client.read_response("POST").expect("the head, though no content came");
    assert!(answer.next_event().is_some_and(|event| event.contains("assistant")));
    gate.open_wide();
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(answer.end(), End::Complete);
}
