//! One bound for all replay and answer buffers together (`server.buffered`).
//!
//! A reservation is taken before bytes are kept and given back when it is dropped; past the bound
//! a body goes once and an answer commits early, which is counted, and memory does not grow.
//!
//! A quarter of the bound is not given out: it stands for what bytes cost beside themselves, in
//! the buffers of the connections that they pass through and in the allocator. With it, what the
//! process takes stays near the bound, which is what an operator sets it for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::metrics::Level;

#[derive(Debug)]
pub struct Buffers {
    used: AtomicU64,
    limit: AtomicU64,
    gauge: Level,
}

/// Bytes that are kept.
#[derive(Debug)]
pub struct Reservation {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Buffers {
    pub fn new(limit: u64, gauge: Level) -> Self {
        Buffers { used: AtomicU64::new(0), limit: AtomicU64::new(given_out(limit)), gauge }
    }

    pub fn retune(&self, limit: u64) {
        self.limit.store(given_out(limit), Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty reservation, to grow.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { buffers: Arc::clone(self), bytes: 0 }
    }
}

fn given_out(bound: u64) -> u64 {
    bound - bound / 4
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what was taken beyond this.
    pub fn keep(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        if back > 0 {
            self.bytes -= back;
            self.buffers.used.fetch_sub(back, Ordering::Relaxed);
            self.buffers.gauge.dec_by(back as i64);
        }
    }

    /// Takes room for more bytes; false, and nothing taken, past the bound.
    pub fn grow(&mut self, bytes: u64) -> bool {
        if bytes == 0 {
            return true;
        }
        let limit = self.buffers.limit.load(Ordering::Relaxed);
        let before = self.buffers.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit {
            self.buffers.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        self.buffers.gauge.inc_by(bytes as i64);
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_bound_nothing_is_taken_and_what_is_dropped_comes_back() {
        let buffers = Arc::new(Buffers::new(13, Level::default()));
        let mut first = buffers.reservation();
        assert!(first.grow(6) && first.grow(4));
        let mut second = buffers.reservation();
        assert!(!second.grow(1));
        first.keep(7);
        assert!(second.grow(3) && !second.grow(1));
        drop(first);
        assert!(second.grow(7));
        drop(second);
        assert_eq!(buffers.used(), 0);
    }
}
