//! Bytes to events, however the network split them.
//!
//! Two formats: the event stream of WHATWG HTML (9.2: LF, CR or CRLF, fields, comments, an event
//! ends with an empty line), and JSON texts on lines of their own. An event is given whole, with
//! the bytes that it came in, so that what passes is what came; where a frame holds whole events,
//! nothing is copied. What is longer than [`LONGEST`] is given on unread, in bounded memory.
//!
//! What follows from a stream's bytes follows from them alone, and not from where they were split:
//! a CR at the end of what is here waits for the next byte, unless the line before ended with one
//! too. Then the event ends there, and an LF that follows is an empty line of its own.

use bytes::Bytes;
use memchr::{memchr, memchr2};

/// An event that is longer is not read: it passes piece by piece.
const LONGEST: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/event-stream`.
    Sse,
    /// One JSON text a line.
    Lines,
}

/// A piece of the stream, in the bytes that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub raw: Bytes,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
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
pub struct Events {
    format: Format,
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

impl Events {
    pub fn new(format: Format) -> Self {
        Events {
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
        if self.held.len() <= enough {
            return None;
        }
        self.long += u64::from(!self.unread);
        self.unread = true;
        let kept = self.held.split_off(self.held.len() - 3);
        let raw = Bytes::from(std::mem::replace(&mut self.held, kept));
        self.seen = self.held.len();
        Some(Piece { raw, kind: Kind::Unread })
    }

    fn piece(&mut self, raw: Bytes) -> Piece {
        let first = !std::mem::replace(&mut self.began, true);
        let inside = std::mem::take(&mut self.unread);
        if inside || raw.len() > LONGEST {
            self.long += u64::from(!inside);
            return Piece { raw, kind: Kind::Unread };
        }
        let kind = match self.format {
            Format::Lines => {
                let line = raw.trim_ascii();
                if line.is_empty() {
                    Kind::Nothing
                } else {
                    Kind::Event { name: Bytes::new(), data: raw.slice_ref(line) }
                }
            }
            Format::Sse => fields(&raw, first),
        };
        Piece { raw, kind }
    }

    fn end_of(&self, text: &[u8], from: usize) -> Option<usize> {
        match self.format {
            Format::Lines => memchr(b'\n', &text[from..]).map(|at| from + at + 1),
            Format::Sse => empty_line(text, from, self.unread),
        }
    }
}

/// The pieces that are here whole; there may be more after the next push.
impl Iterator for Events {
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

fn fields(raw: &Bytes, first: bool) -> Kind {
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
        None => Kind::Nothing,
        Some(_) if !joined.is_empty() => Kind::Event { name, data: joined.into() },
        Some(data) => Kind::Event { name, data },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(format: Format, frames: &[&[u8]]) -> Vec<Piece> {
        let mut events = Events::new(format);
        let mut pieces = Vec::new();
        for frame in frames {
            events.push(Bytes::copy_from_slice(frame));
            pieces.extend(events.by_ref());
        }
        pieces.extend(events.rest());
        pieces
    }

    fn told(format: Format, text: &str) -> Vec<(String, String)> {
        let text_of = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let events =
            all(format, &[text.as_bytes()]).into_iter().filter_map(|piece| match piece.kind {
                Kind::Event { name, data } => Some((text_of(&name), text_of(&data))),
                _ => None,
            });
        events.collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, d)| ((*n).to_owned(), (*d).to_owned())).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_it_says() {
        let sse = |text| told(Format::Sse, text);
        assert_eq!(sse("data: YHOO\ndata: +2\ndata: 10\n\n"), pairs(&[("", "YHOO\n+2\n10")]));
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            sse(stream),
            pairs(&[("", "first event"), ("", "second event"), ("", " third event")])
        );
        assert_eq!(sse("data\n\ndata\ndata\n\n"), pairs(&[("", ""), ("", "\n")]));
        assert_eq!(sse("event: add\rdata: 7\r\revent: x\r\n\r\n"), pairs(&[("add", "7")]));
        assert_eq!(sse("data: a\r\r\ndata: b\n\r\n"), pairs(&[("", "a"), ("", "b")]));
        assert_eq!(sse("\u{feff}data: a\r\n\r\ndata: b"), pairs(&[("", "a"), ("", "b")]));
    }

    #[test]
    fn each_line_is_an_event_of_its_own() {
        let events = told(Format::Lines, "{\"a\":1}\r\n\n {\"b\":2}\n{\"c\":3}");
        assert_eq!(events, pairs(&[("", "{\"a\":1}"), ("", "{\"b\":2}"), ("", "{\"c\":3}")]));
    }

    #[test]
    fn an_event_that_is_too_long_passes_unread_in_bounded_memory() {
        for format in [Format::Sse, Format::Lines] {
            let mut events = Events::new(format);
            let mut passed = 0;
            for _ in 0..100 {
                events.push(Bytes::from(vec![b'x'; 10_000]));
                for piece in events.by_ref() {
                    assert_eq!(piece.kind, Kind::Unread);
                    passed += piece.raw.len();
                }
                assert!(events.held.len() <= LONGEST + 10_000);
            }
            events.push(Bytes::from_static(b"\n\ndata: {}\n\n"));
            let last: Vec<_> = events.by_ref().collect();
            assert_eq!(last[0].kind, Kind::Unread);
            assert_eq!(
                passed + last[0].raw.len(),
                1_000_000 + if format == Format::Sse { 2 } else { 1 }
            );
            assert_eq!(events.long(), 1);
            assert!(matches!(
                last.last().expect("an event").kind,
                Kind::Event { .. } | Kind::Nothing
            ));
        }
    }

    /// Lines with ends of any kind.
    fn stream() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => "data: ?[a-z{}:]{0,6}",
            1 => "event: [a-z]{1,4}",
            1 => ": [a-z]{0,4}",
            1 => "[a-z\u{feff}]{0,3}",
            4 => Just(String::new()),
        ];
        let end =
            || prop_oneof![4 => Just("\n"), 2 => Just("\r\n"), 2 => Just("\r"), 1 => Just("")];
        let lines = prop::collection::vec((line, end()), 0..16);
        (lines, end(), any::<bool>()).prop_map(|(lines, one, mixed)| {
            let ended = |(line, end): (String, &str)| line + if mixed { end } else { one };
            lines.into_iter().map(ended).collect()
        })
    }

    fn frames<'t>(text: &'t [u8], cuts: &[prop::sample::Index]) -> Vec<&'t [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn events_are_the_same_however_they_are_split(
            text in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            lines in any::<bool>(),
        ) {
            let format = if lines { Format::Lines } else { Format::Sse };
            let (whole, split) =
                (all(format, &[text.as_bytes()]), all(format, &frames(text.as_bytes(), &cuts)));
            prop_assert_eq!(&whole, &split);
            let raw: Vec<u8> = split.iter().flat_map(|piece| piece.raw.to_vec()).collect();
            prop_assert_eq!(raw, text.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whether_an_event_is_too_long_does_not_depend_on_where_it_is_split(
            more in -4isize..5, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            end in prop_oneof![Just("\n\n"), Just("\r\n\r\n"), Just("\r\r")],
        ) {
            let length = LONGEST.saturating_add_signed(more) - end.len();
            let text = "x".repeat(length) + end + "data: y" + end;
            let pieces = all(Format::Sse, &frames(text.as_bytes(), &cuts));
            let long = pieces.iter().filter(|piece| piece.kind == Kind::Unread);
            let long: usize = long.map(|piece| piece.raw.len()).sum();
            prop_assert_eq!(long, if more > 0 { length + end.len() } else { 0 });
            let last = Kind::Event { name: Bytes::new(), data: "y".into() };
            prop_assert_eq!(&pieces[pieces.len() - 1].kind, &last);
        }
    }
}
