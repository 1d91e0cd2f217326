//! What passes of a frame: mostly all of it, and then nothing is copied.
//!
//! Pieces are given in their order. As long as they stand side by side in the frame that came, what
//! passes is a part of that frame; once something is left out between them, or put in, it is a
//! copy.

use bytes::Bytes;

/// What passes of a frame: a part of it, where that can be; else a copy.
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

    pub fn add(&mut self, raw: &[u8]) {
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

    pub fn bytes(self) -> Bytes {
        match self.copied.is_empty() {
            true => self.frame.slice(self.from..self.to),
            false => self.copied.into(),
        }
    }
}
