//! A partial text and a stream that continues it: the joined text is the old text and the new one,
//! however the stream is split, and a continuation request is the request with an insertion.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use outrigger::stream::continuation::{Dialect, Overlap, PartialResponse};
use outrigger::stream::framing::StreamFormat;
use outrigger::stream::reader::{StreamEnd, StreamReader};
use outrigger_fuzz::{INTERPRETERS, byte, frames, read, splits};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let options = byte(&mut rest);
    let splits = splits(&mut rest);
    let length = usize::from(byte(&mut rest)).min(rest.len());
    let (text, rest) = rest.split_at(length);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let dialect = if options & 1 == 0 { Dialect::Chat } else { Dialect::Messages };
    let partial = PartialResponse { dialect, text: text.to_owned() };
    check_request(&partial, rest);
    let reader = || {
        let interpreter = Arc::clone(&INTERPRETERS[0]);
        StreamReader::continuing(interpreter, StreamFormat::Sse, 1 << 16, partial.clone())
    };
    // Arbitrary bytes as the continuation.
    assert_eq!(read(reader(), &frames(rest, &splits)), read(reader(), &[rest]));

    // A valid continuation, which may begin with the end of the partial text.
    let Ok(new) = std::str::from_utf8(rest) else { return };
    let repeated = text.len().saturating_sub(usize::from(options >> 2));
    let repetition = &text[text.floor_char_boundary(repeated)..];
    let new = if options & 2 == 0 { new.to_owned() } else { repetition.to_owned() + new };
    let mut overlap = Overlap::new(text);
    let repeated = overlap.push(&new).unwrap_or_else(|| overlap.end());
    if overlap.is_restart() {
        return;
    }
    assert!(new.is_char_boundary(repeated) && text.contains(new[..repeated].trim_end()));
    let words = words(&new, &splits);
    let stream = stream(dialect, &words);
    let result = read(reader(), &frames(stream.as_bytes(), &splits));
    assert_eq!(text_of(&result.forwarded), new[repeated..]);
    assert!(result.errors.is_empty() && result.is_ready && result.end == StreamEnd::Complete);
});

fn words<'t>(text: &'t str, splits: &[usize]) -> Vec<&'t str> {
    let mut cuts: Vec<_> =
        splits.iter().map(|split| text.floor_char_boundary(split % (text.len() + 1))).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn stream(dialect: Dialect, words: &[&str]) -> String {
    let (event, end): (fn(&str) -> Value, Value) = match dialect {
        Dialect::Chat => (
            |word| json!({ "choices": [{ "index": 0, "delta": { "content": word } }] }),
            json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
        ),
        Dialect::Messages => (
            |word| json!({ "type": "content_block_delta", "index": 0, "delta": { "text": word } }),
            json!({ "type": "message_stop" }),
        ),
    };
    let events = words.iter().map(|word| event(word)).chain([end]);
    events.map(|event| format!("data: {event}\n\n")).collect()
}

fn text_of(stream: &[u8]) -> String {
    let stream = std::str::from_utf8(stream).expect("text");
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = events.map(|data| serde_json::from_str::<Value>(data).expect("JSON"));
    let text = |event: Value| {
        let chat = event["choices"][0]["delta"]["content"].as_str();
        chat.or(event["delta"]["text"].as_str()).map(str::to_owned)
    };
    values.filter_map(text).collect()
}

fn check_request(partial: &PartialResponse, body: &[u8]) {
    let Some(request) = partial.continuation_request(body) else { return };
    let same = request.iter().zip(body).take_while(|(a, b)| a == b).count();
    assert!(request.ends_with(&body[same..]), "there is an insertion and no other change");
    if serde_json::from_slice::<Value>(body).is_err() {
        // The body contains half of a surrogate pair, which is JSON but not text.
        serde_json::from_slice::<IgnoredAny>(&request).expect("JSON");
        return;
    }
    let request: Value = serde_json::from_slice(&request).expect("JSON");
    let last = request["messages"].as_array().expect("messages").last();
    let text = partial.text.trim_end();
    if !text.is_empty() {
        let content = last.and_then(|last| last["content"].as_str()).expect("a last message");
        assert!(content.ends_with(text));
    }
}
