//! A stream that continues an interrupted one: the application reads both as one response.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::continuation::{Dialect, Overlap, PartialResponse};
use super::framing::StreamFormat;
use super::reader::{StreamEnd, StreamReader};
use super::reader_tests::{
    StreamResult, built_in, chat, chunk, cut, cuts, data, message, named, read, text_chunk,
};
use crate::resilience::outcome::AttemptClass;

fn reader(dialect: Dialect, text: &str) -> StreamReader {
    let partial = PartialResponse { dialect, text: text.to_owned() };
    StreamReader::continuing(built_in(), StreamFormat::Sse, 1 << 20, partial)
}

fn after(text: &str, stream: &str) -> StreamResult {
    read(reader(Dialect::Chat, text), &[stream.as_bytes()])
}

/// The text of the events, in either dialect.
fn text_of(stream: &str) -> String {
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let text = |event: Value| {
        let chat = event["choices"][0]["delta"]["content"].as_str();
        chat.or(event["delta"]["text"].as_str()).map(str::to_owned)
    };
    values.filter_map(text).collect()
}

#[test]
fn the_opening_and_the_repetition_are_left_out() {
    let result = after("one two three", &chat(&["three", ", four", ", five"]));
    assert_eq!(
        result.forwarded,
        chat(&[", four", ", five"]).split_once("\n\n").expect("two events").1
    );
    assert_eq!(
        (result.end, result.is_ready, result.usage.output),
        (StreamEnd::Complete, true, Some(10))
    );

    let stream = named(&message(&["three, ", "four"]));
    let result = read(reader(Dialect::Messages, "one two three"), &[stream.as_bytes()]);
    assert_eq!(result.forwarded, named(&message(&[", ", "four"])[3..]));
    assert_eq!((result.end, result.usage.input), (StreamEnd::Complete, Some(472)));
}

#[test]
fn only_the_text_of_an_event_is_rewritten() {
    let event = r#"id: 7
data: {"n":1.00, "choices" : [{"delta":{"content": "three\u002C \u00fcber"},"index":0}] , "x":[1 ,2]}

"#;
    let result = after("one two three", event);
    assert_eq!(result.forwarded, event.replace(r"three\u002C \u00fcber", ", über"));
    let lines =
        "event: x\nid: 7\ndata: {\"choices\":[{\"delta\":{\ndata: \"content\":\"three!\"}}]}\n\n";
    let expected = "event: x\ndata: {\"choices\":[{\"delta\":{ \"content\":\"!\"}}]}\n\n";
    assert_eq!(after("one two three", lines).forwarded, expected);
    assert_eq!(
        after("one two", lines).forwarded,
        "event: x\ndata: {\"choices\":[{\"delta\":{ \"content\":\"three!\"}}]}\n\n"
    );
}

#[test]
fn text_is_forwarded_as_soon_as_it_cannot_be_a_repetition() {
    let mut reader = reader(Dialect::Chat, "one two three");
    let mut read_event = |event: &str| {
        let forwarded = reader.read(Bytes::from(data(&[event]))).bytes;
        (forwarded.len(), reader.is_ready())
    };
    assert_eq!(read_event(&chunk(json!({ "role": "assistant" }), None)), (0, false));
    assert_eq!(read_event(&text_chunk("thr")), (0, false));
    assert!(read_event(&text_chunk("ow")).1, "`throw` does not repeat `three`");
    assert_eq!(read_event(&text_chunk("three")).0, data(&[&text_chunk("three")]).len());
}

#[test]
fn a_last_event_with_only_repeated_text_still_ends_the_response() {
    let last = chunk(json!({ "content": "three" }), Some("stop"));
    let result = after("one two three", &data(&[&last, "[DONE]"]));
    assert_eq!(result.forwarded, data(&[&last.replace("three", ""), "[DONE]"]));
    assert_eq!((result.end, result.is_ready), (StreamEnd::Complete, true));
}

#[test]
fn an_end_without_new_text_is_forwarded() {
    let end = chunk(json!({}), Some("stop"));
    let role = chunk(json!({ "role": "assistant", "content": "" }), None);
    for stream in [data(&[&role, &end, "[DONE]"]), data(&[&end, "[DONE]"])] {
        let result = after("one", &stream);
        assert_eq!(result.forwarded, data(&[&end, "[DONE]"]));
        assert_eq!(
            (result.end, result.is_ready, result.partial),
            (StreamEnd::Complete, true, None)
        );
    }
    assert_eq!(after("one", &data(&["[DONE]"])).forwarded, data(&["[DONE]"]));
}

#[test]
fn events_between_buffered_events_keep_their_order() {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 1 } }).to_string();
    let stream = data(&[&text_chunk("th"), &usage, &text_chunk("ink"), "[DONE]"]);
    assert_eq!(after("one two three", &stream).forwarded, stream);
}

#[test]
fn buffered_text_is_forwarded_when_the_stream_ends() {
    let result = after("one two three", &data(&[&text_chunk("one two")]));
    assert_eq!(
        (result.forwarded, result.end),
        (data(&[&text_chunk("one two")]), StreamEnd::NoEndMarker)
    );
    let result = after("one two three", &data(&[&text_chunk("one two three")]));
    assert_eq!((result.forwarded.as_str(), result.end), ("", StreamEnd::NoEndMarker));
}

#[test]
fn a_stream_that_cannot_be_joined_is_an_error() {
    let google = json!({ "candidates": [{ "content": { "parts": [{ "text": "Hi" }] } }] });
    let response = json!({ "type": "response.output_text.delta", "delta": "Hi" });
    let tools = chunk(json!({ "tool_calls": [{ "index": 0 }] }), None);
    let second = json!({ "choices": [{ "index": 1, "delta": { "content": "Hi" } }] });
    for stream in [
        data(&[&google.to_string()]),
        data(&[&response.to_string()]),
        data(&[&tools]),
        data(&[&second.to_string()]),
        named(&message(&["Hi"])[..1]),
        data(&[&text_chunk("x").replace("\"x\"", r#""\ud83d""#)]),
        data(&["x".repeat(300 << 10).as_str()]),
    ] {
        let result = after("one two three", &stream);
        assert_eq!(result.errors.first().map(|(_, class)| *class), Some(AttemptClass::Failure));
        assert!(!result.forwarded.contains("Hi"), "{}", result.forwarded);
    }
    let result = read(reader(Dialect::Messages, "one"), &[chat(&["Hi"]).as_bytes()]);
    assert_eq!(result.errors[0].1, AttemptClass::Failure);
}

#[test]
fn a_stream_that_starts_over_is_an_error() {
    let words = ["one ", "two ", "six"];
    for stream in
        [chat(&words), chat(&words[..2]), data(&[&text_chunk("one two "), &text_chunk("6")])]
    {
        let result = after("one two three", &stream);
        assert_eq!(result.errors.first().map(|(_, class)| *class), Some(AttemptClass::Failure));
        assert_eq!(text_of(&result.forwarded), "");
    }
    let unfinished = after("one two three", &data(&[&text_chunk("one two ")]));
    assert_eq!(
        (text_of(&unfinished.forwarded).as_str(), unfinished.end),
        ("", StreamEnd::NoEndMarker)
    );
}

#[test]
fn the_buffer_is_bounded() {
    let text = "a b ".repeat(20_000);
    let echo: Vec<String> = text.split_inclusive(' ').map(text_chunk).collect();
    let result = after(&text, &data(&echo.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(result.errors[0].1, AttemptClass::Failure);
}

#[test]
fn malformed_events_are_dropped() {
    let result =
        after("one", &data(&["{\"broken", "tick", "{\"n\":1}", &text_chunk(" two"), "[DONE]"]));
    assert_eq!(result.forwarded, data(&[&text_chunk(" two"), "[DONE]"]));
    assert_eq!((result.dropped, result.end), (2, StreamEnd::Complete));
}

#[test]
fn a_continuation_can_be_continued_again() {
    let result = after("one two ", &data(&[&text_chunk("two"), &text_chunk(" three")]));
    let text = "one two three".to_owned();
    assert_eq!(result.partial, Some(PartialResponse { dialect: Dialect::Chat, text }));
    assert_eq!(text_of(&result.forwarded), "three");
}

proptest! {
    #[test]
    fn the_joined_text_is_the_old_and_the_new_text_however_it_is_split(
        text in "([abü]{1,4}[ \n]{0,2}){0,6}", echo in 0usize..20,
        words in prop::collection::vec("[abü😀\" ]{0,4}", 0..6),
        whole in any::<bool>(), chats in any::<bool>(), cuts in cuts(),
    ) {
        let echo = &text[text.floor_char_boundary(text.len().saturating_sub(echo))..];
        let words: Vec<&str> = std::iter::once(echo).chain(words.iter().map(String::as_str)).collect();
        let new = words.concat();
        let mut overlap = Overlap::new(&text);
        let again = overlap.push(&new).unwrap_or_else(|| overlap.end());
        prop_assume!(!overlap.is_restart());
        let (stream, opening, dialect) = match chats {
            true => (chat(&words), "\"role\"", Dialect::Chat),
            false => (named(&message(&words)), "message_start", Dialect::Messages),
        };
        let end = if chats { ",\"finish_reason\":\"" } else { "event: content_block_stop" };
        let end = stream.find(end).and_then(|at| stream[..at].rfind(if chats { "data:" } else { "\n\n" }));
        let stream = if whole { &stream[..] } else { &stream[..end.expect("an end")] };
        let result = read(reader(dialect, &text), &cut(stream.as_bytes(), &cuts));
        prop_assert_eq!(text_of(&result.forwarded), &new[again..]);
        prop_assert_eq!(result.end, if whole { StreamEnd::Complete } else { StreamEnd::NoEndMarker });
        prop_assert!(!result.forwarded.contains(opening) && result.errors.is_empty());
        if let Some(partial) = result.partial {
            prop_assert!((text + &new[again..]).starts_with(&partial.text));
        }
    }
}
