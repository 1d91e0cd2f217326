//! A rate that the policy names: this host's own, or the fleet's, of which it has a part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::live::fleet::FleetSide;
use crate::resilience::rate::gcra::{Gcra, RatePolicy};
use crate::resilience::rate::leased_quota::Chunk;

#[derive(Debug)]
pub enum Limit {
    Own(Gcra),
    Shared(Box<Chunk>),
}

impl Limit {
    pub fn new(policy: RatePolicy, fleet: Option<&Arc<FleetSide>>) -> Self {
        match fleet {
            None => Limit::Own(Gcra::new(policy.with_slack())),
            Some(fleet) => {
                let chunk = Chunk::new(policy, fleet.is_attached(), fleet.hosts());
                Limit::Shared(Box::new(chunk))
            }
        }
    }

    /// What was taken stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        match self {
            Limit::Own(gcra) => gcra.retune(policy.with_slack(), now),
            Limit::Shared(chunk) => chunk.retune(policy, now),
        }
    }

    /// # Errors
    /// How long so much may not be taken.
    pub fn check(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        match self {
            Limit::Own(gcra) => gcra.check(amount, now),
            Limit::Shared(chunk) => chunk.check(amount, now),
        }
    }

    pub fn take(&mut self, amount: f64, now: Instant) {
        match self {
            Limit::Own(gcra) => gcra.take(amount, now),
            Limit::Shared(chunk) => chunk.take(amount, now),
        }
    }

    pub fn give_back(&mut self, amount: f64, now: Instant) {
        match self {
            Limit::Own(gcra) => gcra.give_back(amount, now),
            Limit::Shared(chunk) => chunk.give_back(amount, now),
        }
    }

    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        match self {
            Limit::Own(gcra) => gcra.settle(estimated, actual, now),
            Limit::Shared(chunk) => chunk.settle(estimated, actual, now),
        }
    }

    pub fn share_used(&self, now: Instant) -> f64 {
        match self {
            Limit::Own(gcra) => gcra.share_used(now),
            Limit::Shared(chunk) => chunk.share_used(now),
        }
    }

    pub fn shared(&self) -> Option<&Chunk> {
        match self {
            Limit::Own(_) => None,
            Limit::Shared(chunk) => Some(chunk),
        }
    }

    pub fn shared_mut(&mut self) -> Option<&mut Chunk> {
        match self {
            Limit::Own(_) => None,
            Limit::Shared(chunk) => Some(chunk),
        }
    }
}
