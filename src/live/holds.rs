//! The hold of one credential at one address (and model): a provider asked us to wait.
//!
//! Looking at it costs one load while nothing is held and nothing ramps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;
use crate::resilience::hold::{Cause, Hold};

#[derive(Debug)]
pub struct HoldCell {
    key: String,
    rule: Mutex<Hold>,
    /// False while nothing was ever held lately, so that neither a look nor a success need lock.
    restrains: AtomicBool,
}

impl HoldCell {
    pub fn new(key: String) -> Self {
        HoldCell { key, rule: Mutex::new(Hold::new()), restrains: AtomicBool::new(false) }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// May an attempt go now? Nothing changes.
    ///
    /// # Errors
    /// The time that is left.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        if !self.restrains.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.rule).check(now)
    }

    /// Leave for one attempt; counts it, so that the rate before a hold is known after it.
    ///
    /// # Errors
    /// The time that is left.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        lock(&self.rule).admit(now)
    }

    /// The provider said 429, or 503 with Retry-After; returns until when nothing is sent.
    pub fn throttled(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let mut rule = lock(&self.rule);
        self.restrains.store(true, Ordering::Release);
        rule.throttled(retry_after, now, clock::draw())
    }

    /// The provider refused the credential; returns until when it is held, if it now is.
    pub fn credential(&self, status: u16, now: Instant) -> Option<Instant> {
        let mut rule = lock(&self.rule);
        self.restrains.store(true, Ordering::Release);
        rule.credential(status, now)
    }

    pub fn success(&self, now: Instant) {
        if !self.restrains.load(Ordering::Acquire) {
            return;
        }
        lock(&self.rule).success(now);
    }

    /// Nobody knows whether it helps to wait: the provider said no time.
    pub fn is_guess(&self) -> bool {
        lock(&self.rule).cause() == Some(Cause::Unsaid)
    }

    pub fn until(&self) -> Option<Instant> {
        lock(&self.rule).until()
    }
}
