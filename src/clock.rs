//! Now and chance: the only file that reads either.
//!
//! Everything below takes `now` or `draw` as an argument, so that a test can give both, and a
//! later test of policies in virtual time has one place to stand on. `tests/architecture` enforces it.

#![allow(clippy::disallowed_methods)]

use std::hash::RandomState;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Monotonic time: for every limit, wait and measure.
pub fn now() -> Instant {
    Instant::now()
}

/// By how many seconds the wall clock is set off: hosts of a fleet that disagree can be tried.
static OFFSET: AtomicI64 = AtomicI64::new(0);

/// Sets the wall clock of this process off by so many seconds.
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

/// How long ago `then` was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A number from 0 up to, but not including, 1; from a generator of the calling thread.
pub fn draw() -> f64 {
    fastrand::f64()
}

/// 64 bits of chance: names for requests. Not for secrets.
pub fn random() -> u64 {
    fastrand::u64(..)
}

/// 128 bits that nobody can guess: names by which something is given out.
///
/// # Errors
/// When the system gives none.
pub fn secret() -> std::io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(std::io::Error::other)?;
    Ok(bits)
}

/// A hash with a secret in it, so that nobody outside can choose values that collide.
pub fn hashing() -> RandomState {
    RandomState::new()
}
