//! A stream that goes on where another was cut: what an application reads of both is one answer.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::continuation::{Dialect, Overlap, PartialResponse};
use super::framing::StreamFormat;
use super::reader::{StreamEnd, StreamReader};
use super::reader_tests::{
    Seen, built_in, chat, chunk, cut, cuts, data, message, named, says, see,
};
use crate::resilience::outcome::AttemptClass;

fn reader(dialect: Dialect, said: &str) -> StreamReader {
    let partial = PartialResponse { dialect, text: said.to_owned() };
    StreamReader::continuing(built_in(), StreamFormat::Sse, 1 << 20, partial)
}

fn after(said: &str, stream: &str) -> Seen {
    see(reader(Dialect::Chat, said), &[stream.as_bytes()])
}

/// What the events say, in either dialect.
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
fn the_opening_is_left_out_and_what_is_said_again() {
    let seen = after("one two three", &chat(&["three", ", four", ", five"]));
    assert_eq!(seen.pass, chat(&[", four", ", five"]).split_once("\n\n").expect("two events").1);
    assert_eq!((seen.ended, seen.ready, seen.tokens.output), (StreamEnd::Complete, true, Some(10)));

    let stream = named(&message(&["three, ", "four"]));
    let seen = see(reader(Dialect::Messages, "one two three"), &[stream.as_bytes()]);
    assert_eq!(seen.pass, named(&message(&[", ", "four"])[3..]));
    assert_eq!((seen.ended, seen.tokens.input), (StreamEnd::Complete, Some(472)));
}

#[test]
fn only_the_text_of_an_event_is_written_anew() {
    let event = r#"id: 7
data: {"n":1.00, "choices" : [{"delta":{"content": "three\u002C \u00fcber"},"index":0}] , "x":[1 ,2]}

"#;
    let seen = after("one two three", event);
    assert_eq!(seen.pass, event.replace(r"three\u002C \u00fcber", ", über"));
    let lines =
        "event: x\nid: 7\ndata: {\"choices\":[{\"delta\":{\ndata: \"content\":\"three!\"}}]}\n\n";
    let expected = "event: x\ndata: {\"choices\":[{\"delta\":{ \"content\":\"!\"}}]}\n\n";
    assert_eq!(after("one two three", lines).pass, expected);
    assert_eq!(
        after("one two", lines).pass,
        "event: x\ndata: {\"choices\":[{\"delta\":{ \"content\":\"three!\"}}]}\n\n"
    );
}

#[test]
fn text_passes_as_soon_as_it_cannot_be_a_repetition() {
    let mut reader = reader(Dialect::Chat, "one two three");
    let mut take = |event: &str| {
        let passed = reader.read(Bytes::from(data(&[event]))).bytes;
        (passed.len(), reader.is_ready())
    };
    assert_eq!(take(&chunk(json!({ "role": "assistant" }), None)), (0, false));
    assert_eq!(take(&says("thr")), (0, false));
    assert!(take(&says("ow")).1, "`throw` is no `three`");
    assert_eq!(take(&says("three")).0, data(&[&says("three")]).len());
}

#[test]
fn a_last_event_that_only_repeats_still_ends_the_answer() {
    let last = chunk(json!({ "content": "three" }), Some("stop"));
    let seen = after("one two three", &data(&[&last, "[DONE]"]));
    assert_eq!(seen.pass, data(&[&last.replace("three", ""), "[DONE]"]));
    assert_eq!((seen.ended, seen.ready), (StreamEnd::Complete, true));
}

#[test]
fn an_end_without_any_new_text_passes() {
    let end = chunk(json!({}), Some("stop"));
    let role = chunk(json!({ "role": "assistant", "content": "" }), None);
    for stream in [data(&[&role, &end, "[DONE]"]), data(&[&end, "[DONE]"])] {
        let seen = after("one", &stream);
        assert_eq!(seen.pass, data(&[&end, "[DONE]"]));
        assert_eq!((seen.ended, seen.ready, seen.partial), (StreamEnd::Complete, true, None));
    }
    assert_eq!(after("one", &data(&["[DONE]"])).pass, data(&["[DONE]"]));
}

#[test]
fn what_stands_between_withheld_events_keeps_its_place() {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 1 } }).to_string();
    let stream = data(&[&says("th"), &usage, &says("ink"), "[DONE]"]);
    assert_eq!(after("one two three", &stream).pass, stream);
}

#[test]
fn withheld_text_passes_when_the_stream_ends() {
    let seen = after("one two three", &data(&[&says("one two")]));
    assert_eq!((seen.pass, seen.ended), (data(&[&says("one two")]), StreamEnd::NoEndMarker));
    let seen = after("one two three", &data(&[&says("one two three")]));
    assert_eq!((seen.pass.as_str(), seen.ended), ("", StreamEnd::NoEndMarker));
}

#[test]
fn what_cannot_be_joined_is_an_error() {
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
        data(&[&says("x").replace("\"x\"", r#""\ud83d""#)]),
        data(&["x".repeat(300 << 10).as_str()]),
    ] {
        let seen = after("one two three", &stream);
        assert_eq!(seen.errors.first().map(|(_, class)| *class), Some(AttemptClass::Failure));
        assert!(!seen.pass.contains("Hi"), "{}", seen.pass);
    }
    let seen = see(reader(Dialect::Messages, "one"), &[chat(&["Hi"]).as_bytes()]);
    assert_eq!(seen.errors[0].1, AttemptClass::Failure);
}

#[test]
fn what_is_withheld_has_a_bound() {
    let said = "a b ".repeat(20_000);
    let echo: Vec<String> = said.split_inclusive(' ').map(says).collect();
    let seen = after(&said, &data(&echo.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(seen.errors[0].1, AttemptClass::Failure);
}

#[test]
fn what_cannot_be_read_of_it_is_dropped() {
    let seen = after("one", &data(&["{\"broken", "tick", "{\"n\":1}", &says(" two"), "[DONE]"]));
    assert_eq!(seen.pass, data(&[&says(" two"), "[DONE]"]));
    assert_eq!((seen.dropped, seen.ended), (2, StreamEnd::Complete));
}

#[test]
fn it_can_be_gone_on_from_again() {
    let seen = after("one two ", &data(&[&says("two"), &says(" three")]));
    let text = "one two three".to_owned();
    assert_eq!(seen.partial, Some(PartialResponse { dialect: Dialect::Chat, text }));
    assert_eq!(text_of(&seen.pass), "three");
}

proptest! {
    #[test]
    fn the_joined_text_is_what_was_said_and_what_is_new_however_it_is_split(
        said in "([abü]{1,4}[ \n]{0,2}){0,6}", echo in 0usize..20,
        words in prop::collection::vec("[abü😀\" ]{0,4}", 0..6),
        whole in any::<bool>(), chats in any::<bool>(), cuts in cuts(),
    ) {
        let echo = &said[said.floor_char_boundary(said.len().saturating_sub(echo))..];
        let words: Vec<&str> = std::iter::once(echo).chain(words.iter().map(String::as_str)).collect();
        let new = words.concat();
        let mut overlap = Overlap::new(&said);
        let again = overlap.push(&new).unwrap_or_else(|| overlap.end());
        let (stream, opening, dialect) = match chats {
            true => (chat(&words), "\"role\"", Dialect::Chat),
            false => (named(&message(&words)), "message_start", Dialect::Messages),
        };
        let end = if chats { ",\"finish_reason\":\"" } else { "event: content_block_stop" };
        let end = stream.find(end).and_then(|at| stream[..at].rfind(if chats { "data:" } else { "\n\n" }));
        let stream = if whole { &stream[..] } else { &stream[..end.expect("an end")] };
        let seen = see(reader(dialect, &said), &cut(stream.as_bytes(), &cuts));
        prop_assert_eq!(text_of(&seen.pass), &new[again..]);
        prop_assert_eq!(seen.ended, if whole { StreamEnd::Complete } else { StreamEnd::NoEndMarker });
        prop_assert!(!seen.pass.contains(opening) && seen.errors.is_empty());
        if let Some(partial) = seen.partial {
            prop_assert!((said + &new[again..]).starts_with(&partial.text));
        }
    }
}
