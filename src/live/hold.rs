//! The hold of one credential at one address (and model): a provider asked us to wait.
//!
//! Looking at it costs one load while nothing is held and nothing ramps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fleet::FleetView;
use crate::clock;
use crate::resilience::limits::hold::{Hold, HoldReason, RETRY_AFTER_MAX};

#[derive(Debug)]
pub struct HoldCell {
    key: String,
    rule: Mutex<Hold>,
    /// False while nothing was ever held lately, so that neither a look nor a success need lock.
    restrains: AtomicBool,
    fleet: Option<Arc<FleetView>>,
}

impl HoldCell {
    pub fn new(key: String, fleet: Option<&Arc<FleetView>>) -> Self {
        let cell = HoldCell {
            key,
            rule: Mutex::new(Hold::new()),
            restrains: AtomicBool::new(false),
            fleet: fleet.cloned(),
        };
        let now = clock::now();
        if let Some(left) = fleet.and_then(|fleet| fleet.hold_left(&cell.key, now)) {
            cell.hold(Some(left), now);
        }
        cell
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
        self.rule.lock().check(now)
    }

    /// Leave for one attempt; counts it, so that the rate before a hold is known after it.
    ///
    /// # Errors
    /// The time that is left.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        self.rule.lock().admit(now)
    }

    /// The provider said 429, or 503 with Retry-After; returns until when nothing is sent. Where it
    /// said for how long, that is the fleet's to know.
    pub fn throttled(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let told = retry_after.filter(|told| !told.is_zero()).map(|told| told.min(RETRY_AFTER_MAX));
        if let (Some(told), Some(fleet)) = (told, &self.fleet) {
            fleet.publish_hold(&self.key, now + told, now);
        }
        self.hold(retry_after, now)
    }

    /// Another host of the fleet was told to wait for so long yet.
    pub fn hold_from_fleet(&self, left: Duration, now: Instant) {
        self.hold(Some(left), now);
    }

    fn hold(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let mut rule = self.rule.lock();
        self.restrains.store(true, Ordering::Release);
        rule.throttled(retry_after, now, clock::draw())
    }

    /// The provider refused the credential; returns until when it is held, if it now is.
    pub fn credential(&self, status: u16, now: Instant) -> Option<Instant> {
        let mut rule = self.rule.lock();
        self.restrains.store(true, Ordering::Release);
        rule.credential(status, now)
    }

    pub fn success(&self, now: Instant) {
        if !self.restrains.load(Ordering::Acquire) {
            return;
        }
        self.rule.lock().success(now);
    }

    /// Nobody knows whether it helps to wait: the provider said no time.
    pub fn is_backoff(&self) -> bool {
        self.rule.lock().cause() == Some(HoldReason::Backoff)
    }

    pub fn until(&self) -> Option<Instant> {
        self.rule.lock().until()
    }
}
