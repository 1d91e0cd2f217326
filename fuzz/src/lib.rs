//! Shared by the fuzz targets: an input that begins with its split positions, and the results of
//! reading a stream frame by frame.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use outrigger::json::pointer::Pointer;
use outrigger::policy::sections::model::{Mark, Stream};
use outrigger::policy::{self, SourceFile, Sources};
use outrigger::resilience::outcome::AttemptClass;
use outrigger::stream::continuation::PartialResponse;
use outrigger::stream::interpret::{Interpreter, TokenUsage};
use outrigger::stream::reader::{StreamEnd, StreamReader};

const POLICY: &str = "version: 1
providers: { p: { url: http://127.0.0.1:1, auth: none } }
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

/// One interpreter for the built-in formats, and one for declared content and end markers.
pub static INTERPRETERS: LazyLock<[Arc<Interpreter>; 2]> = LazyLock::new(|| {
    let file = SourceFile { name: "p.yaml".to_owned(), bytes: POLICY.into() };
    let loaded = policy::load(&[file], &NoSources).expect("a policy");
    let provider = &loaded.policy.providers[0];
    let pointer = |text: &str| Pointer::parse(text).expect("a pointer");
    let declared = Stream {
        content: Some(vec![pointer("/a/0"), pointer("/b")]),
        terminal: Some(vec![Mark::Text("end".to_owned()), Mark::Present(pointer("/c"))]),
        ..Stream::default()
    };
    [Stream::default(), declared].map(|stream| Arc::new(Interpreter::new(&stream, provider)))
});

/// Takes a byte off the input.
pub fn byte(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// Takes up to seven split positions off the input.
pub fn splits(input: &mut &[u8]) -> Vec<usize> {
    let count = byte(input) % 8;
    (0..count).map(|_| usize::from(byte(input)) << 8 | usize::from(byte(input))).collect()
}

/// Splits the text into frames.
pub fn frames<'t>(text: &'t [u8], splits: &[usize]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = splits.iter().map(|split| split % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// The results of reading a stream to its end.
#[derive(Debug, PartialEq)]
pub struct StreamResult {
    pub forwarded: Vec<u8>,
    pub errors: Vec<(Bytes, AttemptClass)>,
    pub end: StreamEnd,
    pub usage: TokenUsage,
    pub dropped: u64,
    pub is_ready: bool,
    /// The partial text before the end.
    pub partial: Option<PartialResponse>,
}

pub fn read(mut reader: StreamReader, frames: &[&[u8]]) -> StreamResult {
    let (mut forwarded, mut errors) = (Vec::new(), Vec::new());
    for frame in frames {
        let mut frame = Bytes::copy_from_slice(frame);
        loop {
            let outcome = reader.read(frame);
            forwarded.extend_from_slice(&outcome.bytes);
            let Some(error) = outcome.error else { break };
            errors.push((error.raw, error.class));
            frame = Bytes::new();
        }
    }
    let partial = reader.partial();
    let (rest, end) = reader.end();
    forwarded.extend_from_slice(&rest);
    let (usage, dropped) = (reader.usage(), reader.dropped());
    let is_ready = reader.is_ready();
    StreamResult { forwarded, errors, end, usage, dropped, is_ready, partial }
}
