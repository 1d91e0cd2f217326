//! The forwarded part of a frame, without a copy where possible.
//!
//! Pieces are added in order. While they are adjacent in the frame, the result is a slice of it.
//! Once a piece is left out between them, or another one is inserted, the result is a copy.

use bytes::Bytes;

#[derive(Debug, Default)]
pub struct PassthroughBuffer {
    frame: Bytes,
    from: usize,
    to: usize,
    copied: Vec<u8>,
}

impl PassthroughBuffer {
    pub fn of(frame: Bytes) -> PassthroughBuffer {
        PassthroughBuffer { frame, ..PassthroughBuffer::default() }
    }

    pub fn push(&mut self, raw: &[u8]) {
        let start = self.frame.as_ptr() as usize;
        let at = (raw.as_ptr() as usize).wrapping_sub(start);
        let inside = at < self.frame.len() && at + raw.len() <= self.frame.len();
        let is_empty = self.from == self.to;
        if self.copied.is_empty() && inside && (is_empty || at == self.to) {
            if is_empty {
                self.from = at;
            }
            self.to = at + raw.len();
            return;
        }
        if !is_empty {
            self.copied.extend_from_slice(&self.frame[self.from..self.to]);
            (self.from, self.to) = (0, 0);
        }
        self.copied.extend_from_slice(raw);
    }

    pub fn into_bytes(self) -> Bytes {
        match self.copied.is_empty() {
            true => self.frame.slice(self.from..self.to),
            false => self.copied.into(),
        }
    }
}
