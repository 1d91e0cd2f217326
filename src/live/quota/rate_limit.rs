//! A rate limit of the policy: local, or this host's part of the fleet's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::live::fleet::FleetView;
use crate::resilience::rate::gcra::{Gcra, RatePolicy};
use crate::resilience::rate::leased_quota::LeasedQuota;

#[derive(Debug)]
pub enum RateLimiter {
    Local(Gcra),
    Shared(Box<LeasedQuota>),
}

impl RateLimiter {
    pub fn new(policy: RatePolicy, fleet: Option<&Arc<FleetView>>) -> Self {
        match fleet {
            None => RateLimiter::Local(Gcra::new(policy.with_slack())),
            Some(fleet) => {
                let lease = LeasedQuota::new(policy, fleet.is_attached(), fleet.hosts());
                RateLimiter::Shared(Box::new(lease))
            }
        }
    }

    /// Takes another policy; what was taken stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        match self {
            RateLimiter::Local(bucket) => bucket.retune(policy.with_slack(), now),
            RateLimiter::Shared(lease) => lease.retune(policy, now),
        }
    }

    /// # Errors
    /// The time until this amount may be taken.
    pub fn check(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        match self {
            RateLimiter::Local(bucket) => bucket.check(amount, now),
            RateLimiter::Shared(lease) => lease.check(amount, now),
        }
    }

    pub fn take(&mut self, amount: f64, now: Instant) {
        match self {
            RateLimiter::Local(bucket) => bucket.take(amount, now),
            RateLimiter::Shared(lease) => lease.take(amount, now),
        }
    }

    pub fn give_back(&mut self, amount: f64, now: Instant) {
        match self {
            RateLimiter::Local(bucket) => bucket.give_back(amount, now),
            RateLimiter::Shared(lease) => lease.give_back(amount, now),
        }
    }

    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        match self {
            RateLimiter::Local(bucket) => bucket.settle(estimated, actual, now),
            RateLimiter::Shared(lease) => lease.settle(estimated, actual, now),
        }
    }

    pub fn share_used(&self, now: Instant) -> f64 {
        match self {
            RateLimiter::Local(bucket) => bucket.share_used(now),
            RateLimiter::Shared(lease) => lease.share_used(now),
        }
    }

    pub fn shared(&self) -> Option<&LeasedQuota> {
        match self {
            RateLimiter::Local(_) => None,
            RateLimiter::Shared(lease) => Some(lease),
        }
    }

    pub fn shared_mut(&mut self) -> Option<&mut LeasedQuota> {
        match self {
            RateLimiter::Local(_) => None,
            RateLimiter::Shared(lease) => Some(lease),
        }
    }
}
