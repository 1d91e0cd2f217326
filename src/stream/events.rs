//! Bytes to events, however the network split them.
//!
//! Two formats: the event stream of WHATWG HTML (9.2: LF, CR or CRLF, fields, comments, an event
//! ends with an empty line), and JSON texts on lines of their own. An event is given whole, with
//! the bytes that it came in, so that what passes is what came; where a frame holds whole events,
//! nothing is copied. What is longer than [`LONGEST`] is given on unread.

use bytes::Bytes;

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

    /// The next piece that is here whole.
    pub fn piece(&mut self) -> Option<Piece> {
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
        Some(self.made(raw))
    }

    /// No event is unfinished.
    pub fn is_between(&self) -> bool {
        self.held.is_empty() && self.next.is_empty()
    }

    /// What is unfinished when the stream ends, as the piece that it would be.
    pub fn rest(&mut self) -> Option<Piece> {
        let raw = Bytes::from(std::mem::take(&mut self.held));
        self.seen = 0;
        (!raw.is_empty()).then(|| self.made(raw))
    }

    fn finish(&mut self) -> Option<Piece> {
        // The end of a line may have been cut in two, and two of them end an event.
        let from = self.seen.saturating_sub(3);
        match self.end_of(&self.held, from) {
            Some(end) => {
                self.next = Bytes::from(std::mem::take(&mut self.held));
                self.seen = 0;
                let raw = self.next.split_to(end);
                Some(self.made(raw))
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
        self.unread = true;
        let kept = self.held.split_off(self.held.len() - 3);
        let raw = Bytes::from(std::mem::replace(&mut self.held, kept));
        self.seen = self.held.len();
        Some(Piece { raw, kind: Kind::Unread })
    }

    fn made(&mut self, raw: Bytes) -> Piece {
        if std::mem::take(&mut self.unread) {
            return Piece { raw, kind: Kind::Unread };
        }
        let first = !std::mem::replace(&mut self.began, true);
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
            Format::Lines => text[from..].iter().position(|b| *b == b'\n').map(|at| from + at + 1),
            Format::Sse => empty_line(text, from, self.unread),
        }
    }
}

/// Where the empty line ends that ends an event. One at the very beginning counts, but not while
/// `inside` an event of which the beginning is gone.
fn empty_line(text: &[u8], from: usize, inside: bool) -> Option<usize> {
    let is_end = |b: &u8| *b == b'\n' || *b == b'\r';
    if from == 0 && !inside && text.first().is_some_and(is_end) {
        return line_end(text, 0, false);
    }
    let mut at = from;
    loop {
        at += text[at..].iter().position(is_end)?;
        let bare = text[at] == b'\r' && text.get(at + 1).is_some_and(|b| *b != b'\n');
        at = line_end(text, at, false)?;
        if text.get(at).is_some_and(is_end) {
            return line_end(text, at, bare);
        }
    }
}

/// The end of the line break at `at`. Whether a CR at the end of what is here is one by itself is
/// known only where the line before it ended so.
fn line_end(text: &[u8], at: usize, bare: bool) -> Option<usize> {
    match (text.get(at)?, text.get(at + 1)) {
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) if !bare => None,
        _ => Some(at + 1),
    }
}

fn fields(raw: &Bytes, first: bool) -> Kind {
    let mut text: &[u8] = raw;
    if first {
        text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    }
    let (mut name, mut data) = (Bytes::new(), None::<Bytes>);
    let mut joined = Vec::new();
    for line in text.split(|b| *b == b'\n' || *b == b'\r') {
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
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
            pieces.extend(std::iter::from_fn(|| events.piece()));
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
                while let Some(piece) = events.piece() {
                    assert_eq!(piece.kind, Kind::Unread);
                    passed += piece.raw.len();
                }
                assert!(events.held.len() <= LONGEST + 10_000);
            }
            events.push(Bytes::from_static(b"\n\ndata: {}\n\n"));
            let last: Vec<_> = std::iter::from_fn(|| events.piece()).collect();
            assert_eq!(last[0].kind, Kind::Unread);
            assert_eq!(
                passed + last[0].raw.len(),
                1_000_000 + if format == Format::Sse { 2 } else { 1 }
            );
            assert!(matches!(
                last.last().expect("an event").kind,
                Kind::Event { .. } | Kind::Nothing
            ));
        }
    }

    /// A stream with one kind of line end.
    fn stream() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => "data: ?[a-z{}:]{0,6}",
            1 => "event: [a-z]{1,4}",
            1 => ": [a-z]{0,4}",
            1 => "[a-z]{0,3}",
            4 => Just(String::new()),
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        (prop::collection::vec(line, 0..16), end).prop_map(|(lines, end)| lines.join(end) + end)
    }

    proptest! {
        #[test]
        fn events_are_the_same_however_they_are_split(
            text in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), lines in any::<bool>(),
        ) {
            let format = if lines { Format::Lines } else { Format::Sse };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let frames: Vec<_> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let of = |pieces: &[Piece]| -> Vec<Kind> {
                pieces.iter().map(|piece| piece.kind.clone()).filter(|kind| *kind != Kind::Nothing).collect()
            };
            let (whole, split) = (all(format, &[text.as_bytes()]), all(format, &frames));
            prop_assert_eq!(of(&whole), of(&split));
            let raw = |pieces: &[Piece]| pieces.iter().flat_map(|p| p.raw.to_vec()).collect::<Vec<_>>();
            prop_assert_eq!(raw(&split), text.as_bytes());
        }
    }
}
