//! One event stream on its way: what of it may pass, and what is known of it.
//!
//! A stream is unknown at first. An event of a known shape makes it *known*: then it has to end as
//! its API promises, and an event that is no JSON is dropped and counted, since no client could
//! read it. Any other event makes it *plain*: each event is content, it may end anywhere, and
//! nothing is dropped. What begins like JSON and is none is kept back until that is decided.
//!
//! What is too long to be read passes, and may have been the end: a stream that ends behind it with
//! no other content is whole.
//!
//! A reader may also go on from where another stream was cut: then the opening of this one is left
//! out, and what it says twice.

use std::sync::Arc;

use bytes::Bytes;

use super::continuation::PartialResponse;
use super::framing::{EventFramer, Piece, PieceKind, StreamFormat};
use super::interpret::{DeltaSpan, EventMeaning, EventOrigin, Interpreter, TokenUsage};
use super::passthrough::PassthroughBuffer;
use super::splice::{Splice, SpliceError};
use super::transcript::{Delta, Transcript};
use crate::json::scan::PointerMatches;
use crate::resilience::outcome::AttemptClass;

/// Reads one stream.
#[derive(Debug)]
pub struct StreamReader {
    reading: Arc<Interpreter>,
    format: StreamFormat,
    events: EventFramer,
    found: PointerMatches,
    status: u16,
    nature: StreamNature,
    /// It has to end as promised.
    promised: bool,
    ready: bool,
    whole: bool,
    /// It has more choices than one, so that the end of the first is not the end.
    several: bool,
    /// The end may have been in what was too long to be read.
    unread: bool,
    /// There was something, if only a comment.
    any: bool,
    pinged: bool,
    tokens: TokenUsage,
    dropped: u64,
    /// What may be no events of this stream (`true`), and the silence among them.
    doubtful: Vec<(Bytes, bool)>,
    doubtful_bytes: usize,
    said: Option<Transcript>,
    joint: Option<Box<Splice>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamNature {
    Unknown,
    Known,
    Plain,
}

/// The name of events that only keep a connection alive.
const PING: &[u8] = b"ping";
/// Bytes of doubtful events that are kept back at most.
const DOUBTFUL: usize = 64 << 10;

/// What may pass now.
#[derive(Debug, Default)]
pub struct ReadOutcome {
    /// Whole events, as they came.
    pub bytes: Bytes,
    /// An event says that the answer failed; what came behind it is kept for the next call.
    pub error: Option<ErrorEvent>,
}

#[derive(Debug)]
pub struct ErrorEvent {
    pub raw: Bytes,
    pub class: AttemptClass,
}

/// How a stream ended whose body ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
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
enum PieceAction {
    Pass,
    /// It is left out, or kept back.
    Drop,
    /// These pass in its place.
    Instead(Vec<Bytes>),
    Fail(AttemptClass),
}

impl StreamReader {
    /// `keep`: how much is kept of what is said, to be gone on from.
    pub fn new(
        reading: Arc<Interpreter>,
        format: StreamFormat,
        status: u16,
        keep: Option<usize>,
    ) -> StreamReader {
        let nature = if reading.declared { StreamNature::Known } else { StreamNature::Unknown };
        StreamReader {
            promised: reading.promised,
            reading,
            format,
            events: EventFramer::new(format),
            found: PointerMatches::default(),
            status,
            nature,
            ready: false,
            whole: false,
            several: false,
            unread: false,
            any: false,
            pinged: false,
            tokens: TokenUsage::default(),
            dropped: 0,
            doubtful: Vec::new(),
            doubtful_bytes: 0,
            said: keep.map(Transcript::new),
            joint: None,
        }
    }

    /// Reads a stream that goes on where another was cut.
    pub fn continuing(
        reading: Arc<Interpreter>,
        format: StreamFormat,
        keep: usize,
        partial: PartialResponse,
    ) -> StreamReader {
        let mut reader = StreamReader::new(reading, format, 200, None);
        (reader.nature, reader.promised) = (StreamNature::Known, true);
        reader.joint = Some(Box::new(Splice::new(&partial)));
        reader.said = Some(Transcript::from(partial, keep));
        reader
    }

    /// Takes a frame in; gives what may pass.
    pub fn read(&mut self, frame: Bytes) -> ReadOutcome {
        let mut pass = PassthroughBuffer::of(frame.clone());
        self.events.push(frame);
        while let Some(piece) = self.events.next() {
            if let Some(error) = self.piece(piece, &mut pass) {
                return ReadOutcome { bytes: pass.bytes(), error: Some(error) };
            }
        }
        ReadOutcome { bytes: pass.bytes(), error: None }
    }

    /// The body ended cleanly: what passes still, and how it ended.
    pub fn end(&mut self) -> (Bytes, StreamEnd) {
        let mut pass = PassthroughBuffer::default();
        let mut failed = false;
        while let Some(piece) = self.events.next().or_else(|| self.events.rest()) {
            if let Some(error) = self.piece(piece, &mut pass) {
                failed = true;
                pass.add(&error.raw);
            }
        }
        if let Some(mut joint) = self.joint.take() {
            let (text, events) = joint.joined();
            self.said.take_if(|kept| !kept.say(&text));
            self.ready |= !text.is_empty();
            events.iter().for_each(|event| pass.add(event));
        }
        let nothing_read = self.nature != StreamNature::Plain && !self.ready;
        let owed = self.reading.declared || self.format == StreamFormat::Sse;
        let silent =
            self.pinged && self.nature == StreamNature::Unknown && self.doubtful.is_empty();
        let ended = if !self.any || silent {
            if owed { StreamEnd::Empty } else { StreamEnd::Whole }
        } else if nothing_read && (self.dropped > 0 || !self.doubtful.is_empty()) {
            StreamEnd::Malformed
        } else if self.whole || self.unread {
            StreamEnd::Whole
        } else if self.promised || failed {
            StreamEnd::NoEnd
        } else {
            StreamEnd::Whole
        };
        (pass.bytes(), ended)
    }

    /// There was content, or an end.
    pub fn ready(&self) -> bool {
        self.ready
    }

    pub fn tokens(&self) -> TokenUsage {
        self.tokens
    }

    /// Events that could not be read, and did not pass.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Events that were too long to be read, and passed.
    pub fn unread(&self) -> u64 {
        self.events.long()
    }

    /// What it said so far, where that can be gone on from.
    pub fn partial(&self) -> Option<PartialResponse> {
        self.said.as_ref()?.partial()
    }

    /// Bytes that are kept here.
    pub fn held(&self) -> usize {
        self.events.held() + self.doubtful_bytes + self.said.as_ref().map_or(0, Transcript::len)
    }

    /// There is no room for what is held: it passes unread.
    pub fn give_up(&mut self) -> Bytes {
        let mut pass = PassthroughBuffer::default();
        self.doubtful.drain(..).for_each(|(raw, _)| pass.add(&raw));
        self.doubtful_bytes = 0;
        if let Some(piece) = self.events.give_up() {
            self.too_long();
            pass.add(&piece.raw);
        }
        self.said = None;
        pass.bytes()
    }

    /// An event of ours may follow: this is a stream of events, and none is unfinished that has
    /// passed in part.
    pub fn is_tellable(&self) -> bool {
        let events = self.format == StreamFormat::Sse || self.nature == StreamNature::Known;
        events && !self.events.is_inside()
    }

    fn piece(&mut self, piece: Piece, pass: &mut PassthroughBuffer) -> Option<ErrorEvent> {
        self.any |= !piece.raw.trim_ascii().is_empty();
        match self.fate(&piece) {
            // What decides nothing does not pass before what is kept back.
            PieceAction::Pass if self.is_in_doubt() && self.keep_back(&piece.raw, false) => {}
            PieceAction::Pass => {
                if self.nature != StreamNature::Unknown {
                    self.doubtful.drain(..).for_each(|(raw, _)| pass.add(&raw));
                    self.doubtful_bytes = 0;
                }
                pass.add(&piece.raw);
            }
            PieceAction::Drop => {}
            PieceAction::Instead(events) => events.iter().for_each(|event| pass.add(event)),
            PieceAction::Fail(class) => return Some(ErrorEvent { raw: piece.raw, class }),
        }
        None
    }

    fn fate(&mut self, piece: &Piece) -> PieceAction {
        let (name, data) = match &piece.kind {
            PieceKind::Event { name, data } => (name, data),
            PieceKind::Nothing => return PieceAction::Pass,
            PieceKind::Unread => return self.too_long(),
        };
        if self.reading.is_end(data) {
            if self.nature == StreamNature::Unknown {
                self.know();
            }
            self.whole = true;
            self.ready |= self.dropped == 0;
            return self.heard(piece, data, None, true);
        }
        let Some(says) = self.reading.interpret(name, data, self.status, &mut self.found) else {
            return self.unreadable(piece, name, data);
        };
        match says.ruled {
            Some(AttemptClass::Success) => {}
            Some(class) => return PieceAction::Fail(class),
            None if says.failed && self.nature != StreamNature::Plain => {
                return PieceAction::Fail(AttemptClass::Failure);
            }
            None => {}
        }
        let ping = name == PING && says.sort != EventOrigin::Known;
        if ping || says.sort == EventOrigin::Neutral && says.said.is_none() {
            self.pinged = true;
            return if self.joint.is_some() { PieceAction::Drop } else { PieceAction::Pass };
        }
        self.learn(&says);
        if self.joint.is_some() && says.said.is_none() {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        self.heard(piece, data, says.said, says.end)
    }

    fn learn(&mut self, says: &EventMeaning) {
        match says.sort {
            EventOrigin::Known => self.know(),
            EventOrigin::Other if self.nature == StreamNature::Unknown => {
                self.nature = StreamNature::Plain
            }
            EventOrigin::Other | EventOrigin::Neutral => {}
        }
        self.tokens.update(says.tokens);
        if says.another && !self.several {
            (self.several, self.whole) = (true, false);
        }
        // Of several choices each has its end, and the stream has its own.
        self.whole |= says.end && !self.several;
        self.unread &= !says.content;
        self.ready |= says.content || says.end || self.nature == StreamNature::Plain;
    }

    /// It is of a shape that is known here: its events are JSON, and it ends as promised.
    fn know(&mut self) {
        (self.nature, self.promised) = (StreamNature::Known, true);
        let all = self.doubtful.len();
        self.doubtful.retain(|(_, event)| !event);
        self.dropped += (all - self.doubtful.len()) as u64;
    }

    fn too_long(&mut self) -> PieceAction {
        if self.joint.is_some() {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        if !self.doubtful.is_empty() {
            self.nature = StreamNature::Plain;
        }
        self.said = None;
        (self.unread, self.ready) = (true, true);
        PieceAction::Pass
    }

    fn unreadable(&mut self, piece: &Piece, name: &[u8], data: &[u8]) -> PieceAction {
        if name == b"error" && self.nature != StreamNature::Plain {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        if name == PING && self.joint.is_none() {
            return PieceAction::Pass;
        }
        if self.nature == StreamNature::Known {
            self.dropped += 1;
            return PieceAction::Drop;
        }
        let unknown = self.nature == StreamNature::Unknown && self.format == StreamFormat::Sse;
        if unknown && data.first() == Some(&b'{') && self.keep_back(&piece.raw, true) {
            return PieceAction::Drop;
        }
        (self.nature, self.ready) = (StreamNature::Plain, true);
        PieceAction::Pass
    }

    fn is_in_doubt(&self) -> bool {
        self.nature == StreamNature::Unknown && !self.doubtful.is_empty()
    }

    /// Keeps it until it is known what the stream is; where there is no room, it is a plain one.
    fn keep_back(&mut self, raw: &Bytes, event: bool) -> bool {
        self.doubtful_bytes += raw.len();
        let fits = self.doubtful_bytes <= DOUBTFUL;
        if fits {
            self.doubtful.push((Bytes::copy_from_slice(raw), event));
        } else {
            (self.nature, self.ready) = (StreamNature::Plain, true);
        }
        fits
    }

    /// Keeps what was said; where the stream goes on from another, finds where it begins.
    fn heard(
        &mut self,
        piece: &Piece,
        data: &Bytes,
        said: Option<DeltaSpan>,
        end: bool,
    ) -> PieceAction {
        if self.said.is_none() && self.joint.is_none() {
            return PieceAction::Pass;
        }
        let heard = Delta::of(said, data, end);
        let joined = self.joint.as_mut().map(|joint| joint.take(piece, &heard));
        let (text, events) = match joined {
            None => {
                self.said.take_if(|kept| !kept.hear(&heard));
                return PieceAction::Pass;
            }
            Some(Err(SpliceError)) => return PieceAction::Fail(AttemptClass::Failure),
            Some(Ok(None)) => {
                self.ready = false;
                return PieceAction::Drop;
            }
            Some(Ok(Some(joined))) => joined,
        };
        (self.joint, self.ready) = (None, true);
        self.said.take_if(|kept| !kept.say(&text) || heard.end);
        PieceAction::Instead(events)
    }
}
