//! Splits a byte stream into events, independent of how the network split it.
//!
//! There are three formats: the event stream of WHATWG HTML (9.2: LF, CR or CRLF, fields, comments;
//! an empty line ends an event), JSON texts on separate lines, and a JSON array whose elements are the
//! events. A stream under a wrong label shows its format by its first bytes (`detect`). An event is
//! returned whole and with its raw bytes, so that it is forwarded unchanged. A frame of whole events
//! is not copied. An event longer than 256 KiB is returned unread and in parts, in bounded memory.
//!
//! A CR at the end of the input waits for the next byte, which may be its LF. After a line that
//! ended with a bare CR it does not wait: the event ends there, and an LF that follows is an empty
//! line of its own.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::detect::{ArrayScanner, detect};

/// A longer event is not read. It is returned in parts.
const LONGEST: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// `text/event-stream`.
    Sse,
    /// One JSON text per line.
    Lines,
    /// The elements of one JSON array.
    Array,
    /// Not known yet: the label is not that of a stream, but a stream was requested.
    Undetermined,
    /// It is no stream but one document, which is not read.
    Document,
}

/// An event, or a part of an oversized one, with its raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub raw: Bytes,
    pub kind: PieceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Event {
        /// Empty if the event has no name.
        name: Bytes,
        data: Bytes,
    },
    /// Comments, empty lines, fields without data.
    NoData,
    /// A part of an event that is too long to be read.
    Oversized { is_last: bool },
    /// A part of a document.
    Document,
}

/// Takes bytes, returns events.
#[derive(Debug)]
pub struct EventFramer {
    format: StreamFormat,
    /// The last input, not searched yet; empty while an event is unfinished.
    input: Bytes,
    /// The beginning of an unfinished event.
    held: Vec<u8>,
    /// How much of `held` was searched.
    searched: usize,
    /// Inside an oversized event.
    is_inside: bool,
    has_started: bool,
    array: ArrayScanner,
}

impl EventFramer {
    pub fn new(format: StreamFormat) -> Self {
        EventFramer {
            format,
            input: Bytes::new(),
            held: Vec::new(),
            searched: 0,
            is_inside: false,
            has_started: false,
            array: ArrayScanner::default(),
        }
    }

    /// The format, as far as it is known.
    pub fn format(&self) -> StreamFormat {
        self.format
    }

    /// Whether the elements of an array have ended; true for every other format.
    pub fn is_closed(&self) -> bool {
        self.format != StreamFormat::Array || self.array.is_closed()
    }

    /// Adds input.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.held.is_empty() && self.input.is_empty() {
            self.input = bytes;
        } else {
            self.held.extend_from_slice(&std::mem::take(&mut self.input));
            self.held.extend_from_slice(&bytes);
        }
    }

    /// The unfinished event at the end of the stream, as if it were complete.
    pub fn rest(&mut self) -> Option<Piece> {
        if self.format == StreamFormat::Undetermined && !self.held.is_empty() {
            self.format = StreamFormat::Document;
        }
        let raw = Bytes::from(std::mem::take(&mut self.held));
        self.searched = 0;
        (!raw.is_empty()).then(|| self.piece(raw))
    }

    /// The number of bytes of the unfinished event.
    pub fn buffered(&self) -> usize {
        self.held.len()
    }

    /// Whether a part of the unfinished event was already returned.
    pub fn is_inside_event(&self) -> bool {
        self.is_inside
    }

    /// Returns the start of the unfinished event unread, except for bytes that may belong to its
    /// end.
    pub fn flush_unread(&mut self) -> Option<Piece> {
        if self.format == StreamFormat::Undetermined {
            self.format = StreamFormat::Document;
            return self.rest();
        }
        if self.held.len() <= 3 {
            return None;
        }
        self.is_inside = true;
        let kept = self.held.split_off(self.held.len() - 3);
        let raw = Bytes::from(std::mem::replace(&mut self.held, kept));
        self.searched = self.held.len();
        Some(Piece { raw, kind: PieceKind::Oversized { is_last: false } })
    }

    /// Determines the format by what is held. Returns false if that is not enough.
    fn determine(&mut self) -> bool {
        self.held.extend_from_slice(&std::mem::take(&mut self.input));
        let Some(format) = detect(&self.held) else { return false };
        self.format = format;
        self.input = Bytes::from(std::mem::take(&mut self.held));
        self.searched = 0;
        true
    }

    fn finish(&mut self) -> Option<Piece> {
        // Two line ends make the end of an event, and the input may have split one of them.
        let from = self.searched.saturating_sub(3);
        let from = if self.format == StreamFormat::Array { self.searched } else { from };
        let end = event_end(self.format, &mut self.array, &self.held, from, self.is_inside);
        match end {
            Some(end) => {
                self.input = Bytes::from(std::mem::take(&mut self.held));
                self.searched = 0;
                let raw = self.input.split_to(end);
                Some(self.piece(raw))
            }
            None => {
                self.searched = self.held.len();
                self.flush_oversized()
            }
        }
    }

    /// Flushes the event if it is oversized.
    fn flush_oversized(&mut self) -> Option<Piece> {
        let enough = if self.is_inside { 3 } else { LONGEST };
        if self.held.len() <= enough { None } else { self.flush_unread() }
    }

    fn piece(&mut self, raw: Bytes) -> Piece {
        let first = !std::mem::replace(&mut self.has_started, true);
        let inside = std::mem::take(&mut self.is_inside);
        if inside || raw.len() > LONGEST {
            return Piece { raw, kind: PieceKind::Oversized { is_last: true } };
        }
        let kind = match self.format {
            StreamFormat::Lines => {
                let line = if first { without_mark(&raw) } else { &raw[..] }.trim_ascii();
                if line.is_empty() {
                    PieceKind::NoData
                } else {
                    PieceKind::Event { name: Bytes::new(), data: raw.slice_ref(line) }
                }
            }
            StreamFormat::Sse => fields(&raw, first),
            StreamFormat::Array => {
                let element = without_separator(&raw);
                if element.first() == Some(&b'{') {
                    PieceKind::Event { name: Bytes::new(), data: raw.slice_ref(element) }
                } else {
                    PieceKind::NoData
                }
            }
            StreamFormat::Undetermined | StreamFormat::Document => PieceKind::Document,
        };
        Piece { raw, kind }
    }
}

/// The end of the event whose end was not found before `from`.
fn event_end(
    format: StreamFormat,
    array: &mut ArrayScanner,
    text: &[u8],
    from: usize,
    is_inside: bool,
) -> Option<usize> {
    match format {
        StreamFormat::Lines => memchr(b'\n', &text[from..]).map(|at| from + at + 1),
        StreamFormat::Sse => empty_line(text, from, is_inside),
        StreamFormat::Array => array.element_end(&text[from..]).map(|end| from + end),
        StreamFormat::Undetermined => None,
        StreamFormat::Document => Some(text.len()),
    }
}

/// The events that are complete so far; there may be more after the next push.
impl Iterator for EventFramer {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.format == StreamFormat::Undetermined && !self.determine() {
            return None;
        }
        if !self.held.is_empty() {
            return self.finish();
        }
        if self.input.is_empty() {
            return None;
        }
        let end = event_end(self.format, &mut self.array, &self.input, 0, self.is_inside);
        let Some(end) = end else {
            self.held.extend_from_slice(&std::mem::take(&mut self.input));
            self.searched = self.held.len();
            return self.flush_oversized();
        };
        let raw = self.input.split_to(end);
        Some(self.piece(raw))
    }
}

fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// The end of the empty line that ends an event. An empty line at the very beginning counts, but
/// not `inside` an event whose beginning was already returned.
fn empty_line(text: &[u8], from: usize, inside: bool) -> Option<usize> {
    if from == 0 && !inside && text.first().is_some_and(|b| is_line_end(*b)) {
        return line_end(text, 0, false);
    }
    let mut at = from;
    loop {
        at += memchr2(b'\n', b'\r', &text[at..])?;
        let bare = text[at] == b'\r' && text.get(at + 1).is_some_and(|b| *b != b'\n');
        at = line_end(text, at, false)?;
        if text.get(at).is_some_and(|b| is_line_end(*b)) {
            return line_end(text, at, bare);
        }
    }
}

/// The end of the line break at `at`. `bare`: the line break before it was a single CR, so that
/// the end of this one is known without the next byte.
fn line_end(text: &[u8], at: usize, bare: bool) -> Option<usize> {
    match (text.get(at)?, text.get(at + 1)) {
        (b'\r', _) if bare => Some(at + 1),
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) => None,
        _ => Some(at + 1),
    }
}

/// The lines of an event; CRLF counts as two line ends.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = memchr2(b'\n', b'\r', text).unwrap_or(text.len());
        let line = &text[..end];
        let more = !text.is_empty();
        text = text.get(end + 1..).unwrap_or_default();
        more.then_some(line)
    })
}

/// Without the byte order mark that a stream may begin with.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// An element of an array without the comma before it.
fn without_separator(element: &[u8]) -> &[u8] {
    let element = element.trim_ascii();
    element.strip_prefix(b",").unwrap_or(element).trim_ascii()
}

fn fields(raw: &Bytes, first: bool) -> PieceKind {
    let mut text: &[u8] = raw;
    if first {
        text = without_mark(text);
    }
    let (mut name, mut data) = (Bytes::new(), None::<Bytes>);
    let mut joined = Vec::new();
    for line in lines(text) {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => name = raw.slice_ref(value.trim_ascii_end()),
            b"data" => {
                if let Some(before) = data.replace(raw.slice_ref(value)) {
                    if joined.is_empty() {
                        joined.extend_from_slice(&before);
                    }
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
            }
            _ => {}
        }
    }
    match data {
        None => PieceKind::NoData,
        Some(_) if !joined.is_empty() => PieceKind::Event { name, data: joined.into() },
        Some(data) => PieceKind::Event { name, data },
    }
}

/// The forwarded part of a frame, without a copy where possible. While the pieces are adjacent in the
/// frame, the result is a slice of it. Once a piece is left out between them, or another one is
/// inserted, the result is a copy.
#[derive(Debug, Default)]
pub struct PassthroughBuffer {
    frame: Bytes,
    from: usize,
    to: usize,
    copied: Vec<u8>,
}

impl PassthroughBuffer {
    pub fn of(frame: Bytes) -> PassthroughBuffer {
        PassthroughBuffer { frame, ..PassthroughBuffer::default() }
    }

    pub fn push(&mut self, raw: &[u8]) {
        let start = self.frame.as_ptr() as usize;
        let at = (raw.as_ptr() as usize).wrapping_sub(start);
        let inside = at < self.frame.len() && at + raw.len() <= self.frame.len();
        let is_empty = self.from == self.to;
        if self.copied.is_empty() && inside && (is_empty || at == self.to) {
            if is_empty {
                self.from = at;
            }
            self.to = at + raw.len();
            return;
        }
        if !is_empty {
            self.copied.extend_from_slice(&self.frame[self.from..self.to]);
            (self.from, self.to) = (0, 0);
        }
        self.copied.extend_from_slice(raw);
    }

    pub fn into_bytes(self) -> Bytes {
        match self.copied.is_empty() {
            true => self.frame.slice(self.from..self.to),
            false => self.copied.into(),
        }
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
