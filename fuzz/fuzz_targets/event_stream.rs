//! Any bytes as an event stream: nothing panics, nothing depends on where it is split, what passes
//! came, and JSON is what serde_json says it is.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger::json::pointer::Pointer;
use outrigger::stream::framing::{Events, Format, Kind, Piece};
use outrigger::json::scan::{Found, find, scan};
use outrigger::json::pointer_set::Pointers;
use outrigger::stream::reader::Reader;
use outrigger_fuzz::{READINGS, byte, frames, places, see};
use serde::de::IgnoredAny;

const WAYS: [&str; 4] = ["/choices/0/delta/content", "/type", "/usage/prompt_tokens", "/a/1"];

static POINTERS: LazyLock<Pointers> = LazyLock::new(|| {
    let mut pointers = Pointers::default();
    for way in WAYS {
        pointers.slot(&Pointer::parse(way).expect("a pointer"));
    }
    pointers
});

fuzz_target!(|input: &[u8]| {
    let mut stream = input;
    let how = byte(&mut stream);
    let places = places(&mut stream);
    let format = if how & 1 == 0 { Format::Sse } else { Format::Lines };
    let split = frames(stream, &places);

    let pieces = pieces(format, &split);
    assert_eq!(pieces, self::pieces(format, &[stream]));
    assert_eq!(pieces.iter().flat_map(|piece| piece.raw.to_vec()).collect::<Vec<_>>(), stream);
    for piece in &pieces {
        if let Kind::Event { data, .. } = &piece.kind {
            found_alike(data);
            let ours = scan(data, &Pointers::default(), &mut Found::default()).is_ok();
            let text = std::str::from_utf8(data);
            let theirs = text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
            // serde_json passes over any depth.
            let deep = data.iter().filter(|b| matches!(b, b'{' | b'[')).count() > 128;
            assert!(ours == theirs || deep, "{data:?}");
        }
    }

    let reading = &READINGS[usize::from(how >> 1 & 1)];
    let keep = (how & 4 != 0).then_some(usize::from(how));
    let reader = || Reader::new(Arc::clone(reading), format, 200, keep);
    let seen = see(reader(), &split);
    assert_eq!(seen, see(reader(), &[stream]));
    let errors: usize = seen.errors.iter().map(|(raw, _)| raw.len()).sum();
    assert!(seen.pass.len() + errors <= stream.len());
    if seen.dropped == 0 && seen.errors.is_empty() && seen.ready {
        assert!(stream.starts_with(&seen.pass), "it passes as it came");
    }
    reading.whole(stream, &mut Found::default());
});

/// In a text that is JSON, what is found is the same whether all of it is checked or not.
fn found_alike(text: &[u8]) {
    let (mut strict, mut quick) = (Found::default(), Found::default());
    let is_json = scan(text, &POINTERS, &mut strict).is_ok();
    let is_found = find(text, &POINTERS, &mut quick).is_ok();
    if is_json {
        assert!(is_found && (0..WAYS.len()).all(|slot| strict.at(slot) == quick.at(slot)));
    }
}

fn pieces(format: Format, frames: &[&[u8]]) -> Vec<Piece> {
    let mut events = Events::new(format);
    let mut pieces = Vec::new();
    for frame in frames {
        events.push(Bytes::copy_from_slice(frame));
        pieces.extend(events.by_ref());
    }
    pieces.extend(events.rest());
    pieces
}
