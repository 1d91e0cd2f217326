//! The hold of one credential at one endpoint (and model): the provider required us to wait.
//!
//! A check costs one load while there is neither a hold nor slow start.

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
    /// False if there was no hold lately, so that neither a check nor a success takes the
    /// lock.
    restrains: AtomicBool,
    fleet: Option<Arc<FleetView>>,
}

impl HoldCell {
    pub fn new(key: String, fleet: Option<&Arc<FleetView>>) -> Self {
        let cell = HoldCell {
            key,
            rule: Mutex::new(Hold::default()),
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

    /// Whether an attempt may go now. Nothing changes.
    ///
    /// # Errors
    /// The remaining time.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        if !self.restrains.load(Ordering::Acquire) {
            return Ok(());
        }
        self.rule.lock().check(now)
    }

    /// Admits one attempt and counts it, so that the rate before a hold is known after it.
    ///
    /// # Errors
    /// The remaining time.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        self.rule.lock().admit(now)
    }

    /// The provider returned 429, or 503 with Retry-After; returns the end of the hold. An
    /// explicit Retry-After is shared with the fleet.
    pub fn throttled(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let wait = retry_after.filter(|wait| !wait.is_zero()).map(|wait| wait.min(RETRY_AFTER_MAX));
        if let (Some(wait), Some(fleet)) = (wait, &self.fleet) {
            fleet.publish_hold(&self.key, now + wait, now);
        }
        self.hold(retry_after, now)
    }

    /// Applies the hold of another host of the fleet, for this long.
    pub fn hold_from_fleet(&self, left: Duration, now: Instant) {
        self.hold(Some(left), now);
    }

    fn hold(&self, retry_after: Option<Duration>, now: Instant) -> Instant {
        let mut rule = self.rule.lock();
        self.restrains.store(true, Ordering::Release);
        rule.throttled(retry_after, now, clock::draw())
    }

    /// The provider rejected the credential; returns the end of the hold, if there is one
    /// now.
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

    /// Ends the hold.
    pub fn clear(&self) {
        self.rule.lock().clear();
    }

    /// The reason of the current hold; `None` in slow start after one.
    pub fn reason(&self) -> Option<HoldReason> {
        self.rule.lock().reason()
    }

    /// Whether the hold is our own backoff: the provider gave no time, so waiting may not
    /// help. Slow start after a hold is our own, too.
    pub fn is_backoff(&self) -> bool {
        matches!(self.rule.lock().reason(), Some(HoldReason::Backoff) | None)
    }
}
