//! One event stream on its way: what of it may pass, and what is known of it.
//!
//! A stream is unknown at first. An event of a known shape makes it *known*: then it has to end as
//! its API promises, and an event that is no JSON is dropped and counted, since no client could
//! read it. Any other event makes it *plain*: each event is content, it may end anywhere, and
//! nothing is dropped. What begins like JSON and is none is kept back until that is decided.
//!
//! A reader may also go on from where another stream was cut: then the opening of this one is left
//! out, and what it says twice.

use std::sync::Arc;

use bytes::Bytes;

use super::events::{Events, Format, Kind, Piece};
use super::join::{Dialect, Partial};
use super::joint::Joint;
use super::json::{self, Found};
use super::reading::{Reading, Said, Says, Tokens};
use crate::resilience::outcome::Class;

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    reading: Arc<Reading>,
    events: Events,
    found: Found,
    status: u16,
    nature: Nature,
    /// It has to end as promised.
    promised: bool,
    ready: bool,
    whole: bool,
    /// There was something, if only a comment.
    any: bool,
    tokens: Tokens,
    dropped: u64,
    /// What may be no event of this stream.
    doubtful: Vec<Bytes>,
    said: Option<Kept>,
    joint: Option<Box<Joint>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Unknown,
    Known,
    Plain,
}

/// What the stream said, where it could be gone on from.
#[derive(Debug)]
struct Kept {
    text: String,
    dialect: Option<Dialect>,
    most: usize,
}

/// What may pass now.
#[derive(Debug, Default)]
pub struct Taken {
    /// Whole events, as they came.
    pub pass: Bytes,
    /// An event says that the answer failed; what came behind it is kept for the next call.
    pub error: Option<ErrorEvent>,
}

#[derive(Debug)]
pub struct ErrorEvent {
    pub raw: Bytes,
    pub class: Class,
}

/// How a stream ended whose body ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Whole,
    /// What ends such a stream never came.
    NoEnd,
    /// Nothing of it could be read.
    Malformed,
    /// There was nothing.
    Empty,
}

/// What becomes of a piece.
#[derive(Debug)]
enum Fate {
    Pass,
    Drop,
    /// It is decided later.
    Hold,
    /// These pass in its place.
    Instead(Vec<Bytes>),
    Fail(Class),
}

impl Reader {
    /// `keep`: how much is kept of what is said, to be gone on from.
    pub fn new(reading: Arc<Reading>, format: Format, status: u16, keep: Option<usize>) -> Reader {
        let nature = if reading.declared { Nature::Known } else { Nature::Unknown };
        Reader {
            promised: reading.promised,
            reading,
            events: Events::new(format),
            found: Found::default(),
            status,
            nature,
            ready: false,
            whole: false,
            any: false,
            tokens: Tokens::default(),
            dropped: 0,
            doubtful: Vec::new(),
            said: keep.map(|most| Kept { text: String::new(), dialect: None, most }),
            joint: None,
        }
    }

    /// Reads a stream that goes on where another was cut.
    pub fn continuing(
        reading: Arc<Reading>,
        format: Format,
        keep: usize,
        partial: Partial,
    ) -> Reader {
        let mut reader = Reader::new(reading, format, 200, None);
        reader.joint = Some(Box::new(Joint::new(&partial)));
        let Partial { dialect, text } = partial;
        reader.said = Some(Kept { text, dialect: Some(dialect), most: keep });
        reader
    }

    /// Takes a frame in; gives what may pass.
    pub fn take(&mut self, frame: Bytes) -> Taken {
        if self.passes_unread() {
            return Taken { pass: frame, error: None };
        }
        let mut pass = Pass::of(frame.clone());
        self.events.push(frame);
        while let Some(piece) = self.events.piece() {
            if let Some(error) = self.piece(piece, &mut pass) {
                return Taken { pass: pass.bytes(), error: Some(error) };
            }
        }
        Taken { pass: pass.bytes(), error: None }
    }

    /// The body ended cleanly: what passes still, and how it ended.
    pub fn end(&mut self) -> (Bytes, Ended) {
        let mut pass = Pass::default();
        if let Some(piece) = self.events.rest() {
            // What it is an error of is over.
            let _ = self.piece(piece, &mut pass);
        }
        if let Some(joint) = self.joint.take() {
            let (text, events) = joint.end();
            self.say(&text);
            events.iter().for_each(|event| pass.add(event));
        }
        let nothing_read = self.nature != Nature::Plain && !self.ready;
        let ended = if nothing_read && (self.dropped > 0 || !self.doubtful.is_empty()) {
            Ended::Malformed
        } else if self.whole {
            Ended::Whole
        } else if self.promised {
            Ended::NoEnd
        } else if self.any {
            Ended::Whole
        } else {
            Ended::Empty
        };
        (pass.bytes(), ended)
    }

    /// There was content, or an end.
    pub fn ready(&self) -> bool {
        self.ready
    }

    pub fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// Events that could not be read.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What it said so far, where that can be gone on from.
    pub fn partial(&self) -> Option<Partial> {
        let kept = self.said.as_ref()?;
        Some(Partial { dialect: kept.dialect?, text: kept.text.clone() })
    }

    /// Nothing is looked for in it any more.
    fn passes_unread(&self) -> bool {
        self.nature == Nature::Plain && !self.reading.looks && self.events.is_between()
    }

    fn piece(&mut self, piece: Piece, pass: &mut Pass) -> Option<ErrorEvent> {
        self.any = true;
        match self.fate(&piece) {
            Fate::Pass => {
                if self.nature == Nature::Plain && !self.doubtful.is_empty() {
                    self.doubtful.drain(..).for_each(|raw| pass.add(&raw));
                }
                pass.add(&piece.raw);
            }
            Fate::Drop => {}
            Fate::Hold => self.doubtful.push(piece.raw),
            Fate::Instead(events) => events.iter().for_each(|event| pass.add(event)),
            Fate::Fail(class) => return Some(ErrorEvent { raw: piece.raw, class }),
        }
        None
    }

    fn fate(&mut self, piece: &Piece) -> Fate {
        let (name, data) = match &piece.kind {
            Kind::Event { name, data } => (name, data),
            Kind::Nothing => return Fate::Pass,
            Kind::Unread => {
                (self.said, self.joint) = (None, None);
                self.ready = true;
                return Fate::Pass;
            }
        };
        if self.reading.is_end(data) {
            self.know(self.nature == Nature::Unknown);
            self.whole = true;
            self.ready |= self.dropped == 0;
            return self.joined(piece, data, None, true);
        }
        let Some(says) = self.reading.event(name, data, self.status, &mut self.found) else {
            return self.unreadable(name, data);
        };
        if let Some(class) = says.error {
            return Fate::Fail(class);
        }
        self.learn(&says);
        self.joined(piece, data, says.said, says.end)
    }

    fn learn(&mut self, says: &Says) {
        if says.known {
            self.know(true);
        } else if self.nature == Nature::Unknown {
            self.nature = Nature::Plain;
        }
        self.tokens.update(says.tokens);
        self.whole |= says.end;
        self.ready |= says.content || says.end || self.nature == Nature::Plain;
    }

    /// It is a stream of events that are JSON; `promised`: of a shape that is known here.
    fn know(&mut self, promised: bool) {
        if self.nature == Nature::Unknown {
            self.nature = Nature::Known;
            self.dropped += self.doubtful.len() as u64;
            self.doubtful.clear();
        }
        self.promised |= promised && self.nature == Nature::Known;
    }

    fn unreadable(&mut self, name: &[u8], data: &[u8]) -> Fate {
        if name == b"error" {
            return Fate::Fail(Class::Failure);
        }
        match self.nature {
            Nature::Known => {
                self.dropped += 1;
                Fate::Drop
            }
            Nature::Unknown if data.first() == Some(&b'{') && self.doubtful.len() < 64 => {
                Fate::Hold
            }
            Nature::Unknown | Nature::Plain => {
                self.nature = Nature::Plain;
                self.ready = true;
                Fate::Pass
            }
        }
    }

    /// Keeps what was said; where the stream goes on from another, finds where it begins.
    fn joined(&mut self, piece: &Piece, data: &Bytes, said: Option<Said>, end: bool) -> Fate {
        let text = said.as_ref().and_then(|said| json::text(&data[said.text.clone()?]));
        let text = text.map(String::from).unwrap_or_default();
        let Some(mut joint) = self.joint.take() else {
            self.keep(said.as_ref(), &text);
            return Fate::Pass;
        };
        let dialect = self.said.as_ref().and_then(|kept| kept.dialect);
        if said.as_ref().is_some_and(|said| said.other || Some(said.dialect) != dialect) {
            return Fate::Fail(Class::Failure);
        }
        let end = end || said.as_ref().is_some_and(|said| said.over);
        let place = said.and_then(|said| said.text);
        let (fate, ready) = match joint.take(piece, data, place, &text, end) {
            None => {
                self.joint = Some(joint);
                (Fate::Drop, false)
            }
            Some((text, events)) => {
                self.say(&text);
                (Fate::Instead(events), true)
            }
        };
        self.ready = ready;
        if end {
            self.said = None;
        }
        fate
    }

    fn keep(&mut self, said: Option<&Said>, text: &str) {
        let Some(kept) = &mut self.said else { return };
        match said {
            Some(said) if !said.other && !said.over => {
                kept.dialect = kept.dialect.or(Some(said.dialect));
                self.say(text);
            }
            _ => self.said = None,
        }
    }

    fn say(&mut self, text: &str) {
        let Some(kept) = &mut self.said else { return };
        if kept.text.len() + text.len() > kept.most {
            self.said = None;
        } else {
            kept.text.push_str(text);
        }
    }
}

/// What passes of a frame: a part of it, where that can be; else a copy.
#[derive(Debug, Default)]
struct Pass {
    frame: Bytes,
    from: usize,
    to: usize,
    copied: Vec<u8>,
}

impl Pass {
    fn of(frame: Bytes) -> Pass {
        Pass { frame, ..Pass::default() }
    }

    fn add(&mut self, raw: &[u8]) {
        let start = self.frame.as_ptr() as usize;
        let at = (raw.as_ptr() as usize).wrapping_sub(start);
        let inside = at < self.frame.len() && at + raw.len() <= self.frame.len();
        let none = self.from == self.to;
        if self.copied.is_empty() && inside && (none || at == self.to) {
            if none {
                self.from = at;
            }
            self.to = at + raw.len();
            return;
        }
        if !none {
            self.copied.extend_from_slice(&self.frame[self.from..self.to]);
            (self.from, self.to) = (0, 0);
        }
        self.copied.extend_from_slice(raw);
    }

    fn bytes(self) -> Bytes {
        match self.copied.is_empty() {
            true => self.frame.slice(self.from..self.to),
            false => self.copied.into(),
        }
    }
}
