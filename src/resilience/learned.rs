//! A pace that is learned from refusals, where a provider tells its quota by 429s and nothing else.
//!
//! When a bucket refuses, it is empty. So from one refusal to the next exactly that goes through
//! which came in between: attempts that went through, over the time, *is* the rate of the quota. It
//! need not be searched for. Only where traffic slackened in between may the bucket have been full,
//! and that be too little; without the slack time it is too much. Between the two, what was learned
//! before stands.
//!
//! - The first refusal knows of no empty bucket before it: the rate of the last seconds counts.
//! - The pace begins a little below the rate, and grows slowly at first and then faster, as TCP
//!   CUBIC does, until the next refusal. Some minutes without one and it is forgotten.
//! - Ten in flight that are all refused are one refusal; so are those before anything went through
//!   again. What it taught is reckoned when the next attempt goes: by then all ten have come.
//!
//! How long nothing goes after a refusal is up to `hold`. That costs no quota, a bucket fills
//! meanwhile; so when it ends, this pace alone should hold attempts back, and no ramp.

use super::gcra::{Gcra, RatePolicy};
use super::window::Window;
use std::time::{Duration, Instant};

/// What counts at the first refusal.
const LATELY: Duration = Duration::from_secs(10);
/// How far below the rate the pace begins, and when it is there again.
const STEP_BACK: f64 = 0.05;
const BACK_IN: f64 = 15.0;
/// No refusal takes more of the rate away.
const LEAST_KEPT: f64 = 0.5;
const LEAST_RATE: f64 = 1.0 / 60.0;
/// Seconds of the pace that may go at once.
const BURST: f64 = 0.5;
const REMEMBERED: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    /// Attempts a second that the provider takes.
    rate: f64,
    /// The refusal that taught it; how many went through since, and how long fewer came than might.
    learned: Instant,
    through: u32,
    slack: Duration,
    /// The last refusal, and whether it is yet to be reckoned with.
    refused: Instant,
    due: bool,
    bucket: Gcra,
}

/// One quota that tells nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    pace: Option<Pace>,
    lately: Window,
}

// === impl Pace ===

impl Pace {
    /// What the first refusal teaches.
    fn new(lately: f64, now: Instant) -> Self {
        let rate = lately.max(LEAST_RATE);
        let bucket = Gcra::new(policy(rate * (1.0 - STEP_BACK)));
        let slack = Duration::ZERO;
        Self { rate, learned: now, through: 0, slack, refused: now, due: true, bucket }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.refused) >= REMEMBERED
    }

    fn rate_at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.refused).as_secs_f64() / BACK_IN;
        self.rate * (1.0 + STEP_BACK * (age * age - 1.0))
    }

    fn take(&mut self, now: Instant) {
        if std::mem::take(&mut self.due) {
            self.reckon(now);
        }
        self.slack = self.slack.saturating_add(self.bucket.full_for(now));
        self.bucket.retune(policy(self.rate_at(now)), now);
        self.bucket.take(1.0, now);
        self.through = self.through.saturating_add(1);
    }

    /// What the last refusal taught.
    fn reckon(&mut self, now: Instant) {
        if self.through > 0 {
            self.rate = self.rate_through();
            (self.learned, self.through, self.slack) = (self.refused, 0, Duration::ZERO);
        }
        // One goes, and does not find out with half a second's worth beside it.
        self.bucket = Gcra::new(policy(self.rate_at(now)));
        self.bucket.take(self.bucket.left(now) - 1.0, now);
    }

    /// What went through a second, between the refusal that last taught and the last.
    fn rate_through(&self) -> f64 {
        let elapsed = self.refused.saturating_duration_since(self.learned);
        let over = |time: Duration| f64::from(self.through) / time.as_secs_f64().max(1.0);
        let rate = self.rate.clamp(over(elapsed), over(elapsed.saturating_sub(self.slack)));
        rate.max(self.rate * LEAST_KEPT).max(LEAST_RATE)
    }

    /// An attempt that was sent then did not go through.
    fn refuse(&mut self, sent: Instant, now: Instant) {
        if sent > self.learned {
            self.through = self.through.saturating_sub(1);
        }
        if sent > self.refused {
            (self.refused, self.due) = (now, true);
        }
    }
}

fn policy(rate: f64) -> RatePolicy {
    RatePolicy { rate, burst: (rate * BURST).max(1.0) }
}

// === impl Learned ===

impl Default for Learned {
    fn default() -> Self {
        Self::new()
    }
}

impl Learned {
    pub fn new() -> Self {
        Self { pace: None, lately: Window::new(LATELY) }
    }

    /// Attempts a second that may go now; none while no refusal is remembered.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        self.known(now).map(|pace| pace.rate_at(now))
    }

    /// May an attempt go now? Nothing changes.
    ///
    /// # Errors
    /// How long until it may.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        self.known(now).map_or(Ok(()), |pace| pace.bucket.check(1.0, now))
    }

    /// An attempt goes.
    pub fn take(&mut self, now: Instant) {
        self.lately.record(now, false);
        if let Some(pace) = &mut self.pace {
            pace.take(now);
        }
    }

    /// The attempt that was sent then was refused.
    pub fn refused(&mut self, sent: Instant, now: Instant) {
        self.lately.spoil(now);
        match self.pace.as_mut().filter(|pace| !pace.is_forgotten(now)) {
            None => self.pace = Some(Pace::new(self.rate_lately(now), now)),
            Some(pace) => pace.refuse(sent, now),
        }
    }

    fn known(&self, now: Instant) -> Option<Pace> {
        self.pace.filter(|pace| !pace.is_forgotten(now))
    }

    fn rate_lately(&self, now: Instant) -> f64 {
        let (all, refused) = self.lately.counts(now);
        f64::from(all - refused) / self.lately.reach(now).as_secs_f64().max(1.0)
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
