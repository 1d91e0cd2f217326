//! What the integration tests stand on.
//!
//! - [`Origin`]: a scripted HTTP/1.1 server on a port of its own. It half-answers, resets,
//!   stalls and refuses on command, and remembers every request.
//! - [`Client`]: a small blocking HTTP/1.1 client that shows exactly what came over the wire.
//! - [`Sidecar`]: the built binary, started with a policy, on ports of its own.
//! - [`RedisServer`]: a real Redis; [`Wire`]: what stands before it; [`Fleet`]: sidecars that share it.
//!
//! The rules: no fixed ports, no sleeping (a test waits for a condition, and says which one if it
//! never comes), no retries. A panic in the origin fails the test that owns it.

// Each test binary uses a part of this, and tests may read the clock.
#![allow(dead_code, unused_imports, clippy::disallowed_methods)]

pub mod behaviour;
pub mod client;
pub mod door;
pub mod fleet;
pub mod message;
pub mod origin;
pub mod redis;
pub mod sidecar;

pub use behaviour::{Behaviour, Ending, Gate, Stream};
pub use client::{Answer, Call, Client, End, Response, get, post, post_json};
pub use fleet::{Fleet, fleet};
pub use message::Headers;
pub use origin::{Origin, Request};
pub use redis::{Passing, RedisServer, Wire};
pub use sidecar::{Sidecar, Signal};

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long anything in a test is waited for: far past what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is asked again when nothing announces that it may have changed.
pub const TURN: Duration = Duration::from_millis(10);

/// Waits until something is found, and returns it; panics at the caller's line, with what was seen
/// instead at last, when it never is.
#[track_caller]
pub fn seen<R>(what: &str, mut look: impl FnMut() -> Result<R, String>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "never: {what}; seen was {seen}"),
        }
        std::thread::park_timeout(TURN);
    }
}

/// A value that can be waited on.
#[derive(Debug, Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.lock())
    }

    /// Parks until the value changes, for `at_most` this long.
    pub fn park(&self, at_most: Duration) {
        let parked = self.changed.wait_timeout(self.lock(), at_most);
        drop(parked.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until `found` finds something; `None` when [`PATIENCE`] ends first.
    pub fn wait<R>(&self, mut found: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + PATIENCE;
        let mut value = self.lock();
        loop {
            if let Some(result) = found(&value) {
                return Some(result);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let parked = self.changed.wait_timeout(value, left);
            value = parked.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
