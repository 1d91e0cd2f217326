//! Streams as the APIs send them, each rule of the reader, and independence from the splits.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use regex_lite::Regex;
use serde_json::{Value, json};

use super::continuation::{Dialect, PartialResponse};
use super::framing::StreamFormat;
use super::interpret::{Interpreter, TokenUsage};
use super::reader::{StreamEnd, StreamReader};
use crate::json::pointer::Pointer;
use crate::json::scan::PointerMatches;
use crate::policy::sections::model::{ClassifyRule, Mark, ProviderPolicy, Stream};
use crate::policy::{self, SourceFile, Sources};
use crate::resilience::outcome::AttemptClass;

const POLICY: &str = "version: 1
providers: { p: { url: http://127.0.0.1:1, auth: none, price: { input: 1, output: 1 } } }
routes: [ { name: r, providers: [p] } ]
";

struct NoSources;

impl Sources for NoSources {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn provider() -> ProviderPolicy {
    let file = SourceFile { name: "p.yaml".to_owned(), bytes: POLICY.into() };
    policy::load(&[file], &NoSources).expect("a policy").policy.providers.remove(0)
}

pub(super) fn built_in() -> Arc<Interpreter> {
    Arc::new(Interpreter::new(&Stream::default(), &provider()))
}

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("a pointer")
}

/// The results of reading a stream frame by frame to its clean end.
#[derive(Debug, PartialEq)]
pub(super) struct StreamResult {
    pub(super) forwarded: String,
    pub(super) errors: Vec<(String, AttemptClass)>,
    pub(super) end: StreamEnd,
    pub(super) usage: TokenUsage,
    pub(super) dropped: u64,
    pub(super) is_ready: bool,
    /// The partial text before the end.
    pub(super) partial: Option<PartialResponse>,
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn read(mut reader: StreamReader, frames: &[&[u8]]) -> StreamResult {
    let (mut forwarded, mut errors) = (String::new(), Vec::new());
    for frame in frames {
        let mut frame = Bytes::copy_from_slice(frame);
        loop {
            let outcome = reader.read(frame);
            forwarded += &text(&outcome.bytes);
            let Some(error) = outcome.error else { break };
            errors.push((text(&error.raw), error.class));
            frame = Bytes::new();
        }
    }
    let partial = reader.partial();
    let (rest, end) = reader.end();
    forwarded += &text(&rest);
    let (usage, dropped, is_ready) = (reader.usage(), reader.dropped(), reader.is_ready());
    StreamResult { forwarded, errors, end, usage, dropped, is_ready, partial }
}

pub(super) fn sse(stream: &str) -> StreamResult {
    read(StreamReader::new(built_in(), StreamFormat::Sse, 200, Some(1 << 20)), &[stream.as_bytes()])
}

pub(super) fn data(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// Events with the names that Anthropic gives them.
pub(super) fn named(events: &[Value]) -> String {
    let one = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))
    };
    events.iter().map(one).collect()
}

/// The event, counted from 1, after which the stream is ready.
fn ready_with(format: StreamFormat, stream: &str) -> Option<usize> {
    let mut reader = StreamReader::new(built_in(), format, 200, None);
    let end = if format == StreamFormat::Sse { "\n\n" } else { "\n" };
    let mut events = stream.split_inclusive(end);
    events
        .position(|event| {
            reader.read(Bytes::copy_from_slice(event.as_bytes()));
            reader.is_ready()
        })
        .map(|at| at + 1)
}

pub(super) fn chunk(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish });
    json!({ "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion.chunk",
            "created": 1741570283, "model": "gpt-4o-2024-08-06", "choices": [choice] })
    .to_string()
}

pub(super) fn text_chunk(text: &str) -> String {
    chunk(json!({ "content": text }), None)
}

pub(super) fn chat(words: &[&str]) -> String {
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(words.iter().map(|word| text_chunk(word)));
    events.push(chunk(json!({}), Some("stop")));
    events.push(
        json!({ "choices": [], "usage": { "prompt_tokens": 19, "completion_tokens": 10 } })
            .to_string(),
    );
    events.push("[DONE]".to_owned());
    data(&events.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) fn message(words: &[&str]) -> Vec<Value> {
    let mut events = vec![
        json!({ "type": "message_start", "message": { "id": "msg_014p7gG3wDgGV9EUtLvnow3U", "role": "assistant",
                "content": [], "stop_reason": null, "usage": { "input_tokens": 472, "output_tokens": 2 } } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
    ];
    events.extend(words.iter().map(|word| {
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": word } })
    }));
    events.extend([
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 89 } }),
        json!({ "type": "message_stop" }),
    ]);
    events
}

pub(super) fn assert_complete(
    stream: &str,
    tokens: (u64, u64),
    first: usize,
    format: StreamFormat,
) {
    let result = read(StreamReader::new(built_in(), format, 200, None), &[stream.as_bytes()]);
    assert_eq!(
        (result.forwarded.as_str(), result.end, result.dropped),
        (stream, StreamEnd::Complete, 0)
    );
    let expected = TokenUsage { input: Some(tokens.0), output: Some(tokens.1) };
    assert_eq!((result.usage, result.errors), (expected, vec![]), "{stream}");
    assert_eq!(ready_with(format, stream), Some(first), "{stream}");
}

// === the built-in formats ===

#[test]
fn a_chat_completion_of_openai_is_read() {
    assert_complete(&chat(&["Hello", "!"]), (19, 10), 2, StreamFormat::Sse);
}

#[test]
fn a_message_of_anthropic_is_read() {
    assert_complete(&named(&message(&["Hello", "!"])), (472, 89), 4, StreamFormat::Sse);
}

#[test]
fn a_response_of_openai_is_read() {
    let stream = named(&[
        json!({ "type": "response.created", "response": { "status": "in_progress", "error": null, "usage": null } }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": { "type": "message" } }),
        json!({ "type": "response.output_text.delta", "content_index": 0, "delta": "Hi" }),
        json!({ "type": "response.completed", "response": { "status": "completed", "usage": { "input_tokens": 37, "output_tokens": 11 } } }),
    ]);
    assert_complete(&stream, (37, 11), 3, StreamFormat::Sse);
    assert_eq!(sse(&stream.replace("completed", "incomplete")).end, StreamEnd::Complete);
    let result = sse(&stream.replace("response.completed", "response.failed"));
    assert_eq!((result.errors.len(), result.end), (1, StreamEnd::NoEndMarker));
}

#[test]
fn a_response_of_google_is_read() {
    let part = |text: &str, finish: Value| {
        json!({ "candidates": [{ "content": { "parts": [{ "text": text }], "role": "model" }, "finishReason": finish }],
                "usageMetadata": { "promptTokenCount": 4, "candidatesTokenCount": 7 } }).to_string()
    };
    let blocked = json!({ "candidates": [{ "finishReason": "SAFETY" }] }).to_string();
    assert_complete(
        &data(&[&part("Hi", Value::Null), &part("!", json!("STOP"))]),
        (4, 7),
        1,
        StreamFormat::Sse,
    );
    assert_eq!(sse(&data(&[&part("Hi", Value::Null)])).end, StreamEnd::NoEndMarker);
    let refused = sse(&data(&[&blocked]));
    assert!(
        refused.is_ready && refused.end == StreamEnd::Complete,
        "a refusal is a complete response"
    );
}

#[test]
fn lines_of_ollama_are_read() {
    let line = |message: Value, done: bool| {
        let mut line = json!({ "model": "llama3.2", "message": message, "done": done });
        if done {
            (line["prompt_eval_count"], line["eval_count"]) = (json!(26), json!(298));
        }
        format!("{line}\n")
    };
    let assistant = |text: &str| json!({ "role": "assistant", "content": text });
    let stream =
        line(assistant(""), false) + &line(assistant("The"), false) + &line(assistant(""), true);
    assert_complete(&stream, (26, 298), 2, StreamFormat::Lines);
    let generated = "{\"model\":\"m\",\"response\":\"\",\"done\":false}\n{\"model\":\"m\",\"response\":\"a\",\"done\":false}\n";
    assert_eq!(ready_with(StreamFormat::Lines, generated), Some(2));
    let cut = read(
        StreamReader::new(built_in(), StreamFormat::Lines, 200, None),
        &[generated.as_bytes()],
    );
    assert_eq!(cut.end, StreamEnd::NoEndMarker);
}

#[test]
fn other_fields_of_a_chat_completion_are_content_too() {
    for delta in [
        json!({ "tool_calls": [{ "index": 0, "function": { "name": "f", "arguments": "" } }] }),
        json!({ "function_call": { "name": "f" } }),
        json!({ "refusal": "I cannot" }),
        json!({ "reasoning_content": "Hm" }),
        json!({ "reasoning": "Hm" }),
        json!({ "audio": { "id": "a" } }),
        json!({ "content": [{ "type": "text", "text": "Hi" }] }),
    ] {
        let result = sse(&data(&[&text_chunk("so"), &chunk(delta.clone(), None)]));
        assert_eq!((result.is_ready, result.partial), (true, None), "{delta} cannot be continued");
        assert_eq!(ready_with(StreamFormat::Sse, &data(&[&chunk(delta.clone(), None)])), Some(1));
    }
    let legacy = json!({ "choices": [{ "text": "Hi", "index": 0 }] }).to_string();
    assert_eq!(ready_with(StreamFormat::Sse, &data(&[&legacy])), Some(1));
}

#[test]
fn a_whole_response_reports_its_tokens() {
    let interpreter = built_in();
    let tokens =
        |body: &str| interpreter.body_usage(body.as_bytes(), &mut PointerMatches::default());
    let body = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":null}}"#;
    assert_eq!(tokens(body), TokenUsage { input: Some(3), output: None });
    assert_eq!(tokens("[1]"), TokenUsage::default());
    assert_eq!(tokens("{"), TokenUsage::default());
}

/// The ways in which an API says that a response goes on.
const NOT_FINISHED: [&str; 7] =
    ["null", "\"\"", "\" \"", "\"null\"", "false", "0", "\"FINISH_REASON_UNSPECIFIED\""];

#[test]
fn a_finish_reason_that_is_not_set_ends_nothing() {
    for value in NOT_FINISHED {
        let value: Value = serde_json::from_str(value).expect("JSON");
        let event = |mut event: Value, at: &str| {
            *event.pointer_mut(at).expect("a field") = value.clone();
            event.to_string()
        };
        let role = json!({ "choices": [{ "delta": { "role": "assistant" }, "finish_reason": 1 }] });
        let text = json!({ "choices": [{ "delta": { "content": "Hi" }, "finish_reason": 1 }] });
        let google = json!({ "candidates": [{ "content": { "parts": [] }, "finishReason": 1 }] });
        let [role, text] = [role, text].map(|e| event(e, "/choices/0/finish_reason"));
        let google = event(google, "/candidates/0/finishReason");
        let result = sse(&data(&[&role]));
        assert_eq!((result.is_ready, result.end), (false, StreamEnd::NoEndMarker), "{role}");
        let result = sse(&data(&[&role, &text]));
        assert_eq!((result.is_ready, result.end), (true, StreamEnd::NoEndMarker), "{text}");
        assert_eq!(result.partial.map(|partial| partial.text).as_deref(), Some("Hi"), "{text}");
        let result = sse(&data(&[&google]));
        assert_eq!((result.is_ready, result.end), (false, StreamEnd::NoEndMarker), "{google}");
    }
}

#[test]
fn an_end_marker_with_blanks_around_it_is_recognized() {
    for end in ["[DONE] ", " [DONE]", "[DONE]\t", "\t [DONE] \t", "[DONE]\ndata:"] {
        let stream = data(&[&text_chunk("Hi"), end]);
        let result = sse(&stream);
        assert_eq!((result.end, result.dropped), (StreamEnd::Complete, 0), "{end:?}");
        assert_eq!(result.forwarded, stream);
    }
    let stream = format!("data: {}\r\n\r\ndata: [DONE] \r\n\r\n", text_chunk("Hi"));
    assert_eq!(sse(&stream).end, StreamEnd::Complete);
}

// === undetermined, known and plain streams ===

#[test]
fn a_stream_without_its_end_marker_is_incomplete() {
    for stream in [data(&[&text_chunk("Hi")]), named(&message(&["Hi"])[..4])] {
        let result = sse(&stream);
        assert_eq!((result.end, result.is_ready), (StreamEnd::NoEndMarker, true));
    }
    assert_eq!(sse(&data(&[&text_chunk("Hi"), "[DONE]"])).end, StreamEnd::Complete);
}

#[test]
fn a_plain_stream_is_forwarded_unchanged_and_may_end_anywhere() {
    for stream in [
        data(&["tick", "{\"broken", "{}"]),
        data(&["{\"price\": 7}", "tick", "{"]),
        data(&["{\"broken", "tick", "tock"]),
        "event: tick\ndata: 7\n\nevent: tick\ndata: 8".to_owned(),
    ] {
        let result = sse(&stream);
        let expected = (stream.as_str(), StreamEnd::Complete, 0, true);
        assert_eq!(
            (result.forwarded.as_str(), result.end, result.dropped, result.is_ready),
            expected
        );
    }
    assert_eq!(ready_with(StreamFormat::Sse, &data(&["tick"])), Some(1));
    assert_eq!(ready_with(StreamFormat::Sse, &data(&["{\"broken"])), None, "it may be malformed");
}

#[test]
fn a_malformed_event_is_dropped_if_events_are_json() {
    let (before, after) = (text_chunk("a"), text_chunk("b"));
    let result = sse(&data(&["{\"choi", &before, "{\"broken", "not JSON", &after, "[DONE]"]));
    assert_eq!(result.forwarded, data(&[&before, &after, "[DONE]"]));
    assert_eq!((result.dropped, result.end), (3, StreamEnd::Complete));
}

#[test]
fn a_stream_of_malformed_events_is_malformed() {
    for stream in [data(&["{\"broken"]), data(&["{\"broken", "[DONE]"]), "data: {".to_owned()] {
        let result = sse(&stream);
        assert_eq!((result.end, result.is_ready), (StreamEnd::Malformed, false), "{stream}");
    }
}

#[test]
fn a_stream_is_plain_once_too_much_is_held_back() {
    let stream = data(&[format!("{{{}", "x".repeat(1_000)).as_str(); 100]);
    let result = sse(&stream);
    assert_eq!((result.forwarded, result.end, result.dropped), (stream, StreamEnd::Complete, 0));
}

#[test]
fn a_stream_without_an_event_is_empty_unless_it_has_a_comment() {
    for (stream, ended) in [
        ("", StreamEnd::Empty),
        ("\n\r\n", StreamEnd::Empty),
        (": keep-alive\n\n", StreamEnd::Complete),
        ("event: ping\ndata: now\n\n", StreamEnd::Complete),
    ] {
        let result = sse(stream);
        assert_eq!(
            (result.forwarded.as_str(), result.end, result.is_ready),
            (stream, ended, false)
        );
    }
}

#[test]
fn pings_and_comments_do_not_determine_the_kind_of_stream() {
    let quiet =
        ": OPENROUTER PROCESSING\n\nevent: ping\ndata: {\"cost\":0}\n\nevent: ping\ndata: x\n\n";
    let stream = quiet.to_owned() + &data(&[&text_chunk("a")]) + quiet;
    let result = sse(&stream);
    assert_eq!(
        (&result.forwarded, result.end, result.dropped),
        (&stream, StreamEnd::NoEndMarker, 0)
    );
    assert_eq!(result.partial.map(|partial| partial.text).as_deref(), Some("a"));
}

/// Found by the fuzz target `event_stream`.
#[test]
fn pings_and_comments_do_not_overtake_events_that_are_held_back() {
    let quiet = ": hi\n\nevent: ping\ndata: 1\n\n".to_owned() + &data(&["{\"choices\":[]}"]);
    let malformed = data(&["{\"broken"]) + &quiet;
    for plain in [data(&["tick"]), data(&["{}"]), ": hi\n\n".repeat(20_000)] {
        let stream = malformed.clone() + &plain;
        assert_eq!(sse(&stream).forwarded, stream);
    }
    let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, None);
    reader.read(malformed.clone().into());
    assert_eq!(reader.buffered(), malformed.len());
    reader.read(data(&["tick"]).into());
    assert_eq!(reader.buffered(), 0);
    let result = sse(&(malformed + &data(&[&text_chunk("a")])));
    assert_eq!((result.forwarded, result.dropped), (quiet + &data(&[&text_chunk("a")]), 1));
}

#[test]
fn a_frame_of_whole_events_is_forwarded_without_a_copy() {
    let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, Some(100));
    let frame = Bytes::from(data(&[&text_chunk("a"), &text_chunk("b")]));
    let forwarded = reader.read(frame.clone()).bytes;
    assert_eq!((forwarded.as_ptr(), forwarded.len()), (frame.as_ptr(), frame.len()));
    let frame = Bytes::from(data(&[&text_chunk("c")]) + "data: {");
    let forwarded = reader.read(frame.clone()).bytes;
    assert_eq!((forwarded.as_ptr(), forwarded.len()), (frame.as_ptr(), frame.len() - 7));
}

// === declarations of the policy ===

#[test]
fn declared_content_makes_events_json_and_requires_no_end_marker() {
    let content = Some(vec![pointer("/token")]);
    let stream = Stream { content, ..Stream::default() };
    let interpreter = Arc::new(Interpreter::new(&stream, &provider()));
    let read = |s: &str| {
        read(
            StreamReader::new(Arc::clone(&interpreter), StreamFormat::Sse, 200, None),
            &[s.as_bytes()],
        )
    };
    let result = read(&data(&["{\"n\":1}"]));
    assert_eq!((result.is_ready, result.end), (false, StreamEnd::Complete));
    let result = read(&data(&["{\"token\":\"a\"}", "not JSON"]));
    assert_eq!((result.is_ready, result.end, result.dropped), (true, StreamEnd::Complete, 1));
    assert_eq!(
        read(&data(&[&text_chunk("a")])).end,
        StreamEnd::NoEndMarker,
        "but it has a built-in format"
    );
    assert_eq!(read(&data(&[&text_chunk("a"), "[DONE]"])).end, StreamEnd::Complete);
}

#[test]
fn declared_end_markers_are_required_of_every_stream() {
    let marks = vec![
        Mark::Text("bye".to_owned()),
        Mark::Value(pointer("/n"), "7".to_owned()),
        Mark::Present(pointer("/last")),
    ];
    let stream = Stream { terminal: Some(marks), ..Stream::default() };
    let interpreter = Arc::new(Interpreter::new(&stream, &provider()));
    let ended = |events: &[&str]| {
        let reader = StreamReader::new(Arc::clone(&interpreter), StreamFormat::Sse, 200, None);
        read(reader, &[data(events).as_bytes()]).end
    };
    for end in ["bye", " bye\t", "{\"n\":7}", "{\"n\":\"7\"}", "{\"last\":true}"] {
        assert_eq!(ended(&["{}", end]), StreamEnd::Complete, "{end}");
    }
    for end in [
        "{\"n\":8}",
        "{\"last\":null}",
        "{\"last\":\"\"}",
        "{\"last\":0}",
        "{\"last\":false}",
        "{}",
    ] {
        assert_eq!(ended(&["{\"n\":1}", end]), StreamEnd::NoEndMarker, "{end}");
    }
    assert_eq!(
        ended(&["[DONE]"]),
        StreamEnd::Malformed,
        "it is neither JSON nor a declared end marker"
    );
    assert_eq!(ended(&[]), StreamEnd::Empty);
}

// === errors ===

#[test]
fn an_error_inside_a_200_is_recognized_in_each_form() {
    for error in [
        "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
        "event: error\ndata: {\"type\":\"overloaded\"}\n\n",
        "event: error\ndata: sorry\n\n",
        "data: {\"type\":\"error\",\"message\":\"x\"}\n\n",
        "data: {\"type\":\"response.failed\"}\n\n",
    ] {
        for before in [String::new(), data(&[&text_chunk("a")])] {
            let after = if before.is_empty() { data(&["tick"]) } else { before.clone() };
            let result = sse(&format!("{before}{error}{after}"));
            assert_eq!(result.errors, [(error.to_owned(), AttemptClass::Failure)]);
            assert_eq!(result.forwarded, before + &after, "the other events are forwarded");
        }
    }
    for none in ["null", "\"\"", "\"null\"", "{\"message\":null,\"code\":0}", "{\"message\":\"\"}"]
    {
        let event = format!("{{\"error\":{none},\"choices\":[]}}");
        assert_eq!(sse(&data(&[&event])).errors, [], "{event}");
    }
}

#[test]
fn a_rule_assigns_a_class_to_an_event() {
    let rule = |status: &[u16], pairs: &[(&str, &str)], class| ClassifyRule {
        status: status.to_vec(),
        event: pairs.iter().map(|(p, r)| (pointer(p), Regex::new(r).expect("a regex"))).collect(),
        ..ClassifyRule::of(class)
    };
    let mut policy = provider();
    policy.classify = vec![
        rule(&[500], &[("/error/code", ".*")], AttemptClass::Ignored),
        rule(&[], &[("/error/code", "^rate"), ("/error/n", "^7$")], AttemptClass::Throttled),
        rule(&[200], &[("/error/code", "^fine$")], AttemptClass::Success),
    ];
    let interpreter = Arc::new(Interpreter::new(&Stream::default(), &policy));
    let classes = |event: &str| -> Vec<AttemptClass> {
        let reader = StreamReader::new(Arc::clone(&interpreter), StreamFormat::Sse, 200, None);
        read(reader, &[data(&[event]).as_bytes()]).errors.into_iter().map(|(_, c)| c).collect()
    };
    assert_eq!(classes(r#"{"error":{"code":"rate_limit","n":7}}"#), [AttemptClass::Throttled]);
    assert_eq!(classes(r#"{"error":{"code":"rate_limit","n":78}}"#), [AttemptClass::Failure]);
    assert_eq!(classes(r#"{"error":{"code":"rate_limit"}}"#), [AttemptClass::Failure]);
    assert_eq!(classes(r#"{"error":{"code":"fine"}}"#), []);
}

#[test]
fn a_stream_that_ends_with_an_unfinished_error_is_incomplete() {
    let result = sse("data: {\"error\":{\"message\":\"overloaded\"}}\n");
    let raw = "data: {\"error\":{\"message\":\"overloaded\"}}\n";
    assert_eq!((result.forwarded.as_str(), result.end), (raw, StreamEnd::NoEndMarker));
}

// === partial text ===

#[test]
fn a_response_can_be_continued_while_it_is_plain_text() {
    let partial = |stream: &str| sse(stream).partial.map(|partial| (partial.dialect, partial.text));
    let role = chunk(json!({ "role": "assistant", "content": "" }), None);
    assert_eq!(partial(&data(&[&role])), Some((Dialect::Chat, String::new())));
    assert_eq!(
        partial(&data(&[&role, &text_chunk("One ü"), &text_chunk("two")])),
        Some((Dialect::Chat, "One ütwo".to_owned()))
    );
    let messages = message(&["One ", "two"]);
    assert_eq!(partial(&named(&messages[..5])), Some((Dialect::Messages, "One two".to_owned())));
    let second = json!({ "index": 1, "delta": { "content": "b" } });
    for stream in [
        String::new(),
        data(&["tick"]),
        data(&[&text_chunk("a"), &chunk(json!({}), Some("length"))]),
        data(&[&text_chunk("a"), "[DONE]"]),
        data(&[&text_chunk("a"), &json!({ "choices": [second] }).to_string()]),
        data(&[&text_chunk("a"), &text_chunk("x").replace("\"x\"", r#""\ud83d""#)]),
        data(&[&text_chunk("a")]) + &named(&messages[3..4]),
        named(&messages[..6]),
        named(&[
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "tool_use" } }),
        ]),
        named(&[
            json!({ "type": "content_block_delta", "index": 0, "delta": { "thinking": "Hm" } }),
        ]),
        named(&[json!({ "type": "content_block_delta", "index": 1, "delta": { "text": "b" } })]),
    ] {
        assert_eq!(partial(&stream), None, "{stream}");
    }
}

#[test]
fn text_beyond_the_limit_cannot_be_continued() {
    let partial = |limit: usize| {
        let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, Some(limit));
        reader.read(data(&[&text_chunk("abc"), &text_chunk("def")]).into());
        reader.partial().map(|partial| partial.text)
    };
    assert_eq!((partial(6).as_deref(), partial(5), partial(0)), (Some("abcdef"), None, None));
}

// === splits ===

fn piece_of_a_stream() -> impl Strategy<Value = String> {
    let event = prop_oneof![
        6 => "[ab ]{0,3}".prop_map(|text| text_chunk(&text)),
        1 => Just(chunk(json!({ "role": "assistant" }), None)),
        1 => Just(chunk(json!({}), Some("stop"))),
        1 => Just(chunk(json!({ "tool_calls": [1] }), None)),
        1 => Just("[DONE]".to_owned()),
        1 => Just("{\"broken".to_owned()),
        1 => Just("tick".to_owned()),
        1 => Just("{\"error\":{}, \"type\":\"error\"}".to_owned()),
        1 => Just("{\"usage\":\n{\"input_tokens\":7}}".to_owned()),
        2 => (0usize..7).prop_map(|at| message(&["a"])[at].to_string()),
    ];
    let name = prop_oneof![6 => Just(""), 1 => Just("event: ping"), 1 => Just("event: error")];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    let comment = prop_oneof![8 => Just(""), 1 => Just(": hi"), 1 => Just("id: 7")];
    (event, name, comment, end).prop_map(|(event, name, comment, end)| {
        let mut piece = String::new();
        for line in [name, comment].into_iter().filter(|line| !line.is_empty()) {
            let _ = write!(piece, "{line}{end}");
        }
        for line in event.split('\n') {
            let _ = write!(piece, "data: {line}{end}");
        }
        piece + end
    })
}

pub(super) fn cut<'t>(text: &'t [u8], cuts: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

pub(super) fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

proptest! {
    #[test]
    fn a_stream_is_read_the_same_however_it_is_split(
        pieces in prop::collection::vec(piece_of_a_stream(), 0..8), cuts in cuts(),
        lost in 0usize..12, format in prop_oneof![
            3 => Just(StreamFormat::Sse), 1 => Just(StreamFormat::Lines), 1 => Just(StreamFormat::Undetermined),
        ],
        continued in prop::option::of("[ab ]{0,6}"),
    ) {
        let stream = pieces.concat();
        let stream = &stream.as_bytes()[..stream.len().saturating_sub(lost)];
        let reader = || match &continued {
            None => StreamReader::new(built_in(), format, 200, Some(8)),
            Some(text) => {
                let partial = PartialResponse { dialect: Dialect::Chat, text: text.clone() };
                StreamReader::continuing(built_in(), format, 12, partial)
            }
        };
        prop_assert_eq!(read(reader(), &cut(stream, &cuts)), read(reader(), &[stream]));
    }
}

// === streams of other vendors ===

#[test]
fn a_stream_of_another_vendor_is_never_mistaken_for_a_known_one() {
    for stream in [
        data(&["{\"type\":\"ping\"}", "hello world"]),
        data(&["{\"poll\":1,\"choices\":[\"a\",\"b\"]}", "{\"poll\":2,\"choices\":[]}"]),
        data(&["{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"no\"}}"]),
        data(&["{\"error\":0,\"v\":1}", "{\"error\":\"\"}"]),
        data(&["{\"v\":1}", "{\"error\":\"of a record\"}", "{\"v\":2}"]),
    ] {
        let result = sse(&stream);
        assert_eq!(
            (result.forwarded.as_str(), result.errors.len(), result.dropped),
            (stream.as_str(), 0, 0)
        );
        assert_eq!(result.end, StreamEnd::Complete, "{stream}");
    }
    for stream in [
        "{\"done\":false,\"progress\":1}\n{\"result\":\"x\"}\n",
        "{\"id\":1,\"error\":\"not found\"}\n{\"id\":2,\"ok\":true}\n{\"id\":3,\"error\":\"x\"}",
        "{\"t\": NaN}\n{\"t\": Infinity}\n",
        "",
    ] {
        let result = read(
            StreamReader::new(built_in(), StreamFormat::Lines, 200, None),
            &[stream.as_bytes()],
        );
        assert_eq!(
            (result.forwarded.as_str(), result.errors.len(), result.dropped),
            (stream, 0, 0)
        );
        assert_eq!(result.end, StreamEnd::Complete, "{stream}");
    }
}

#[test]
fn a_known_stream_is_recognized_however_it_begins() {
    let vendor = "{\"queue\":1}";
    assert_eq!(
        sse(&data(&[vendor, &text_chunk("a"), &text_chunk("b")])).end,
        StreamEnd::NoEndMarker
    );
    let azure = "{\"choices\":[],\"prompt_filter_results\":[]}";
    let result = sse(&data(&[azure, &chunk(json!({ "role": "assistant" }), None)]));
    assert_eq!((result.end, result.is_ready), (StreamEnd::NoEndMarker, false));
    let other = json!({ "choices": [{ "index": 1, "delta": { "content": "b" } }] }).to_string();
    let first = chunk(json!({ "content": "a" }), Some("stop"));
    assert_eq!(
        sse(&data(&[&first, &other])).end,
        StreamEnd::NoEndMarker,
        "the second is not finished"
    );
    assert_eq!(sse(&data(&[&first, &other, "[DONE]"])).end, StreamEnd::Complete);
}
