//! A text that was said, and another stream, or another text, that goes on from it: what is joined
//! is what was said and what is new, however it is split; and a request to go on is the request with
//! something put in.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use outrigger::stream::framing::Format;
use outrigger::stream::continuation::{Dialect, Overlap, Partial};
use outrigger::stream::reader::{Ended, Reader};
use outrigger_fuzz::{READINGS, byte, frames, places, see};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let how = byte(&mut rest);
    let places = places(&mut rest);
    let length = usize::from(byte(&mut rest)).min(rest.len());
    let (said, rest) = rest.split_at(length);
    let Ok(said) = std::str::from_utf8(said) else { return };
    let dialect = if how & 1 == 0 { Dialect::Chat } else { Dialect::Messages };
    let partial = Partial { dialect, text: said.to_owned() };
    request(&partial, rest);
    let reader = |partial: &Partial| {
        Reader::continuing(Arc::clone(&READINGS[0]), Format::Sse, 1 << 16, partial.clone())
    };
    // Whatever comes.
    assert_eq!(see(reader(&partial), &frames(rest, &places)), see(reader(&partial), &[rest]));

    // What such a stream says, in pieces, and perhaps beginning with the end of what was said.
    let Ok(new) = std::str::from_utf8(rest) else { return };
    let echo = said.floor_char_boundary(said.len().saturating_sub(usize::from(how >> 2)));
    let new = if how & 2 == 0 { new.to_owned() } else { said[echo..].to_owned() + new };
    let mut overlap = Overlap::new(said);
    let again = overlap.push(&new).unwrap_or_else(|| overlap.end());
    assert!(new.is_char_boundary(again) && said.contains(new[..again].trim_end()));
    let words = words(&new, &places);
    let stream = stream(dialect, &words);
    let seen = see(reader(&partial), &frames(stream.as_bytes(), &places));
    assert_eq!(text_of(&seen.pass), new[again..]);
    assert!(seen.errors.is_empty() && seen.ready && seen.ended == Ended::Whole);
});

fn words<'t>(text: &'t str, places: &[usize]) -> Vec<&'t str> {
    let mut cuts: Vec<_> =
        places.iter().map(|place| text.floor_char_boundary(place % (text.len() + 1))).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn stream(dialect: Dialect, words: &[&str]) -> String {
    let (says, end): (fn(&str) -> Value, Value) = match dialect {
        Dialect::Chat => (
            |word| json!({ "choices": [{ "index": 0, "delta": { "content": word } }] }),
            json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
        ),
        Dialect::Messages => (
            |word| json!({ "type": "content_block_delta", "index": 0, "delta": { "text": word } }),
            json!({ "type": "message_stop" }),
        ),
    };
    let events = words.iter().map(|word| says(word)).chain([end]);
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

fn request(partial: &Partial, body: &[u8]) {
    let Some(asked) = partial.request(body) else { return };
    let same = asked.iter().zip(body).take_while(|(a, b)| a == b).count();
    assert!(asked.ends_with(&body[same..]), "something is put in, and nothing else is changed");
    if serde_json::from_slice::<Value>(body).is_err() {
        // It has half of a surrogate pair, which is JSON, but no text.
        serde_json::from_slice::<IgnoredAny>(&asked).expect("JSON");
        return;
    }
    let asked: Value = serde_json::from_slice(&asked).expect("JSON");
    let last = asked["messages"].as_array().expect("messages").last();
    let said = partial.text.trim_end();
    if !said.is_empty() {
        let content = last.and_then(|last| last["content"].as_str()).expect("a last message");
        assert!(content.ends_with(said));
    }
}
