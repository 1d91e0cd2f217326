//! An answer's body before the commit: taken in whole where that is possible, so that an answer
//! which breaks in its middle can still be another provider's.
//!
//! What may be withheld is bounded in bytes, frames and time, and by `server.buffered` over all
//! requests; past any of these the answer commits with what is here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use super::deadline::{Passed, Timer};
use crate::clock;
use crate::live::buffers::Reservation;
use crate::upstream::{AnswerBody, ExchangeError};

/// What may be withheld before the commit.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub bytes: u64,
    pub frames: usize,
    pub time: Duration,
}

/// The answer's body within these is held until it is whole.
pub const WHOLE: Bounds = Bounds { bytes: 1 << 20, frames: 64, time: Duration::from_secs(10) };
/// An answer that will probably be thrown away for another attempt is waited for shortly.
pub const REFUSED: Bounds = Bounds { bytes: 64 << 10, frames: 64, time: Duration::from_secs(1) };
/// A frame shorter than this is copied when it is held.
const SMALL: usize = 4 << 10;
/// Only the first frame is waited for.
pub const FIRST: Bounds = Bounds { bytes: 0, frames: 0, time: Duration::MAX };

/// When bytes have to come.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub first_byte: Instant,
    pub idle: Duration,
    pub deadline: Instant,
}

/// What came.
#[derive(Debug)]
pub enum Gathered {
    /// The end was seen.
    Whole(Bytes, Option<http::HeaderMap>),
    /// The beginning, to be followed by what the body still has.
    Part(VecDeque<Frame<Bytes>>),
    /// It broke, or nothing came for too long.
    Cut(Cut),
}

/// How an answer's body broke.
#[derive(Debug)]
pub enum Cut {
    Broken(ExchangeError),
    FirstByte,
    Idle,
    Deadline,
}

/// Reads until the body's end or one of the bounds.
pub async fn gather(
    timer: &Timer,
    body: &mut AnswerBody,
    bounds: Bounds,
    limits: Limits,
    room: &mut Reservation,
) -> Gathered {
    let mut frames = VecDeque::new();
    let mut held = 0u64;
    let mut hold_until = None;
    loop {
        if body.is_end_stream() {
            return whole(frames);
        }
        let (limit, cut) = limits.next(frames.is_empty());
        let patience = hold_until.filter(|at| *at < limit && !frames.is_empty());
        let frame = match timer.frame(body, patience.unwrap_or(limit)).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Gathered::Cut(Cut::Broken(error)),
            Ok(None) => return whole(frames),
            Err(Passed) if patience.is_some() => return Gathered::Part(frames),
            Err(Passed) => return Gathered::Cut(cut),
        };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        if frames.is_empty() && body.is_end_stream() && frame.is_data() {
            return Gathered::Whole(frame.into_data().unwrap_or_default(), None);
        }
        held += size;
        let fits = held <= bounds.bytes && frames.len() < bounds.frames && room.grow(size);
        frames.push_back(alone(frame));
        hold_until = hold_until.or_else(|| clock::now().checked_add(bounds.time));
        if !fits && !body.is_end_stream() {
            return Gathered::Part(frames);
        }
    }
}

impl Limits {
    /// By when the next frame has to be here, and what it is when it is not.
    fn next(&self, first: bool) -> (Instant, Cut) {
        let (at, cut) = if first {
            (self.first_byte, Cut::FirstByte)
        } else {
            (clock::now() + self.idle, Cut::Idle)
        };
        if self.deadline < at { (self.deadline, Cut::Deadline) } else { (at, cut) }
    }
}

/// A small frame as bytes of its own: else it keeps the buffer alive that it was read into.
fn alone(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.data_ref() {
        Some(data) if data.len() < SMALL => Frame::data(Bytes::copy_from_slice(data)),
        _ => frame,
    }
}

fn whole(mut frames: VecDeque<Frame<Bytes>>) -> Gathered {
    let trailers = match frames.back().is_some_and(Frame::is_trailers) {
        true => frames.pop_back().and_then(|frame| frame.into_trailers().ok()),
        false => None,
    };
    if frames.len() == 1 {
        let only = frames.pop_front().and_then(|frame| frame.into_data().ok());
        return Gathered::Whole(only.unwrap_or_default(), trailers);
    }
    let mut bytes = BytesMut::new();
    for data in frames.into_iter().filter_map(|frame| frame.into_data().ok()) {
        bytes.extend_from_slice(&data);
    }
    Gathered::Whole(bytes.freeze(), trailers)
}
