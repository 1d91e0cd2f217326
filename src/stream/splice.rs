//! The place where one stream goes on from another: the opening of the second is left out, and
//! what it says again.
//!
//! From its first text on its events are withheld, until it is known how much of the text is a
//! repetition. One that says nothing new is left out, unless it also ends the answer; one that says
//! something new beside it gets the rest as its text, and is otherwise as it came.

use std::ops::Range;

use bytes::Bytes;

use super::continuation::{Dialect, Overlap, PartialResponse};
use super::framing::{Piece, PieceKind};
use super::transcript::Delta;

/// Bytes that are withheld at most.
const MOST: usize = 1 << 20;

/// Withholds the second stream's events until it is known where it begins.
#[derive(Debug)]
pub struct Splice {
    dialect: Dialect,
    overlap: Overlap,
    withheld: Vec<BufferedEvent>,
    bytes: usize,
}

#[derive(Debug)]
struct BufferedEvent {
    raw: Vec<u8>,
    /// Where its text stands in `raw`, quotes and all; and the text.
    says: Option<(Range<usize>, String)>,
    end: bool,
}

/// It is no stream that goes on from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpliceError;

/// The new text, and the events that say it.
pub type SpliceOutput = (String, Vec<Bytes>);

impl Splice {
    pub fn new(partial: &PartialResponse) -> Splice {
        let overlap = Overlap::new(&partial.text);
        Splice { dialect: partial.dialect, overlap, withheld: Vec::new(), bytes: 0 }
    }

    /// Takes in an event; once it is known where the stream begins: what passes, this one included.
    pub fn take(
        &mut self,
        piece: &Piece,
        heard: &Delta<'_>,
    ) -> Result<Option<SpliceOutput>, SpliceError> {
        if heard.other || heard.dialect.is_some_and(|dialect| dialect != self.dialect) {
            return Err(SpliceError);
        }
        let speaks = heard.text.is_some();
        let known = speaks && self.overlap.push(heard.text()).is_some();
        if speaks || heard.end || !self.withheld.is_empty() {
            let event = BufferedEvent::new(piece, heard);
            self.bytes += event.raw.len();
            self.withheld.push(event);
        }
        if known || heard.end {
            return Ok(Some(self.joined()));
        }
        if self.bytes > MOST { Err(SpliceError) } else { Ok(None) }
    }

    /// What is known, or the stream has ended.
    pub fn joined(&mut self) -> SpliceOutput {
        let mut again = self.overlap.end();
        let mut text = String::new();
        let mut events = Vec::new();
        for event in std::mem::take(&mut self.withheld) {
            let said = event.says.as_ref().map_or("", |(_, said)| said);
            let cut = again.min(said.len());
            again -= cut;
            text.push_str(&said[cut..]);
            events.extend(event.without(cut).map(Bytes::from));
        }
        (text, events)
    }
}

impl BufferedEvent {
    fn new(piece: &Piece, heard: &Delta<'_>) -> BufferedEvent {
        let (text, end) = (&heard.text, heard.end);
        let PieceKind::Event { name, data } = &piece.kind else {
            return BufferedEvent { raw: piece.raw.to_vec(), says: None, end };
        };
        let at = (data.as_ptr() as usize).wrapping_sub(piece.raw.as_ptr() as usize);
        let whole = at < piece.raw.len() && piece.raw[at..].starts_with(data);
        let (raw, at) = match (text, whole) {
            (Some(_), false) => one_line(name, data),
            _ => (piece.raw.to_vec(), at),
        };
        let says = text
            .as_ref()
            .map(|(place, text)| (place.start + at..place.end + at, text.clone().into_owned()));
        BufferedEvent { raw, says, end }
    }

    /// What passes of it when so much of its text is a repetition.
    fn without(self, cut: usize) -> Option<Vec<u8>> {
        match self.says {
            Some((_, text)) if cut == text.len() && cut > 0 && !self.end => None,
            Some((at, text)) if cut > 0 => {
                let quoted = serde_json::Value::from(&text[cut..]).to_string();
                Some([&self.raw[..at.start], quoted.as_bytes(), &self.raw[at.end..]].concat())
            }
            _ => Some(self.raw),
        }
    }
}

/// An event whose data was on several lines, and where its data begins. A line ends between two
/// values only: inside a string of JSON it would be escaped.
fn one_line(name: &[u8], data: &[u8]) -> (Vec<u8>, usize) {
    let name = if name.is_empty() { Vec::new() } else { [b"event: ", name, b"\n"].concat() };
    let head = [&name[..], b"data: "].concat();
    let data: Vec<u8> = data.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
    let at = head.len();
    ([&head[..], &data, b"\n\n"].concat(), at)
}
