//! The intake of a request body: the start that is kept, and the minimum rate (`server.body_rate`).
//!
//! A limit on the gap between two reads alone lets a client hold a request, its buffer and its
//! provider's connection for ever with a byte now and then. As in Apache's `mod_reqtimeout`, each
//! byte that arrives buys time, here on top of the time that one gap may take.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

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

/// The parser takes a bare line feed for the end of the trailers, and drops what follows it up to an
/// empty line: that may be the next request. Without a trailer the section then counts as empty.
pub fn is_cut_short(frame: &Frame<Bytes>) -> bool {
    frame.trailers_ref().is_some_and(HeaderMap::is_empty)
}

pub const BARE_LINE_FEED: &str = "the trailer section ends in a bare line feed";

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
