//! One memory limit for all replay and response buffers together (`server.buffered`).
//!
//! A reservation is taken before bytes are buffered and returned when it is dropped. Past the
//! limit memory does not grow: a request body is sent only once and a response is committed
//! early. This is counted.
//!
//! A quarter of the limit is never reserved: it accounts for the cost of bytes elsewhere, in
//! connection buffers and in the allocator. With it the memory of the process stays near the
//! configured limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::metrics::Level;

#[derive(Debug)]
pub struct Buffers {
    used: AtomicU64,
    limit: AtomicU64,
    gauge: Level,
}

/// Reserved bytes.
#[derive(Debug)]
pub struct Reservation {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Buffers {
    pub fn new(limit: u64, gauge: Level) -> Self {
        Buffers { used: AtomicU64::new(0), limit: AtomicU64::new(reservable(limit)), gauge }
    }

    pub fn retune(&self, limit: u64) {
        self.limit.store(reservable(limit), Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty reservation that can grow.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { buffers: Arc::clone(self), bytes: 0 }
    }
}

fn reservable(limit: u64) -> u64 {
    limit - limit / 4
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns everything beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let returned = self.bytes.saturating_sub(bytes);
        if returned > 0 {
            self.bytes -= returned;
            self.buffers.used.fetch_sub(returned, Ordering::Relaxed);
            self.buffers.gauge.dec_by(returned as i64);
        }
    }

    /// Reserves more bytes; false, and nothing reserved, past the limit.
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
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_limit_reserves_nothing_and_drops_return_bytes() {
        let buffers = Arc::new(Buffers::new(13, Level::default()));
        let mut first = buffers.reservation();
        assert!(first.grow(6) && first.grow(4));
        let mut second = buffers.reservation();
        assert!(!second.grow(1));
        first.shrink_to(7);
        assert!(second.grow(3) && !second.grow(1));
        drop(first);
        assert!(second.grow(7));
        drop(second);
        assert_eq!(buffers.used(), 0);
    }
}
