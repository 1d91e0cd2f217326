//! Bytes to events, however the network split them.
//!
//! Two formats: the event stream of WHATWG HTML (9.2: LF, CR or CRLF, fields, comments, an event
//! ends with an empty line), and JSON texts on lines of their own. An event is given whole, with
//! the bytes that it came in, so that what passes is what came; where a frame holds whole events,
//! nothing is copied. What is longer than 256 KiB is given on unread, in bounded memory.
//!
//! What follows from a stream's bytes follows from them alone, and not from where they were split:
//! a CR at the end of what is here waits for the next byte, unless the line before ended with one
//! too. Then the event ends there, and an LF that follows is an empty line of its own.

use bytes::Bytes;
use memchr::{memchr, memchr2};

/// An event that is longer is not read: it passes piece by piece.
const LONGEST: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// `text/event-stream`.
    Sse,
    /// One JSON text a line.
    Lines,
}

/// A piece of the stream, in the bytes that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub raw: Bytes,
    pub kind: PieceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Event {
        /// Empty where it has none.
        name: Bytes,
        data: Bytes,
    },
    /// Comments, empty lines, fields without data.
    Nothing,
    /// Of an event that is too long to be read.
    Unread,
}

/// Takes bytes in, gives events.
#[derive(Debug)]
pub struct EventFramer {
    format: StreamFormat,
    /// What came last and was not looked at yet; empty while an event is unfinished.
    next: Bytes,
    /// The beginning of an unfinished event.
    held: Vec<u8>,
    /// How much of `held` was looked through.
    seen: usize,
    /// Inside an event that is too long.
    unread: bool,
    /// How many were too long.
    long: u64,
    began: bool,
}

impl EventFramer {
    pub fn new(format: StreamFormat) -> Self {
        EventFramer {
            format,
            next: Bytes::new(),
            held: Vec::new(),
            seen: 0,
            unread: false,
            long: 0,
            began: false,
        }
    }

    /// Takes in what came.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.held.is_empty() && self.next.is_empty() {
            self.next = bytes;
        } else {
            self.held.extend_from_slice(&std::mem::take(&mut self.next));
            self.held.extend_from_slice(&bytes);
        }
    }

    /// What is unfinished when the stream ends, as the piece that it would be.
    pub fn rest(&mut self) -> Option<Piece> {
        let raw = Bytes::from(std::mem::take(&mut self.held));
        self.seen = 0;
        (!raw.is_empty()).then(|| self.piece(raw))
    }

    /// Bytes of the event that is unfinished.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// An event is unfinished of which a part was given on.
    pub fn is_inside(&self) -> bool {
        self.unread
    }

    /// Gives on unread what is held of an unfinished event, but for what may belong to its end.
    pub fn give_up(&mut self) -> Option<Piece> {
        if self.held.len() <= 3 {
            return None;
        }
        self.long += u64::from(!self.unread);
        self.unread = true;
        let kept = self.held.split_off(self.held.len() - 3);
        let raw = Bytes::from(std::mem::replace(&mut self.held, kept));
        self.seen = self.held.len();
        Some(Piece { raw, kind: PieceKind::Unread })
    }

    /// How many events were too long to be read.
    pub fn long(&self) -> u64 {
        self.long
    }

    fn finish(&mut self) -> Option<Piece> {
        // The end of a line may have been cut in two, and two of them end an event.
        let from = self.seen.saturating_sub(3);
        match self.end_of(&self.held, from) {
            Some(end) => {
                self.next = Bytes::from(std::mem::take(&mut self.held));
                self.seen = 0;
                let raw = self.next.split_to(end);
                Some(self.piece(raw))
            }
            None => {
                self.seen = self.held.len();
                self.too_long()
            }
        }
    }

    /// Gives up what is too long to be kept, but for what may belong to its end.
    fn too_long(&mut self) -> Option<Piece> {
        let enough = if self.unread { 3 } else { LONGEST };
        if self.held.len() <= enough { None } else { self.give_up() }
    }

    fn piece(&mut self, raw: Bytes) -> Piece {
        let first = !std::mem::replace(&mut self.began, true);
        let inside = std::mem::take(&mut self.unread);
        if inside || raw.len() > LONGEST {
            self.long += u64::from(!inside);
            return Piece { raw, kind: PieceKind::Unread };
        }
        let kind = match self.format {
            StreamFormat::Lines => {
                let line = raw.trim_ascii();
                if line.is_empty() {
                    PieceKind::Nothing
                } else {
                    PieceKind::Event { name: Bytes::new(), data: raw.slice_ref(line) }
                }
            }
            StreamFormat::Sse => fields(&raw, first),
        };
        Piece { raw, kind }
    }

    fn end_of(&self, text: &[u8], from: usize) -> Option<usize> {
        match self.format {
            StreamFormat::Lines => memchr(b'\n', &text[from..]).map(|at| from + at + 1),
            StreamFormat::Sse => empty_line(text, from, self.unread),
        }
    }
}

/// The pieces that are here whole; there may be more after the next push.
impl Iterator for EventFramer {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if !self.held.is_empty() {
            return self.finish();
        }
        if self.next.is_empty() {
            return None;
        }
        let Some(end) = self.end_of(&self.next, 0) else {
            self.held.extend_from_slice(&std::mem::take(&mut self.next));
            self.seen = self.held.len();
            return self.too_long();
        };
        let raw = self.next.split_to(end);
        Some(self.piece(raw))
    }
}

fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// Where the empty line ends that ends an event. One at the very beginning counts, but not while
/// `inside` an event of which the beginning is gone.
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

/// The end of the line break at `at`; `bare`: the one before it was a CR alone, so that this one's
/// end is known without the byte that follows.
fn line_end(text: &[u8], at: usize, bare: bool) -> Option<usize> {
    match (text.get(at)?, text.get(at + 1)) {
        (b'\r', _) if bare => Some(at + 1),
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) => None,
        _ => Some(at + 1),
    }
}

/// The lines of an event; a CRLF has an empty one between its two.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = memchr2(b'\n', b'\r', text).unwrap_or(text.len());
        let line = &text[..end];
        let more = !text.is_empty();
        text = text.get(end + 1..).unwrap_or_default();
        more.then_some(line)
    })
}

fn fields(raw: &Bytes, first: bool) -> PieceKind {
    let mut text: &[u8] = raw;
    if first {
        text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    }
    let (mut name, mut data) = (Bytes::new(), None::<Bytes>);
    let mut joined = Vec::new();
    for line in lines(text) {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => name = raw.slice_ref(value),
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
        None => PieceKind::Nothing,
        Some(_) if !joined.is_empty() => PieceKind::Event { name, data: joined.into() },
        Some(data) => PieceKind::Event { name, data },
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
