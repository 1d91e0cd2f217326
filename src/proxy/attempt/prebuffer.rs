//! An answer's body before the commit: taken in as far as the route's `commit` says, so that an
//! answer which breaks until then, or turns out to be an error, can still be another provider's.
//!
//! What may be withheld is bounded in bytes, frames and time, and by `server.buffered` over all
//! requests; past any of these the answer commits with what is here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model::Buffer;
use crate::proxy::downstream::timer::{Elapsed, Timer};
use crate::resilience::outcome::AttemptClass;
use crate::stream::reader::{StreamEnd, StreamReader};
use crate::upstream::{ExchangeError, IncomingBody};

/// How much of a body is read before the commit.
#[derive(Clone, Copy, Debug)]
pub struct PrebufferLimit {
    pub until: ReadUntil,
    /// What may be withheld.
    pub within: Buffer,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUntil {
    /// Anything.
    Frame,
    /// The first content of an event stream.
    Content,
    /// The end.
    End,
}

/// An answer that will probably be thrown away for another attempt is waited for shortly.
pub const REFUSED: PrebufferLimit = PrebufferLimit {
    until: ReadUntil::End,
    within: Buffer { bytes: 64 << 10, frames: 64, time: Duration::from_secs(1) },
};
/// A frame shorter than this is copied when it is held.
const SMALL: usize = 4 << 10;

/// When bytes have to come.
#[derive(Clone, Copy, Debug)]
pub struct BodyDeadlines {
    pub first_byte: Instant,
    /// Of an event stream, once nothing can follow it: its first content.
    pub content: Instant,
    pub idle: Duration,
    pub deadline: Instant,
}

/// What came.
#[derive(Debug)]
pub enum Prebuffered {
    /// The end was seen.
    Whole(Bytes, Option<http::HeaderMap>),
    /// The beginning, to be followed by what the body still has.
    Part(VecDeque<Frame<Bytes>>),
    /// An event says that it failed; the event is among these frames.
    Error(AttemptClass, VecDeque<Frame<Bytes>>),
    /// It broke, or nothing came for too long.
    Cut(PrebufferError),
}

/// How an answer's body broke.
#[derive(Debug)]
pub enum PrebufferError {
    Broken(ExchangeError),
    FirstByte,
    Content,
    Idle,
    Deadline,
    /// The event stream ended, but not as a whole one does.
    Ended(StreamEnd),
}

/// What was read so far.
#[derive(Default)]
struct Got {
    frames: VecDeque<Frame<Bytes>>,
    bytes: u64,
    /// When the first of it came.
    since: Option<Instant>,
}

/// Reads until what is waited for is there, the body ends, or one of the bounds.
pub async fn gather(
    timer: &Timer,
    body: &mut IncomingBody,
    hold: PrebufferLimit,
    limits: BodyDeadlines,
    room: &mut Reservation,
    mut reader: Option<&mut StreamReader>,
) -> Prebuffered {
    let mut got = Got::default();
    loop {
        if body.is_end_stream() {
            return got.ended(reader);
        }
        let content = reader.as_ref().is_none_or(|reader| reader.is_ready());
        let (limit, cut) = limits.next(got.since.is_some(), content);
        let patience = got.since.and_then(|since| since.checked_add(hold.within.time));
        let patience = patience.filter(|at| *at < limit);
        let frame = match timer.frame(body, patience.unwrap_or(limit)).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Prebuffered::Cut(PrebufferError::Broken(error)),
            Ok(None) => return got.ended(reader),
            Err(Elapsed) if patience.is_some() => return Prebuffered::Part(got.frames),
            Err(Elapsed) => return Prebuffered::Cut(cut),
        };
        let last = body.is_end_stream();
        if got.since.is_none() && last && frame.is_data() && reader.is_none() {
            return Prebuffered::Whole(frame.into_data().unwrap_or_default(), None);
        }
        if let Err(class) = got.push(frame, reader.as_deref_mut()) {
            return Prebuffered::Error(class, got.frames);
        }
        let enough = match hold.until {
            ReadUntil::Frame => got.bytes > 0,
            ReadUntil::Content => reader.as_ref().is_none_or(|reader| reader.is_ready()),
            ReadUntil::End => false,
        };
        let fits = got.bytes <= hold.within.bytes && got.frames.len() < hold.within.frames;
        let held = got.bytes + reader.as_ref().map_or(0, |reader| reader.buffered() as u64);
        let room = room.grow(held.saturating_sub(room.bytes()));
        if (enough || !fits || !room) && !last {
            return Prebuffered::Part(got.frames);
        }
    }
}

impl Got {
    /// Keeps a frame. An event of it that says that the answer failed: its class.
    fn push(
        &mut self,
        frame: Frame<Bytes>,
        reader: Option<&mut StreamReader>,
    ) -> Result<(), AttemptClass> {
        if self.since.is_none() {
            self.since = Some(clock::now());
        }
        let (frame, error) = match (reader, frame.into_data()) {
            (None, Ok(data)) => (Frame::data(data), None),
            (_, Err(trailers)) => (trailers, None),
            (Some(reader), Ok(data)) => {
                let taken = reader.read(data);
                (Frame::data(taken.bytes), taken.error)
            }
        };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.bytes += size;
        if size > 0 || frame.is_trailers() {
            self.frames.push_back(alone(frame));
        }
        match error {
            None => Ok(()),
            Some(error) => {
                self.frames.push_back(Frame::data(error.raw));
                Err(error.class)
            }
        }
    }

    fn ended(mut self, reader: Option<&mut StreamReader>) -> Prebuffered {
        let Some(reader) = reader else { return whole(self.frames) };
        let (rest, ended) = reader.end();
        if ended != StreamEnd::Complete {
            return Prebuffered::Cut(PrebufferError::Ended(ended));
        }
        if !rest.is_empty() {
            let at = self.frames.iter().take_while(|frame| frame.is_data()).count();
            self.frames.insert(at, Frame::data(rest));
        }
        whole(self.frames)
    }
}

impl BodyDeadlines {
    /// By when the next frame has to be here, and what it is when it is not.
    fn next(&self, began: bool, content: bool) -> (Instant, PrebufferError) {
        let (mut at, mut cut) = (self.first_byte, PrebufferError::FirstByte);
        if began {
            let idle = clock::now() + self.idle;
            (at, cut) = match content || idle < self.first_byte {
                true => (idle, PrebufferError::Idle),
                false => (self.first_byte, PrebufferError::Content),
            };
        }
        if self.deadline < at { (self.deadline, PrebufferError::Deadline) } else { (at, cut) }
    }
}

/// A small frame as bytes of its own: else it keeps the buffer alive that it was read into.
fn alone(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.data_ref() {
        Some(data) if data.len() < SMALL => Frame::data(Bytes::copy_from_slice(data)),
        _ => frame,
    }
}

fn whole(mut frames: VecDeque<Frame<Bytes>>) -> Prebuffered {
    let trailers = match frames.back().is_some_and(Frame::is_trailers) {
        true => frames.pop_back().and_then(|frame| frame.into_trailers().ok()),
        false => None,
    };
    if frames.len() == 1 {
        let only = frames.pop_front().and_then(|frame| frame.into_data().ok());
        return Prebuffered::Whole(only.unwrap_or_default(), trailers);
    }
    let mut bytes = BytesMut::new();
    for data in frames.into_iter().filter_map(|frame| frame.into_data().ok()) {
        bytes.extend_from_slice(&data);
    }
    Prebuffered::Whole(bytes.freeze(), trailers)
}
