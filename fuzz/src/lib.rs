//! What the targets share: an input that begins with where it is split, and what is seen of a
//! stream that is taken frame by frame to its end.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use outrigger::policy::sections::model::{Mark, Stream};
use outrigger::json::pointer::Pointer;
use outrigger::policy::{self, SourceFile, Sources};
use outrigger::resilience::outcome::Class;
use outrigger::stream::continuation::Partial;
use outrigger::stream::reader::{Ended, Reader};
use outrigger::stream::interpret::{Reading, Tokens};

const POLICY: &str = "version: 1
providers: { p: { url: http://127.0.0.1:1, auth: none } }
routes: [ { name: r, providers: [p] } ]
";

struct Nothing;

impl Sources for Nothing {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// As the shapes that are known are read; and with content and ends that a policy declares.
pub static READINGS: LazyLock<[Arc<Reading>; 2]> = LazyLock::new(|| {
    let file = SourceFile { name: "p.yaml".to_owned(), bytes: POLICY.into() };
    let loaded = policy::load(&[file], &Nothing).expect("a policy");
    let provider = &loaded.policy.providers[0];
    let pointer = |text: &str| Pointer::parse(text).expect("a pointer");
    let declared = Stream {
        content: Some(vec![pointer("/a/0"), pointer("/b")]),
        terminal: Some(vec![Mark::Text("end".to_owned()), Mark::Present(pointer("/c"))]),
        ..Stream::default()
    };
    [Stream::default(), declared].map(|stream| Arc::new(Reading::new(&stream, provider)))
});

/// Takes a byte off the input.
pub fn byte(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// Takes what decides the splits off the input: up to seven places.
pub fn places(input: &mut &[u8]) -> Vec<usize> {
    let count = byte(input) % 8;
    (0..count).map(|_| usize::from(byte(input)) << 8 | usize::from(byte(input))).collect()
}

/// The text in frames.
pub fn frames<'t>(text: &'t [u8], places: &[usize]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = places.iter().map(|place| place % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// What came of a stream.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub pass: Vec<u8>,
    pub errors: Vec<(Bytes, Class)>,
    pub ended: Ended,
    pub tokens: Tokens,
    pub dropped: u64,
    pub unread: u64,
    pub ready: bool,
    /// Before the end.
    pub partial: Option<Partial>,
}

pub fn see(mut reader: Reader, frames: &[&[u8]]) -> Seen {
    let (mut pass, mut errors) = (Vec::new(), Vec::new());
    for frame in frames {
        let mut frame = Bytes::copy_from_slice(frame);
        loop {
            let taken = reader.take(frame);
            pass.extend_from_slice(&taken.pass);
            let Some(error) = taken.error else { break };
            errors.push((error.raw, error.class));
            frame = Bytes::new();
        }
    }
    let partial = reader.partial();
    let (rest, ended) = reader.end();
    pass.extend_from_slice(&rest);
    let (tokens, dropped) = (reader.tokens(), reader.dropped());
    let (unread, ready) = (reader.unread(), reader.ready());
    Seen { pass, errors, ended, tokens, dropped, unread, ready, partial }
}
