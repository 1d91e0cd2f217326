//! The response body before the commit: read as far as the route's `commit` requires, so that a
//! response that breaks until then, or turns out to be an error, can be replaced by another
//! attempt's.
//!
//! The prebuffer is bounded in bytes, frames and time, and by `server.buffered` over all requests.
//! The first frame past any of these bounds commits the response with what was read. While nothing
//! arrives there is nothing new to forward, and a provider that stays silent can still be replaced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model::Buffer;
use crate::proxy::downstream::own_headers::remove_own_trailers;
use crate::proxy::downstream::timer::{Elapsed, Timer};
use crate::resilience::outcome::AttemptClass;
use crate::stream::reader::{StreamEnd, StreamReader};
use crate::upstream::{ExchangeError, IncomingBody};

/// How much of a body is read before the commit.
#[derive(Clone, Copy, Debug)]
pub struct PrebufferLimit {
    pub until: ReadUntil,
    /// The bounds of the prebuffer.
    pub within: Buffer,
    /// The time is up even if no other frame comes.
    pub is_strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUntil {
    /// The first bytes.
    Frame,
    /// The first content of an event stream; a document at once.
    Content,
    /// The first content of an event stream; a document to its end.
    ContentOrEnd,
    End,
}

/// For a response that another attempt will probably replace: it is read for a short time only.
pub const DISCARDED: PrebufferLimit = PrebufferLimit {
    until: ReadUntil::End,
    within: Buffer { bytes: 64 << 10, frames: 64, time: Duration::from_secs(1) },
    is_strict: true,
};
/// A shorter frame is copied, because it would keep the whole buffer alive that it was read into.
const SMALL_FRAME: usize = 4 << 10;

/// So many frames are joined into one.
const JOINED_FRAMES: usize = 64;

/// When the parts of a body are due.
#[derive(Clone, Copy, Debug)]
pub struct BodyDeadlines {
    pub first_byte: Instant,
    pub idle: Duration,
    pub deadline: Instant,
}

/// The body as far as it was read.
#[derive(Debug)]
pub enum Prebuffered {
    /// To its end.
    Complete(Bytes, Option<HeaderMap>),
    /// The start, and when its last frame came; the body has more.
    Part(VecDeque<Frame<Bytes>>, Option<Instant>),
    /// An event reports a failure. The frames contain that event.
    Error(AttemptClass, VecDeque<Frame<Bytes>>),
    /// The body broke or stalled.
    Failed(PrebufferError),
}

impl Prebuffered {
    /// The body, if it was read to its end.
    pub fn whole(&self) -> Option<&[u8]> {
        match self {
            Prebuffered::Complete(body, _) => Some(body),
            _ => None,
        }
    }
}

/// How a body failed before the commit.
#[derive(Debug)]
pub enum PrebufferError {
    Broken(ExchangeError),
    FirstByte,
    Content,
    Idle,
    Deadline,
    /// The event stream is incomplete.
    Ended(StreamEnd),
}

/// The body so far.
#[derive(Default)]
struct Buffered {
    frames: VecDeque<Frame<Bytes>>,
    bytes: u64,
    /// When the first frame came, and the last one.
    since: Option<Instant>,
    last: Option<Instant>,
    /// Frames at the end that may be joined.
    loose: usize,
}

/// Reads until the limit, the end of the body, or one of the bounds.
pub async fn prebuffer(
    timer: &Timer,
    body: &mut IncomingBody,
    limit: PrebufferLimit,
    deadlines: BodyDeadlines,
    room: &mut Reservation,
    mut reader: Option<&mut StreamReader>,
) -> Prebuffered {
    let mut buffered = Buffered::default();
    loop {
        if body.is_end_stream() {
            return buffered.ended(reader);
        }
        let content =
            reader.as_ref().is_none_or(|reader| reader.is_ready() || reader.is_document());
        let (due, error) = deadlines.next(buffered.since.is_some(), content);
        let over = buffered.since.and_then(|since| since.checked_add(limit.within.time));
        let patience = over.filter(|at| limit.is_strict && *at < due);
        let frame = match timer.frame(body, patience.unwrap_or(due)).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Prebuffered::Failed(PrebufferError::Broken(error)),
            Ok(None) => return buffered.ended(reader),
            Err(Elapsed) if patience.is_some() => return buffered.part(),
            Err(Elapsed) => return Prebuffered::Failed(error),
        };
        let last = body.is_end_stream();
        if buffered.since.is_none() && last && frame.is_data() && reader.is_none() {
            return Prebuffered::Complete(frame.into_data().unwrap_or_default(), None);
        }
        if let Err(class) = buffered.push(frame, reader.as_deref_mut()) {
            return Prebuffered::Error(class, buffered.frames);
        }
        let enough = match limit.until {
            ReadUntil::Frame => buffered.bytes > 0,
            ReadUntil::Content => {
                reader.as_ref().is_none_or(|reader| reader.is_ready() || reader.is_document())
            }
            ReadUntil::ContentOrEnd => reader.as_ref().is_none_or(|reader| reader.is_ready()),
            ReadUntil::End => false,
        };
        let fits = buffered.bytes <= limit.within.bytes
            && buffered.frames.len() < limit.within.frames
            && over.is_none_or(|at| buffered.last < Some(at));
        let held = buffered.bytes + reader.as_ref().map_or(0, |reader| reader.buffered() as u64);
        let room = room.grow(held.saturating_sub(room.bytes()));
        if (enough || !fits || !room) && !last {
            return buffered.part();
        }
    }
}

impl Buffered {
    /// Adds a frame. An error event in it gives the class of the attempt.
    fn push(
        &mut self,
        frame: Frame<Bytes>,
        reader: Option<&mut StreamReader>,
    ) -> Result<(), AttemptClass> {
        self.last = Some(clock::now());
        self.since = self.since.or(self.last);
        let (frame, error) = match (reader, frame.into_data()) {
            (None, Ok(data)) => (Frame::data(data), None),
            (_, Err(trailers)) => (remove_own_trailers(trailers), None),
            (Some(reader), Ok(data)) => {
                let taken = reader.read(data);
                (Frame::data(taken.bytes), taken.error)
            }
        };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.bytes += size;
        if size > 0 || frame.is_trailers() {
            self.frames.push_back(detached(frame));
            self.join_loose();
        }
        match error {
            None => Ok(()),
            Some(error) => {
                self.frames.push_back(Frame::data(error.raw));
                Err(error.class)
            }
        }
    }

    fn part(self) -> Prebuffered {
        Prebuffered::Part(self.frames, self.last)
    }

    /// Joins the last frames into one: many small ones would take more memory than their bytes.
    fn join_loose(&mut self) {
        self.loose += 1;
        let is_data = self.frames.back().is_some_and(Frame::is_data);
        if self.loose < JOINED_FRAMES || !is_data {
            return;
        }
        let tail = self.frames.split_off(self.frames.len().saturating_sub(self.loose));
        let mut bytes = BytesMut::new();
        for data in tail.into_iter().filter_map(|frame| frame.into_data().ok()) {
            bytes.extend_from_slice(&data);
        }
        self.frames.push_back(Frame::data(bytes.freeze()));
        self.loose = 0;
    }

    fn ended(mut self, reader: Option<&mut StreamReader>) -> Prebuffered {
        let Some(reader) = reader else { return complete(self.frames) };
        let (rest, ended) = reader.end();
        if ended != StreamEnd::Complete {
            return Prebuffered::Failed(PrebufferError::Ended(ended));
        }
        if !rest.is_empty() {
            let at = self.frames.iter().take_while(|frame| frame.is_data()).count();
            self.frames.insert(at, Frame::data(rest));
        }
        complete(self.frames)
    }
}

impl BodyDeadlines {
    /// When the next frame is due, and the error if it does not come.
    fn next(&self, began: bool, content: bool) -> (Instant, PrebufferError) {
        let (mut at, mut error) = (self.first_byte, PrebufferError::FirstByte);
        if began {
            let idle = clock::now() + self.idle;
            (at, error) = match content || idle < self.first_byte {
                true => (idle, PrebufferError::Idle),
                false => (self.first_byte, PrebufferError::Content),
            };
        }
        if self.deadline < at { (self.deadline, PrebufferError::Deadline) } else { (at, error) }
    }
}

fn detached(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.data_ref() {
        Some(data) if data.len() < SMALL_FRAME => Frame::data(Bytes::copy_from_slice(data)),
        _ => frame,
    }
}

fn complete(mut frames: VecDeque<Frame<Bytes>>) -> Prebuffered {
    let trailers = match frames.back().is_some_and(Frame::is_trailers) {
        true => frames.pop_back().and_then(|frame| frame.into_trailers().ok()),
        false => None,
    };
    if frames.len() == 1 {
        let only = frames.pop_front().and_then(|frame| frame.into_data().ok());
        return Prebuffered::Complete(only.unwrap_or_default(), trailers);
    }
    let mut bytes = BytesMut::new();
    for data in frames.into_iter().filter_map(|frame| frame.into_data().ok()) {
        bytes.extend_from_slice(&data);
    }
    Prebuffered::Complete(bytes.freeze(), trailers)
}
