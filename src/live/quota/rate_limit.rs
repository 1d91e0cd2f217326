//! A rate that the policy names: this host's own, or the fleet's, of which it has a part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::live::fleet::FleetView;
use crate::resilience::rate::gcra::{Gcra, RatePolicy};
use crate::resilience::rate::leased_quota::LeasedQuota;

#[derive(Debug)]
pub enum RateLimit {
    Own(Gcra),
    Shared(Box<LeasedQuota>),
}

impl RateLimit {
    pub fn new(policy: RatePolicy, fleet: Option<&Arc<FleetView>>) -> Self {
        match fleet {
            None => RateLimit::Own(Gcra::new(policy.with_slack())),
            Some(fleet) => {
                let chunk = LeasedQuota::new(policy, fleet.is_attached(), fleet.hosts());
                RateLimit::Shared(Box::new(chunk))
            }
        }
    }

    /// What was taken stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        match self {
            RateLimit::Own(gcra) => gcra.retune(policy.with_slack(), now),
            RateLimit::Shared(chunk) => chunk.retune(policy, now),
        }
    }

    /// # Errors
    /// How long so much may not be taken.
    pub fn check(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        match self {
            RateLimit::Own(gcra) => gcra.check(amount, now),
            RateLimit::Shared(chunk) => chunk.check(amount, now),
        }
    }

    pub fn take(&mut self, amount: f64, now: Instant) {
        match self {
            RateLimit::Own(gcra) => gcra.take(amount, now),
            RateLimit::Shared(chunk) => chunk.take(amount, now),
        }
    }

    pub fn give_back(&mut self, amount: f64, now: Instant) {
        match self {
            RateLimit::Own(gcra) => gcra.give_back(amount, now),
            RateLimit::Shared(chunk) => chunk.give_back(amount, now),
        }
    }

    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        match self {
            RateLimit::Own(gcra) => gcra.settle(estimated, actual, now),
            RateLimit::Shared(chunk) => chunk.settle(estimated, actual, now),
        }
    }

    pub fn share_used(&self, now: Instant) -> f64 {
        match self {
            RateLimit::Own(gcra) => gcra.share_used(now),
            RateLimit::Shared(chunk) => chunk.share_used(now),
        }
    }

    pub fn shared(&self) -> Option<&LeasedQuota> {
        match self {
            RateLimit::Own(_) => None,
            RateLimit::Shared(chunk) => Some(chunk),
        }
    }

    pub fn shared_mut(&mut self) -> Option<&mut LeasedQuota> {
        match self {
            RateLimit::Own(_) => None,
            RateLimit::Shared(chunk) => Some(chunk),
        }
    }
}
