//! Arbitrary bytes as an event stream: no panic, no dependence on the splits, nothing is forwarded
//! that was not received, and the JSON scan agrees with serde_json.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger::json::pointer::Pointer;
use outrigger::json::pointer_set::PointerSet;
use outrigger::json::scan::{PointerMatches, find, scan};
use outrigger::stream::framing::{EventFramer, Piece, PieceKind, StreamFormat};
use outrigger::stream::reader::StreamReader;
use outrigger_fuzz::{INTERPRETERS, byte, frames, read, splits};
use serde::de::IgnoredAny;

const PATHS: [&str; 4] = ["/choices/0/delta/content", "/type", "/usage/prompt_tokens", "/a/1"];

static POINTERS: LazyLock<PointerSet> = LazyLock::new(|| {
    let mut pointers = PointerSet::default();
    for path in PATHS {
        pointers.slot(&Pointer::parse(path).expect("a pointer"));
    }
    pointers
});

fuzz_target!(|input: &[u8]| {
    let mut stream = input;
    let options = byte(&mut stream);
    let splits = splits(&mut stream);
    let format = if options & 1 == 0 { StreamFormat::Sse } else { StreamFormat::Lines };
    let split = frames(stream, &splits);

    let pieces = pieces(format, &split);
    assert_eq!(pieces, self::pieces(format, &[stream]));
    assert_eq!(pieces.iter().flat_map(|piece| piece.raw.to_vec()).collect::<Vec<_>>(), stream);
    for piece in &pieces {
        if let PieceKind::Event { data, .. } = &piece.kind {
            check_scan(data);
        }
    }

    let interpreter = &INTERPRETERS[usize::from(options >> 1 & 1)];
    let keep_text = (options & 4 != 0).then_some(usize::from(options));
    let reader = || StreamReader::new(Arc::clone(interpreter), format, 200, keep_text);
    let result = read(reader(), &split);
    assert_eq!(result, read(reader(), &[stream]));
    let errors: usize = result.errors.iter().map(|(raw, _)| raw.len()).sum();
    assert!(result.forwarded.len() + errors <= stream.len());
    if result.dropped == 0 && result.errors.is_empty() && result.is_ready {
        assert!(stream.starts_with(&result.forwarded), "it is forwarded unchanged");
    }
    interpreter.body_usage(stream, &mut PointerMatches::default());
});

/// The scan accepts the same texts as serde_json, and finds the same values with and without
/// checking the whole text.
fn check_scan(text: &[u8]) {
    let (mut strict, mut quick) = (PointerMatches::default(), PointerMatches::default());
    let is_json = scan(text, &POINTERS, &mut strict).is_ok();
    let is_found = find(text, &POINTERS, &mut quick).is_ok();
    if is_json {
        assert!(is_found && (0..PATHS.len()).all(|slot| strict.at(slot) == quick.at(slot)));
    }
    let theirs = std::str::from_utf8(text)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    // serde_json skips values of any depth.
    let may_be_too_deep = text.iter().filter(|b| matches!(b, b'{' | b'[')).count() > 128;
    assert!(is_json == theirs || may_be_too_deep, "{text:?}");
}

fn pieces(format: StreamFormat, frames: &[&[u8]]) -> Vec<Piece> {
    let mut framer = EventFramer::new(format);
    let mut pieces = Vec::new();
    for frame in frames {
        framer.push(Bytes::copy_from_slice(frame));
        pieces.extend(framer.by_ref());
    }
    pieces.extend(framer.rest());
    pieces
}
