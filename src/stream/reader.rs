//! Reads one stream: what may be forwarded, whether it is complete, its errors and token usage.
//!
//! A stream starts out *undetermined*. An event of a built-in format makes it *known*: then it has
//! to end as its API promises, and an event that is not JSON is dropped and counted, because no
//! client could read it. Any other event makes it *plain*: each event is content, the stream may
//! end anywhere, and nothing is dropped. Events that begin like JSON and are malformed are held
//! back until the kind of the stream is determined.
//!
//! An oversized event is forwarded while it arrives, and read when it has ended. If it cannot be read,
//! it may have been the end marker, so a stream that ends after it without further content is
//! complete. A document is forwarded unread.
//!
//! A reader can also continue an interrupted stream. Then it leaves out the opening events and the
//! repeated text of the second stream.

use std::sync::Arc;

use bytes::Bytes;

use super::api::{Api, StreamTail};
use super::continuation::PartialResponse;
use super::framing::{EventFramer, PassthroughBuffer, Piece, PieceKind, StreamFormat};
use super::interpret::{DeltaSpan, EventMeaning, EventOrigin, Interpreter, TokenUsage};
use super::known_errors::class_of_failure;
use super::large_event::LargeEvent;
use super::splice::{Splice, SpliceError};
use super::transcript::{Delta, Transcript};
use crate::json::scan::PointerMatches;
use crate::resilience::outcome::AttemptClass;

#[derive(Debug)]
pub struct StreamReader {
    interpreter: Arc<Interpreter>,
    framer: EventFramer,
    found: PointerMatches,
    status: u16,
    kind: StreamKind,
    /// It has to end with an end marker.
    requires_end: bool,
    is_ready: bool,
    has_ended: bool,
    /// It has several choices, so that the end of the first is not the end of the stream.
    has_choices: bool,
    /// The oversized event that is passing.
    large: Option<Box<LargeEvent>>,
    /// The end marker may have been in an oversized event.
    may_have_ended: bool,
    /// It contained something, if only a comment.
    has_input: bool,
    has_ping: bool,
    usage: TokenUsage,
    pub content_events: u64,
    dropped: u64,
    held_back: Vec<HeldPiece>,
    held_back_bytes: usize,
    transcript: Option<Transcript>,
    splice: Option<Box<Splice>>,
    api: Option<Api>,
    /// The `id` and `model` of its first chunk.
    identity: [Option<String>; 2],
    /// The number of the next event.
    sequence: u64,
    /// An event was forwarded.
    has_events: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamKind {
    Undetermined,
    Known,
    Plain,
}

/// A piece that is held back until the kind of the stream is determined.
#[derive(Debug)]
struct HeldPiece {
    raw: Bytes,
    /// A malformed event, dropped if the stream is known. Otherwise a comment or a ping.
    is_event: bool,
}

/// The name of events that only keep a connection alive.
const PING: &[u8] = b"ping";
/// Most bytes that are held back.
const MAX_HELD_BACK: usize = 64 << 10;

/// The bytes to forward after a read, and an error.
#[derive(Debug, Default)]
pub struct ReadOutcome {
    /// Whole events, unchanged.
    pub bytes: Bytes,
    /// An event says that the response failed. Events behind it are kept for the next read.
    pub error: Option<ErrorEvent>,
}

#[derive(Debug)]
pub struct ErrorEvent {
    pub raw: Bytes,
    pub class: AttemptClass,
    /// The stream cannot be joined to the one before it, so that nothing more of it is forwarded.
    pub is_unfit: bool,
}

/// How a stream ended whose body ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    Complete,
    /// The end marker is missing.
    NoEndMarker,
    /// No event of it could be read.
    Malformed,
    Empty,
}

/// The treatment of a piece.
#[derive(Debug)]
enum PieceAction {
    Forward,
    /// Leave it out, or hold it back.
    Drop,
    /// Forward these events instead.
    Replace(Vec<Bytes>),
    Fail(AttemptClass),
}

impl StreamReader {
    /// `keep_text`: how many bytes of text to keep for a continuation, if any.
    pub fn new(
        interpreter: Arc<Interpreter>,
        format: StreamFormat,
        status: u16,
        keep_text: Option<usize>,
    ) -> StreamReader {
        let declared = interpreter.is_declared;
        StreamReader {
            requires_end: interpreter.requires_end,
            interpreter,
            framer: EventFramer::new(format),
            found: PointerMatches::default(),
            status,
            kind: if declared { StreamKind::Known } else { StreamKind::Undetermined },
            is_ready: false,
            has_ended: false,
            has_choices: false,
            large: None,
            may_have_ended: false,
            has_input: false,
            has_ping: false,
            usage: TokenUsage::default(),
            content_events: 0,
            dropped: 0,
            held_back: Vec::new(),
            held_back_bytes: 0,
            transcript: keep_text.map(Transcript::new),
            splice: None,
            api: None,
            identity: [None, None],
            sequence: 0,
            has_events: false,
        }
    }

    /// Reads a stream that continues an interrupted one.
    pub fn continuing(
        interpreter: Arc<Interpreter>,
        format: StreamFormat,
        keep_text: usize,
        partial: PartialResponse,
    ) -> StreamReader {
        let mut reader = StreamReader::new(interpreter, format, 200, None);
        (reader.kind, reader.requires_end) = (StreamKind::Known, true);
        reader.splice = Some(Box::new(Splice::new(&partial)));
        reader.transcript = Some(Transcript::from(partial, keep_text));
        reader
    }

    /// Reads a frame of the body.
    pub fn read(&mut self, frame: Bytes) -> ReadOutcome {
        let mut forward = PassthroughBuffer::of(frame.clone());
        self.framer.push(frame);
        while let Some(piece) = self.framer.next() {
            if let Some(error) = self.piece(piece, &mut forward) {
                return ReadOutcome { bytes: forward.into_bytes(), error: Some(error) };
            }
        }
        ReadOutcome { bytes: forward.into_bytes(), error: None }
    }

    /// The body ended cleanly. Returns what is left to forward, and how the stream ended.
    pub fn end(&mut self) -> (Bytes, StreamEnd) {
        let mut forward = PassthroughBuffer::default();
        let mut has_error = false;
        while let Some(piece) = self.framer.next().or_else(|| self.framer.rest()) {
            if let Some(error) = self.piece(piece, &mut forward) {
                has_error = true;
                forward.push(&error.raw);
            }
        }
        if let Some(joined) = self.splice.take().and_then(|mut splice| splice.finish().ok()) {
            self.transcript.take_if(|transcript| !transcript.push_text(&joined.text));
            self.is_ready |= !joined.text.is_empty();
            joined.events.iter().for_each(|event| forward.push(event));
        }
        (forward.into_bytes(), self.stream_end(has_error))
    }

    fn stream_end(&self, has_error: bool) -> StreamEnd {
        let nothing_read = self.kind != StreamKind::Plain && !self.is_ready;
        let events_expected = self.interpreter.is_declared || self.format() != StreamFormat::Lines;
        let is_silent =
            self.has_ping && self.kind == StreamKind::Undetermined && self.held_back.is_empty();
        if !self.has_input || is_silent {
            if events_expected { StreamEnd::Empty } else { StreamEnd::Complete }
        } else if self.format() == StreamFormat::Document {
            StreamEnd::Complete
        } else if !self.framer.is_closed() {
            StreamEnd::NoEndMarker
        } else if nothing_read && (self.dropped > 0 || !self.held_back.is_empty()) {
            StreamEnd::Malformed
        } else if self.has_ended || self.may_have_ended {
            StreamEnd::Complete
        } else if self.requires_end || has_error {
            StreamEnd::NoEndMarker
        } else {
            StreamEnd::Complete
        }
    }

    /// Whether content, or the end, was read.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub fn format(&self) -> StreamFormat {
        self.framer.format()
    }

    /// The body is one document, so that no content of a stream is due.
    pub fn is_document(&self) -> bool {
        self.format() == StreamFormat::Document
    }

    pub fn usage(&self) -> TokenUsage {
        self.usage
    }

    /// The number of malformed events, which were not forwarded.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The text so far, if it can be continued.
    pub fn partial(&self) -> Option<PartialResponse> {
        self.transcript.as_ref()?.partial()
    }

    /// The number of buffered bytes.
    pub fn buffered(&self) -> usize {
        let text = self.transcript.as_ref().map_or(0, Transcript::len);
        self.framer.buffered() + self.held_back_bytes + text
    }

    /// Frees the buffers, for lack of memory: their content is forwarded unread.
    pub fn flush_unread(&mut self) -> Bytes {
        let mut forward = PassthroughBuffer::default();
        self.release_held_back(&mut forward);
        if let Some(piece) = self.framer.flush_unread() {
            self.oversized_event(&piece.raw, false);
            forward.push(&piece.raw);
        }
        self.transcript = None;
        forward.into_bytes()
    }

    /// Whether an event of ours may be appended: the body is an event stream, and the last event
    /// was not forwarded in part.
    pub fn can_append_event(&self) -> bool {
        let has_events = match self.format() {
            StreamFormat::Sse | StreamFormat::Array => true,
            StreamFormat::Lines => self.kind == StreamKind::Known,
            StreamFormat::Undetermined | StreamFormat::Document => false,
        };
        has_events && !self.framer.is_inside_event()
    }

    /// The facts that an event of ours depends on. `api`: of the request, if no event showed it.
    pub fn tail(&self, api: Option<Api>) -> StreamTail {
        let [id, model] = self.identity.clone();
        StreamTail {
            api: if self.kind == StreamKind::Plain { None } else { self.api.or(api) },
            format: self.format(),
            id,
            model,
            sequence: self.sequence,
            has_elements: self.has_events,
        }
    }

    fn piece(&mut self, piece: Piece, forward: &mut PassthroughBuffer) -> Option<ErrorEvent> {
        self.has_input |= !piece.raw.trim_ascii().is_empty();
        match self.action(&piece) {
            // A comment or ping must not overtake the events that are held back.
            PieceAction::Forward if self.is_holding_back() && self.hold_back(&piece.raw, false) => {
            }
            PieceAction::Forward => {
                if self.kind != StreamKind::Undetermined {
                    self.release_held_back(forward);
                }
                self.has_events |= !matches!(piece.kind, PieceKind::NoData);
                forward.push(&piece.raw);
            }
            PieceAction::Drop => {}
            PieceAction::Replace(events) => events.iter().for_each(|event| forward.push(event)),
            PieceAction::Fail(class) => {
                // Until a continuation is joined, its events are not the client's.
                let is_unfit = self.splice.is_some();
                return Some(ErrorEvent { raw: piece.raw, class, is_unfit });
            }
        }
        None
    }

    fn action(&mut self, piece: &Piece) -> PieceAction {
        let (name, data) = match &piece.kind {
            PieceKind::Event { name, data } => (name, data),
            PieceKind::NoData => return PieceAction::Forward,
            PieceKind::Oversized { is_last } => return self.oversized_event(&piece.raw, *is_last),
            PieceKind::Document => return PieceAction::Forward,
        };
        if self.interpreter.is_end(data) {
            if self.kind == StreamKind::Undetermined {
                self.become_known();
            }
            self.has_ended = true;
            self.is_ready |= self.dropped == 0;
            return self.record_text(piece, data, None, true);
        }
        let meaning = self.interpreter.interpret(name, data, self.status, &mut self.found);
        let Some(meaning) = meaning else { return self.malformed_event(piece, name, data) };
        match meaning.rule_class {
            None if meaning.is_error && self.kind != StreamKind::Plain => {
                return PieceAction::Fail(class_of_failure(data));
            }
            Some(AttemptClass::Success) | None => {}
            Some(class) => return PieceAction::Fail(class),
        }
        let is_ping = name == PING && !matches!(meaning.origin, EventOrigin::Known(_));
        if is_ping || meaning.origin == EventOrigin::Neutral && meaning.delta.is_none() {
            self.has_ping = true;
            let is_splicing = self.splice.is_some();
            return if is_splicing { PieceAction::Drop } else { PieceAction::Forward };
        }
        if let EventOrigin::Known(api) = meaning.origin
            && self.api.replace(api).is_none()
        {
            self.identity = self.interpreter.identity(data, &self.found);
        }
        self.apply(&meaning);
        if self.splice.is_some() && meaning.delta.is_none() {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        self.record_text(piece, data, meaning.delta, meaning.is_end)
    }

    fn apply(&mut self, meaning: &EventMeaning) {
        match meaning.origin {
            EventOrigin::Known(_) => self.become_known(),
            EventOrigin::Other if self.kind == StreamKind::Undetermined => {
                self.kind = StreamKind::Plain;
            }
            EventOrigin::Other | EventOrigin::Neutral => {}
        }
        self.usage.update(meaning.usage);
        self.content_events += u64::from(meaning.has_content);
        if let Some(sequence) = meaning.sequence {
            self.sequence = sequence.saturating_add(1);
        }
        if meaning.is_other_choice && !self.has_choices {
            (self.has_choices, self.has_ended) = (true, false);
        }
        // With several choices each has its end, and the stream has an end marker of its own.
        self.has_ended |= meaning.is_end && !self.has_choices;
        self.may_have_ended &= !meaning.has_content;
        self.is_ready |= meaning.has_content || meaning.is_end || self.kind == StreamKind::Plain;
    }

    /// The stream has a built-in format: its events are JSON, and it ends with an end marker.
    fn become_known(&mut self) {
        (self.kind, self.requires_end) = (StreamKind::Known, true);
        let count = self.held_back.len();
        self.held_back.retain(|piece| !piece.is_event);
        self.dropped += (count - self.held_back.len()) as u64;
    }

    /// A part of an oversized event.
    fn oversized_event(&mut self, raw: &[u8], is_last: bool) -> PieceAction {
        if self.splice.is_some() {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        if !self.held_back.is_empty() {
            self.kind = StreamKind::Plain;
        }
        self.transcript = None;
        (self.may_have_ended, self.is_ready) = (true, true);
        let format = self.format();
        let is_whole = is_last && self.large.is_none();
        let mut large = self.large.take().unwrap_or_else(|| Box::new(LargeEvent::new(format)));
        large.push(raw, self.interpreter.pointers());
        if !is_last {
            self.large = Some(large);
            return PieceAction::Forward;
        }
        let meaning = large.finish().and_then(|(name, data)| {
            self.interpreter.interpret(&name, &data, self.status, &mut self.found)
        });
        let Some(meaning) = meaning else { return PieceAction::Forward };
        self.may_have_ended = false;
        let is_error = meaning.is_error && self.kind != StreamKind::Plain;
        let rule = meaning.rule_class.filter(|class| *class != AttemptClass::Success);
        match rule.or(is_error.then_some(AttemptClass::Failure)) {
            // A part of it was forwarded.
            Some(class) if is_whole => return PieceAction::Fail(class),
            _ => self.apply(&meaning),
        }
        PieceAction::Forward
    }

    fn malformed_event(&mut self, piece: &Piece, name: &[u8], data: &[u8]) -> PieceAction {
        if name == b"error" && self.kind != StreamKind::Plain {
            return PieceAction::Fail(AttemptClass::Failure);
        }
        let is_ping = name == PING && self.splice.is_none();
        if is_ping || self.format() == StreamFormat::Array {
            return PieceAction::Forward;
        }
        if self.kind == StreamKind::Known {
            self.dropped += 1;
            return PieceAction::Drop;
        }
        let may_be_known =
            self.kind == StreamKind::Undetermined && self.format() == StreamFormat::Sse;
        if may_be_known && data.first() == Some(&b'{') && self.hold_back(&piece.raw, true) {
            return PieceAction::Drop;
        }
        (self.kind, self.is_ready) = (StreamKind::Plain, true);
        PieceAction::Forward
    }

    fn is_holding_back(&self) -> bool {
        self.kind == StreamKind::Undetermined && !self.held_back.is_empty()
    }

    /// Holds a piece back. Returns false if it does not fit; then the stream is plain.
    fn hold_back(&mut self, raw: &Bytes, is_event: bool) -> bool {
        self.held_back_bytes += raw.len();
        let fits = self.held_back_bytes <= MAX_HELD_BACK;
        if fits {
            self.held_back.push(HeldPiece { raw: Bytes::copy_from_slice(raw), is_event });
        } else {
            (self.kind, self.is_ready) = (StreamKind::Plain, true);
        }
        fits
    }

    fn release_held_back(&mut self, forward: &mut PassthroughBuffer) {
        self.held_back.drain(..).for_each(|piece| forward.push(&piece.raw));
        self.held_back_bytes = 0;
    }

    /// Records the text of an event. In a continuation, also finds where its new text begins.
    fn record_text(
        &mut self,
        piece: &Piece,
        data: &Bytes,
        span: Option<DeltaSpan>,
        is_end: bool,
    ) -> PieceAction {
        if self.transcript.is_none() && self.splice.is_none() {
            return PieceAction::Forward;
        }
        let delta = Delta::of(span, data, is_end);
        let Some(splice) = &mut self.splice else {
            self.transcript.take_if(|transcript| !transcript.push(&delta));
            return PieceAction::Forward;
        };
        match splice.push(piece, &delta) {
            Err(SpliceError) => PieceAction::Fail(AttemptClass::Failure),
            Ok(None) => {
                self.is_ready = false;
                PieceAction::Drop
            }
            Ok(Some(joined)) => {
                (self.splice, self.is_ready) = (None, true);
                self.transcript
                    .take_if(|transcript| !transcript.push_text(&joined.text) || delta.is_end);
                PieceAction::Replace(joined.events)
            }
        }
    }
}
