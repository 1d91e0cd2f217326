//! Joins a continuation to the stream that it continues.
//!
//! The opening events of the second stream are left out, and text that repeats the end of the
//! first. From its first text on, events are buffered until it is known how much of the text is a
//! repetition. An event with only repeated text is left out, unless it also ends the response; one
//! with repeated and new text keeps the new text and is otherwise unchanged.

use std::ops::Range;

use bytes::Bytes;

use super::continuation::{Dialect, Overlap, PartialResponse};
use super::framing::{Piece, PieceKind};
use super::transcript::Delta;

/// Most bytes that are buffered.
const MAX_BUFFERED: usize = 1 << 20;

/// Buffers the events of a continuation until its first new text is known.
#[derive(Debug)]
pub struct Splice {
    dialect: Dialect,
    overlap: Overlap,
    buffered: Vec<BufferedEvent>,
    bytes: usize,
}

#[derive(Debug)]
struct BufferedEvent {
    raw: Vec<u8>,
    text: Option<BufferedText>,
    is_end: bool,
}

#[derive(Debug)]
struct BufferedText {
    /// Its position in the event's raw bytes, quotes included.
    range: Range<usize>,
    value: String,
}

/// The second stream does not continue the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpliceError;

/// The new text, and the events that contain it.
#[derive(Debug)]
pub struct SpliceOutput {
    pub text: String,
    pub events: Vec<Bytes>,
}

impl Splice {
    pub fn new(partial: &PartialResponse) -> Splice {
        let overlap = Overlap::new(&partial.text);
        Splice { dialect: partial.dialect, overlap, buffered: Vec::new(), bytes: 0 }
    }

    /// Takes an event. Once the extent of the repetition is known, returns what to forward, this
    /// event included.
    pub fn push(
        &mut self,
        piece: &Piece,
        delta: &Delta<'_>,
    ) -> Result<Option<SpliceOutput>, SpliceError> {
        if delta.is_other || delta.dialect.is_some_and(|dialect| dialect != self.dialect) {
            return Err(SpliceError);
        }
        let has_text = delta.text.is_some();
        let is_known = has_text && self.overlap.push(delta.text()).is_some();
        if has_text || delta.is_end || !self.buffered.is_empty() {
            let event = BufferedEvent::new(piece, delta);
            self.bytes += event.raw.len();
            self.buffered.push(event);
        }
        if is_known || delta.is_end {
            return self.finish().map(Some);
        }
        if self.bytes > MAX_BUFFERED { Err(SpliceError) } else { Ok(None) }
    }

    /// Releases the buffered events: the repetition is known or the stream has ended.
    ///
    /// # Errors
    /// When the stream starts the response over.
    pub fn finish(&mut self) -> Result<SpliceOutput, SpliceError> {
        let mut repeated = self.overlap.end();
        if self.overlap.is_restart() {
            return Err(SpliceError);
        }
        let mut text = String::new();
        let mut events = Vec::new();
        for event in std::mem::take(&mut self.buffered) {
            let own = event.text.as_ref().map_or("", |text| text.value.as_str());
            let skip = repeated.min(own.len());
            repeated -= skip;
            text.push_str(&own[skip..]);
            events.extend(event.without(skip).map(Bytes::from));
        }
        Ok(SpliceOutput { text, events })
    }
}

impl BufferedEvent {
    fn new(piece: &Piece, delta: &Delta<'_>) -> BufferedEvent {
        let is_end = delta.is_end;
        let PieceKind::Event { name, data } = &piece.kind else {
            return BufferedEvent { raw: piece.raw.to_vec(), text: None, is_end };
        };
        let at = (data.as_ptr() as usize).wrapping_sub(piece.raw.as_ptr() as usize);
        let is_one_line = at < piece.raw.len() && piece.raw[at..].starts_with(data);
        let (raw, at) = match (&delta.text, is_one_line) {
            (Some(_), false) => join_lines(name, data),
            _ => (piece.raw.to_vec(), at),
        };
        let text = delta.text.as_ref().map(|text| BufferedText {
            range: text.range.start + at..text.range.end + at,
            value: text.value.clone().into_owned(),
        });
        BufferedEvent { raw, text, is_end }
    }

    /// The event without the first `skip` bytes of its text; `None` if nothing is left of it.
    fn without(self, skip: usize) -> Option<Vec<u8>> {
        match self.text {
            Some(text) if skip == text.value.len() && skip > 0 && !self.is_end => None,
            Some(text) if skip > 0 => {
                let quoted = serde_json::Value::from(&text.value[skip..]).to_string();
                let (before, after) = (&self.raw[..text.range.start], &self.raw[text.range.end..]);
                Some([before, quoted.as_bytes(), after].concat())
            }
            _ => Some(self.raw),
        }
    }
}

/// Rewrites an event with its data on one line. Returns it with the position of its data. Line
/// breaks in JSON stand only between tokens, because they are escaped inside a string.
fn join_lines(name: &[u8], data: &[u8]) -> (Vec<u8>, usize) {
    let name = if name.is_empty() { Vec::new() } else { [b"event: ", name, b"\n"].concat() };
    let head = [&name[..], b"data: "].concat();
    let data: Vec<u8> = data.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
    let at = head.len();
    ([&head[..], &data, b"\n\n"].concat(), at)
}
