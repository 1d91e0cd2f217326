//! The start of a request's body, as far as it is kept.

use bytes::Bytes;
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
