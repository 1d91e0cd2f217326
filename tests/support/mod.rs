//! Support for the integration tests.
//!
//! - [`Origin`]: a scripted HTTP/1.1 server. It truncates responses, resets, stalls and refuses
//!   connections on command, and records every request.
//! - [`Client`]: a small blocking HTTP/1.1 client that shows exactly what came over the wire.
//! - [`Sidecar`]: the built binary, started with a policy.
//! - [`RedisServer`]: a real Redis; [`FaultProxy`]: a fault proxy in front of it; [`Fleet`]: sidecars
//!   that share it.
//!
//! Rules: the kernel chooses every port. A test waits for a condition instead of sleeping, and
//! names the condition if it never holds. No test is retried. A panic in an origin fails the test
//! that owns it.

// Each test binary uses only a part of this module, and tests may read the clock.
#![allow(dead_code, unused_imports, clippy::disallowed_methods)]

pub mod behaviour;
pub mod carriers;
pub mod client;
pub mod faketime;
pub mod fleet;
pub mod listener;
pub mod message;
pub mod origin;
pub mod redis;
pub mod sidecar;

pub use behaviour::{Behaviour, Ending, Gate, Stream};
pub use client::{Call, Client, End, Response, ResponseReader, get, post, post_json};
pub use fleet::{Fleet, fleet};
pub use message::Headers;
pub use origin::{Origin, Request};
pub use redis::{FaultProxy, ProxyMode, RedisServer};
pub use sidecar::{Sidecar, Signal};

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time limit of every wait in a test; far more than a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Interval at which a condition is checked when no event signals a change.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls `check` until it returns `Ok`, and returns that value. After [`PATIENCE`] it panics at the
/// caller's line with the name of the condition and the last error.
#[track_caller]
pub fn eventually<R>(condition: &str, mut check: impl FnMut() -> Result<R, String>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "never: {condition}; last: {last}"),
        }
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// A value that threads can change and wait on.
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

    /// Waits until the value changes, for at most `at_most`.
    pub fn park(&self, at_most: Duration) {
        let parked = self.changed.wait_timeout(self.lock(), at_most);
        drop(parked.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until `check` returns a value; `None` if [`PATIENCE`] ends first.
    pub fn wait<R>(&self, mut check: impl FnMut(&T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + PATIENCE;
        let mut value = self.lock();
        loop {
            if let Some(result) = check(&value) {
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
