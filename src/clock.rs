//! Time and randomness: the only file that reads either.
//!
//! Everything else takes `now` or `draw` as an argument, so that a test can supply both.
//! `tests/architecture` enforces it.

#![allow(clippy::disallowed_methods)]

use std::hash::RandomState;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Monotonic time: for every limit, wait and measurement.
pub fn now() -> Instant {
    Instant::now()
}

/// Offset of the wall clock in seconds, to test a fleet whose hosts' clocks disagree.
static OFFSET: AtomicI64 = AtomicI64::new(0);

/// Offsets the wall clock of this process by this many seconds.
pub fn set_off(seconds: i64) {
    OFFSET.store(seconds, Ordering::Relaxed);
}

/// Wall-clock time: for people (log lines, events) and for HTTP dates, never for a decision.
pub fn wall() -> SystemTime {
    let (now, offset) = (SystemTime::now(), OFFSET.load(Ordering::Relaxed));
    let by = Duration::from_secs(offset.unsigned_abs());
    let moved = if offset < 0 { now.checked_sub(by) } else { now.checked_add(by) };
    moved.unwrap_or(now)
}

/// The system's monotonic clock in microseconds, to compare with other processes of this host.
pub fn monotonic_micros() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

/// The time since `then`.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A uniform number in [0, 1), from a generator of the calling thread.
pub fn draw() -> f64 {
    fastrand::f64()
}

/// 64 random bits, for request ids. Not for secrets.
pub fn random() -> u64 {
    fastrand::u64(..)
}

/// 128 unpredictable bits, for ids that grant access.
///
/// # Errors
/// When the system provides none.
pub fn secret() -> std::io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(std::io::Error::other)?;
    Ok(bits)
}

/// A keyed hash, so that outsiders cannot choose colliding values.
pub fn hashing() -> RandomState {
    RandomState::new()
}
