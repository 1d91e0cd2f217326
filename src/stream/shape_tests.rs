//! Large events, streams under a wrong label, and the form of an error event.

use bytes::Bytes;
use serde_json::{Value, json};

use super::api::Api;
use super::framing::StreamFormat;
use super::interpret::TokenUsage;
use super::reader::{StreamEnd, StreamReader};
use super::reader_tests::{
    assert_complete, built_in, chat, data, message, named, read, sse, text_chunk,
};

#[test]
fn an_oversized_last_event_that_cannot_be_read_may_be_the_end() {
    let created = json!({ "type": "response.created", "response": {} });
    let stream = named(&[created]) + &data(&[&format!("{{{}", "x".repeat(300 << 10))]);
    let frames: Vec<_> = stream.as_bytes().chunks(32 << 10).collect();
    let result = read(StreamReader::new(built_in(), StreamFormat::Sse, 200, None), &frames);
    assert_eq!(
        (result.forwarded == stream, result.end, result.is_ready),
        (true, StreamEnd::Complete, true)
    );
    let delta = json!({ "type": "response.output_text.delta", "delta": "more" });
    let result = sse(&(stream + &named(&[delta])));
    assert_eq!(result.end, StreamEnd::NoEndMarker, "content followed it");
}

#[test]
fn an_oversized_event_is_read_while_it_passes() {
    let output =
        json!([{ "content": [{ "type": "output_text", "text": "é\n".repeat(100 << 10) }] }]);
    let created = json!({ "type": "response.created", "response": {} });
    let completed = json!({ "type": "response.completed", "response": {
        "output": output, "usage": { "input_tokens": 37, "output_tokens": 11 } } });
    let chunk = json!({ "object": "chat.completion.chunk", "padding": output,
        "choices": [{ "delta": { "content": "x".repeat(300 << 10) }, "finish_reason": null }],
        "usage": { "prompt_tokens": 37, "completion_tokens": 11 } });
    let lines = json!({ "model": "m", "message": output, "done": true, "eval_count": 11, "prompt_eval_count": 37 });
    let google = json!([{ "candidates": [{ "content": { "parts": output }, "finishReason": "STOP" }],
        "usageMetadata": { "promptTokenCount": 37, "candidatesTokenCount": 11 } }]);
    let message = json!({ "type": "message_start", "message": { "content": output,
        "usage": { "input_tokens": 37, "output_tokens": 11 } } });
    for (format, stream, end) in [
        (StreamFormat::Sse, named(&[created, completed]), StreamEnd::Complete),
        (StreamFormat::Sse, data(&[&chunk.to_string()]), StreamEnd::NoEndMarker),
        (StreamFormat::Sse, named(&[message]), StreamEnd::NoEndMarker),
        (
            StreamFormat::Sse,
            data(&[&chunk.to_string(), "[DONE]"]).replace('\n', "\r\n"),
            StreamEnd::Complete,
        ),
        (StreamFormat::Lines, format!("{lines}\n"), StreamEnd::Complete),
        (StreamFormat::Undetermined, google.to_string(), StreamEnd::Complete),
    ] {
        for size in [1 << 10, 64 << 10, 10 << 20] {
            let frames: Vec<_> = stream.as_bytes().chunks(size).collect();
            let result = read(StreamReader::new(built_in(), format, 200, None), &frames);
            assert!(result.forwarded == stream && result.is_ready);
            assert_eq!(
                result.usage,
                TokenUsage { input: Some(37), output: Some(11) },
                "{format:?} {size}"
            );
            assert_eq!(result.end, end, "{format:?} {size}");
        }
    }
}

#[test]
fn a_passing_event_takes_bounded_memory() {
    let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, None);
    reader.read("data: {\"choices\":[{\"delta\":{\"content\":\"".into());
    for _ in 0..1_000 {
        reader.read(Bytes::from(vec![b'x'; 10_000]));
        assert!(reader.buffered() <= 300 << 10);
    }
    let (_, end) = reader.end();
    assert_eq!(end, StreamEnd::Complete, "it may have been the end");
}

#[test]
fn oversized_events_follow_the_events_that_were_held_back() {
    let long = format!("data: {}\n\n", "x".repeat(300 << 10));
    let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, Some(10));
    let malformed = data(&["{\"broken"]);
    assert_eq!(reader.read(malformed.clone().into()).bytes, "");
    assert_eq!(reader.read(long.clone().into()).bytes, malformed + &long);
    assert_eq!((reader.dropped(), reader.partial()), (0, None));
}

#[test]
fn a_stream_under_a_wrong_label_is_read_in_the_format_that_it_has() {
    let mislabelled = |stream: &str| {
        let frames: Vec<_> = stream.as_bytes().chunks(7).collect();
        read(StreamReader::new(built_in(), StreamFormat::Undetermined, 200, None), &frames)
    };
    let part = |text: &str, finish: Value| {
        json!({ "candidates": [{ "content": { "parts": [{ "text": text }] }, "finishReason": finish }],
                "usageMetadata": { "promptTokenCount": 4, "candidatesTokenCount": 7 } })
    };
    let array = format!("[{}\n,\r\n{}\n]\n", part("a]\"[{", Value::Null), part("b", json!("STOP")));
    let lines = "{\"model\":\"m\",\"response\":\"a\",\"done\":false}\n{\"model\":\"m\",\"response\":\"\",\"done\":true}\n";
    for stream in
        [chat(&["Hi"]), array.clone(), lines.to_owned(), format!("\u{feff}{}", chat(&["Hi"]))]
    {
        let result = mislabelled(&stream);
        assert_eq!(
            (&result.forwarded, result.end, result.dropped),
            (&stream, StreamEnd::Complete, 0)
        );
        assert!(result.is_ready);
    }
    assert_eq!(mislabelled(&array).usage, TokenUsage { input: Some(4), output: Some(7) });
    let cut = array.trim_end().trim_end_matches(']');
    assert_eq!(mislabelled(cut).end, StreamEnd::NoEndMarker, "its bracket is missing");
    let unfinished = format!("[{}]", part("a", Value::Null));
    assert_eq!(mislabelled(&unfinished).end, StreamEnd::NoEndMarker, "its reason is missing");
    let error = mislabelled("[{\"error\":{\"code\":503,\"message\":\"overloaded\"}}]");
    assert_eq!(error.errors.len(), 1);
    for document in ["{\"choices\":[1]}", "{\n \"a\":1\n}\n", "[1,2]", "plain", "<html>", "{"] {
        let result = mislabelled(document);
        assert_eq!((result.forwarded.as_str(), result.end), (document, StreamEnd::Complete));
        assert!(!result.is_ready, "{document} is held to its end");
    }
    assert_eq!(mislabelled("").end, StreamEnd::Empty);
}

#[test]
fn a_stream_of_cohere_is_read() {
    let stream = named(&[
        json!({ "id": "c", "type": "message-start", "delta": { "message": { "role": "assistant", "content": [] } } }),
        json!({ "type": "content-start", "index": 0, "delta": { "message": { "content": { "type": "text", "text": "" } } } }),
        json!({ "type": "content-delta", "index": 0, "delta": { "message": { "content": { "text": "Hi" } } } }),
        json!({ "type": "content-end", "index": 0 }),
        json!({ "type": "message-end", "delta": { "finish_reason": "COMPLETE", "usage": {
            "tokens": { "input_tokens": 5, "output_tokens": 2 } } } }),
    ]);
    assert_complete(&stream, (5, 2), 3, StreamFormat::Sse);
    let result = sse(&stream.replace("COMPLETE", "ERROR"));
    assert_eq!(result.errors.len(), 1);
    let cut = stream.split("event: message-end").next().expect("a beginning");
    assert_eq!(sse(cut).end, StreamEnd::NoEndMarker);
}

#[test]
fn the_form_of_an_error_event_follows_from_the_stream() {
    let tail = |stream: &str, requested| {
        let mut reader = StreamReader::new(built_in(), StreamFormat::Sse, 200, None);
        reader.read(Bytes::from(stream.to_owned()));
        reader.tail(requested)
    };
    let chat = tail(&data(&[&text_chunk("a")]), Some(Api::Messages));
    assert_eq!((chat.api, chat.model.as_deref()), (Some(Api::Chat), Some("gpt-4o-2024-08-06")));
    assert!(chat.id.is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!(tail(&named(&message(&["a"])[..4]), None).api, Some(Api::Messages));
    let response =
        json!({ "type": "response.output_text.delta", "sequence_number": 41, "delta": "a" });
    let response = tail(&named(&[response]), None);
    assert_eq!((response.api, response.sequence), (Some(Api::Responses), 42));
    let google = json!({ "candidates": [{ "content": {} }] }).to_string();
    assert_eq!(tail(&data(&[&google]), None).api, Some(Api::Google));
    assert_eq!(tail(": nothing yet\n\n", Some(Api::Google)).api, Some(Api::Google));
    assert_eq!(tail(&data(&["tick"]), Some(Api::Chat)).api, None, "it is another vendor's");
}
