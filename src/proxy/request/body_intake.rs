//! The intake of a request body: the start that is kept, and the minimum rate (`server.body_rate`).
//!
//! A limit on the gap between two reads alone lets a client hold a request, its buffer and its
//! provider's connection for ever with a byte now and then. As in Apache's `mod_reqtimeout`, each
//! byte that arrives buys time, here on top of the time that one gap may take.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::headers;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::proxy::access_log::reasons::NotReplayable;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::timer::{Elapsed, Timer};
use crate::snapshot::Route;

/// A body without a known length that is incomplete after this long is streamed.
const STILL_ARRIVING: Duration = Duration::from_secs(1);
/// The memory that a body may claim before it arrives.
const MAX_CLAIM: u64 = 1 << 20;

/// The start of a body.
#[derive(Debug, Default)]
pub struct Prefix {
    /// The length that the head declares.
    pub length: Option<u64>,
    /// A longer body is not buffered.
    limit: u64,
    /// The only frame, as it was read.
    only: Option<Bytes>,
    joined: Vec<u8>,
    pub trailers: Option<Frame<Bytes>>,
}

impl Prefix {
    /// The start of a body with this length, if it is declared, of which at most `limit` is kept.
    pub fn new(length: Option<u64>, limit: u64) -> Prefix {
        Prefix { length, limit, ..Prefix::default() }
    }

    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Prefix {
        Prefix { only: Some(bytes), ..Prefix::default() }
    }

    pub fn len(&self) -> u64 {
        self.only.as_ref().map_or(self.joined.len(), Bytes::len) as u64
    }

    pub fn push(&mut self, data: Bytes, last: bool) {
        if last && self.joined.is_empty() {
            self.only = Some(data);
            return;
        }
        if self.joined.is_empty() {
            // Exact: untouched capacity costs no memory, and a growing buffer leaves smaller ones
            // behind.
            let whole = self.length.map_or(0, |length| length.min(self.limit).min(MAX_CLAIM));
            self.joined.reserve_exact(whole.max(data.len() as u64) as usize);
        }
        self.joined.extend_from_slice(&data);
    }

    pub fn bytes(self) -> Bytes {
        self.only.unwrap_or_else(|| Bytes::from(self.joined))
    }
}

/// The limits for receiving a body.
#[derive(Clone, Copy, Debug)]
pub struct IntakeLimits {
    pub replay: u64,
    pub reads_body: bool,
    /// Wait until the body is complete, however long that takes.
    pub complete: bool,
    pub rate: BodyRate,
}

impl IntakeLimits {
    pub fn of(route: &Route, complete: bool) -> IntakeLimits {
        IntakeLimits {
            replay: route.policy.replay,
            reads_body: route.reads_body,
            complete,
            rate: BodyRate {
                idle: route.tiers[0].candidates[0].provider.policy.timeouts.idle,
                minimum: route.server.body_rate,
            },
        }
    }
}

/// How long a client may take to send its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRate {
    /// The longest gap.
    pub idle: Duration,
    /// Bytes per second; 0 for no minimum.
    pub minimum: u64,
}

impl BodyRate {
    /// How long the client may be waited for in total, if it has sent this many bytes.
    pub fn allowance(&self, bytes: u64) -> Duration {
        match (bytes.saturating_mul(1000)).checked_div(self.minimum) {
            Some(millis) => self.idle.saturating_add(Duration::from_millis(millis)),
            None => Duration::MAX,
        }
    }

    /// The time left to wait for the next bytes, after `waited` in total for the `bytes` so far.
    pub fn time_left(&self, bytes: u64, waited: Duration) -> Duration {
        self.idle.min(self.allowance(bytes).saturating_sub(waited))
    }
}

/// Reads into `prefix` until the body ends; else returns why the body is streamed.
pub async fn receive(
    timer: &Timer,
    body: &mut Incoming,
    limits: IntakeLimits,
    room: &mut Reservation,
    prefix: &mut Prefix,
    mut moved: Instant,
) -> Result<Option<NotReplayable>, Problem> {
    let patient = prefix.length.is_some() || limits.complete;
    let began = moved;
    let give_up = moved + STILL_ARRIVING;
    loop {
        let limit = match patient {
            true => {
                moved + limits.rate.time_left(prefix.len(), moved.saturating_duration_since(began))
            }
            false => give_up,
        };
        let frame = match timer.frame(body, limit).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(interrupted(&error)),
            Err(Elapsed) if patient => return Err(stalled(limits.rate, prefix.len())),
            Err(Elapsed) => return Ok(Some(NotReplayable::StillArriving)),
        };
        let last = body.is_end_stream();
        // Only received bytes: a stalled upload leaves room for others.
        let full = match frame.into_data() {
            Ok(data) => {
                let full = !room.grow(data.len() as u64);
                prefix.push(data, last);
                full
            }
            Err(trailers) => {
                if let Some(fault) = trailer_fault(&trailers) {
                    return Err(Problem::new(ProblemKind::RequestInterrupted, fault));
                }
                prefix.trailers = Some(trailers);
                return Ok(Some(NotReplayable::Trailers));
            }
        };
        if prefix.len() > limits.replay {
            return Ok(Some(NotReplayable::LargerThanReplay));
        }
        if last || full {
            return Ok((!last).then_some(NotReplayable::BuffersFull));
        }
        moved = clock::now();
    }
}

fn interrupted(error: &hyper::Error) -> Problem {
    Problem::new(ProblemKind::RequestInterrupted, error.to_string())
}

fn stalled(rate: BodyRate, received: u64) -> Problem {
    let BodyRate { idle, minimum } = rate;
    let detail = format!(
        "{received} bytes arrived, then nothing for {idle:?}, or too few for {minimum} bytes per second"
    );
    Problem::new(ProblemKind::RequestTimeout, detail)
}

/// The reason why a frame is rejected, if it holds the trailers.
///
/// The parser takes a bare line feed for the end of the trailers, and drops what follows it up to an
/// empty line: that may be the next request. Without a trailer the section then counts as empty. A
/// program that merges trailers into the head would read another message if one of them frames,
/// routes or describes it (RFC 9110, 6.5.1).
pub fn trailer_fault(frame: &Frame<Bytes>) -> Option<&'static str> {
    let trailers = frame.trailers_ref()?;
    if trailers.is_empty() {
        return Some("the trailer section ends in a bare line feed");
    }
    let is_of_head = |name: &HeaderName| {
        headers::FRAMES.contains(name) || matches!(*name, CONTENT_ENCODING | CONTENT_TYPE)
    };
    let fault = "a trailer frames, routes or describes the message: send it in the head";
    trailers.keys().any(is_of_head).then_some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_buys_time_beyond_one_gap() {
        let rate = BodyRate { idle: Duration::from_secs(3), minimum: 100 };
        let left = |bytes, waited| rate.time_left(bytes, Duration::from_millis(waited));
        assert_eq!(left(0, 0), Duration::from_secs(3));
        assert_eq!(left(0, 2_000), Duration::from_secs(1));
        assert_eq!(left(100, 2_000), Duration::from_secs(2));
        assert_eq!(left(1_000_000, 2_000), Duration::from_secs(3));
        assert_eq!(left(1, 9_000), Duration::ZERO);
        assert_eq!(left(u64::MAX, 9_000), Duration::from_secs(3));
    }

    #[test]
    fn a_minimum_of_zero_limits_the_gap_alone() {
        let rate = BodyRate { idle: Duration::from_secs(3), minimum: 0 };
        assert_eq!(rate.time_left(0, Duration::from_secs(900)), Duration::from_secs(3));
    }
}
