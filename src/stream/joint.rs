//! The place where one stream goes on from another: the opening of the second is left out, and
//! what it says again.

use std::ops::Range;

use bytes::Bytes;

use super::events::{Kind, Piece};
use super::join::{Overlap, Partial};

/// Withholds the second stream's events until it is known where it begins.
#[derive(Debug)]
pub struct Joint {
    overlap: Overlap,
    withheld: Vec<Withheld>,
}

/// An event with text, of which some may be a repetition.
#[derive(Debug)]
struct Withheld {
    piece: Piece,
    data: Bytes,
    /// Where the text stands in the data, quotes and all.
    place: Range<usize>,
    text: String,
}

/// The new text, and the events that say it.
pub type Joined = (String, Vec<Bytes>);

impl Joint {
    pub fn new(partial: &Partial) -> Joint {
        Joint { overlap: Overlap::new(&partial.text), withheld: Vec::new() }
    }

    /// Takes in an event; once it is known where the stream begins: what passes, this one included.
    pub fn take(
        &mut self,
        piece: &Piece,
        data: &Bytes,
        place: Option<Range<usize>>,
        text: &str,
        end: bool,
    ) -> Option<Joined> {
        let silent = place.is_none();
        let open = match place {
            Some(place) => {
                let (piece, data, text) = (piece.clone(), data.clone(), text.to_owned());
                self.withheld.push(Withheld { piece, data, place, text });
                self.overlap.push(text_of(&self.withheld)).is_none()
            }
            None if !end => return None,
            None => true,
        };
        if open && !end {
            return None;
        }
        let (text, mut events) = self.joined();
        if silent {
            events.push(piece.raw.clone());
        }
        Some((text, events))
    }

    /// The stream has ended before that was known.
    pub fn end(mut self) -> Joined {
        self.joined()
    }

    fn joined(&mut self) -> Joined {
        let mut again = self.overlap.end();
        let mut text = String::new();
        let mut events = Vec::new();
        for event in std::mem::take(&mut self.withheld) {
            let cut = again.min(event.text.len());
            again -= cut;
            let left = &event.text[cut..];
            text.push_str(left);
            match (cut, left.is_empty()) {
                (0, _) => events.push(event.piece.raw.clone()),
                (_, true) => {}
                (_, false) => events.push(event.with_text(left)),
            }
        }
        (text, events)
    }
}

fn text_of(withheld: &[Withheld]) -> &str {
    withheld.last().map_or("", |event| &event.text)
}

impl Withheld {
    /// The same event with another text; nothing else of it changes.
    fn with_text(&self, text: &str) -> Bytes {
        let quoted = serde_json::Value::from(text).to_string();
        let (before, after) = (&self.data[..self.place.start], &self.data[self.place.end..]);
        let data = [before, quoted.as_bytes(), after].concat();
        let raw = &self.piece.raw;
        let at = (self.data.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize);
        if at < raw.len() && raw.get(at..at + self.data.len()) == Some(&self.data[..]) {
            return [&raw[..at], &data, &raw[at + self.data.len()..]].concat().into();
        }
        // Data that was put together from several lines is on one line now.
        let name = match &self.piece.kind {
            Kind::Event { name, .. } if !name.is_empty() => [b"event: ", &name[..], b"\n"].concat(),
            _ => Vec::new(),
        };
        let data: Vec<u8> = data.into_iter().filter(|b| *b != b'\n').collect();
        [&name[..], b"data: ", &data, b"\n\n"].concat().into()
    }
}
