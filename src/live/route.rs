//! What a route remembers: its budget for repeats, and whose turn it is.

use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use crate::resilience::balancer::{Balance, Balancer, Candidate};
use crate::resilience::budget::{Budget, BudgetPolicy};

#[derive(Debug)]
pub struct RouteLive {
    budget: Mutex<Budget>,
    /// One for the route's `providers`, one for each of `fallback`.
    balancers: Mutex<Vec<Balancer>>,
}

impl RouteLive {
    pub fn new(policy: BudgetPolicy) -> Self {
        RouteLive { budget: Mutex::new(Budget::new(policy)), balancers: Mutex::default() }
    }

    pub fn retune(&self, policy: BudgetPolicy) {
        lock(&self.budget).retune(policy);
    }

    /// One first attempt: it earns a share of a repeat.
    pub fn first(&self, now: Instant) {
        lock(&self.budget).deposit(now);
    }

    /// Pays for one repeat; false when the budget is empty.
    pub fn repeat(&self, now: Instant) -> bool {
        lock(&self.budget).withdraw(now)
    }

    /// Repeats that could be paid now.
    pub fn balance(&self, now: Instant) -> f64 {
        lock(&self.budget).balance(now)
    }

    // stubs
    pub fn hedge_delay(&self, _now: Instant) -> Option<std::time::Duration> {
        None
    }
    pub fn hedge_first(&self, _now: Instant) {}
    pub fn hedge_sample(&self, _took: std::time::Duration, _now: Instant) {}
    pub fn hedge_spend(&self, _now: Instant) -> bool {
        false
    }
    pub fn may_spend(&self, _now: Instant) -> bool {
        true
    }
    pub fn sticky(&self, _key: &[u8], _now: Instant) -> Option<u32> {
        None
    }
    pub fn stick(&self, _key: &[u8], _id: u32, _now: Instant) {}
    pub fn spent(&self, _cost: f64, _now: Instant) {}

    /// The balancer's choice among the candidates of a tier.
    pub fn pick(
        &self,
        tier: usize,
        how: Balance,
        candidates: &[Candidate],
        eligible: impl Fn(usize) -> bool,
        draw: f64,
    ) -> Option<usize> {
        let mut balancers = lock(&self.balancers);
        if balancers.len() <= tier {
            balancers.resize_with(tier + 1, Balancer::new);
        }
        balancers[tier].pick(how, candidates, eligible, draw)
    }
}
