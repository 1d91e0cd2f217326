//! Load balancing: which endpoint of a route takes the next attempt.
//!
//! - `latency`: power of two choices (Mitzenmacher, 2001) by expected cost, latency times
//!   pending attempts. Two candidates at random and the better of them: nearly as good as the
//!   best of all, without every client running to the same endpoint. Up to four candidates are
//!   all compared.
//! - `least_connections`, `round_robin`: as usual; weights do not count.
//! - `weighted`: nginx's smooth weighted round robin, exact over any whole cycle.
//! - `first`: the first in order; the others are spares.
//!
//! An endpoint without a measurement costs nothing while idle, so it gets one trial at once;
//! until that ends it counts as `UNKNOWN`, which is expensive compared with a healthy endpoint
//! and cheap compared with a failing one.
//!
//! The list of candidates is always complete and in the same order: positions are the keys of
//! the state, and eligibility may change between calls.

use crate::resilience::words::words;

/// Assumed latency in nanoseconds while an endpoint's first attempt is pending.
const UNKNOWN: f64 = 10e9;
const COMPARE_ALL: usize = 4;

words! {
    pub enum BalanceAlgorithm {
        Latency = "latency",
        LeastConnections = "least_connections",
        RoundRobin = "round_robin",
        Weighted = "weighted",
        First = "first",
    }
}

/// An endpoint as the balancer sees it.
#[derive(Clone, Copy, Debug)]
pub struct BalancerCandidate {
    /// The provider's weight times the endpoint's; above 0.
    pub share: f64,
    /// Nanoseconds; 0: never measured.
    pub latency: f64,
    /// Attempts in flight.
    pub pending: u32,
    /// 0.1 to 1.
    pub slow_start: f64,
}

/// One for each route.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    /// Eligible positions of the current call; kept to reuse the allocation.
    eligible: Vec<usize>,
    /// Smooth weighted round robin: the credit of each position.
    credit: Vec<f64>,
    /// The position after the last selected one.
    next: usize,
}

impl BalancerCandidate {
    fn weight(&self) -> f64 {
        let weight = self.share * self.slow_start;
        if weight.is_finite() { weight.max(f64::MIN_POSITIVE) } else { f64::MIN_POSITIVE }
    }

    /// Expected nanoseconds of all pending attempts and one more, relative to the weight.
    fn cost(&self) -> f64 {
        let latency = match (self.latency > 0.0, self.pending) {
            (true, _) => self.latency,
            (false, 0) => return 0.0,
            (false, _) => UNKNOWN,
        };
        latency * (f64::from(self.pending) + 1.0) / self.weight()
    }

    fn connections(&self) -> f64 {
        (f64::from(self.pending) + 1.0) / self.slow_start
    }
}

impl Balancer {
    /// Selects a position in `candidates` that is `eligible`; none if there is none.
    ///
    /// `candidates` is the complete list of the route; `eligible` is called once for each.
    pub fn select(
        &mut self,
        algorithm: BalanceAlgorithm,
        candidates: &[BalancerCandidate],
        eligible: impl Fn(usize) -> bool,
        draw: f64,
    ) -> Option<usize> {
        if algorithm == BalanceAlgorithm::First {
            return (0..candidates.len()).find(|position| eligible(*position));
        }
        self.eligible.clear();
        self.eligible.extend((0..candidates.len()).filter(|position| eligible(*position)));
        if self.eligible.is_empty() {
            return None;
        }
        let selected = match algorithm {
            BalanceAlgorithm::Latency => self.cheapest(candidates, draw),
            BalanceAlgorithm::LeastConnections => self.least_connections(candidates),
            BalanceAlgorithm::Weighted => self.weighted_round_robin(candidates),
            BalanceAlgorithm::RoundRobin | BalanceAlgorithm::First => {
                self.eligible[self.next_index()]
            }
        };
        self.next = selected + 1;
        Some(selected)
    }

    fn cheapest(&self, candidates: &[BalancerCandidate], draw: f64) -> usize {
        let cost = |position: usize| candidates[position].cost();
        let eligible = &self.eligible;
        if eligible.len() <= COMPARE_ALL {
            return least(eligible, below(eligible.len(), draw), cost);
        }
        let (one, other) = two_below(eligible.len(), draw);
        least(&[eligible[one], eligible[other]], 0, cost)
    }

    fn least_connections(&self, candidates: &[BalancerCandidate]) -> usize {
        least(&self.eligible, self.next_index(), |position| candidates[position].connections())
    }

    fn weighted_round_robin(&mut self, candidates: &[BalancerCandidate]) -> usize {
        self.credit.resize(candidates.len(), 0.0);
        let mut total = 0.0;
        for position in &self.eligible {
            let weight = candidates[*position].weight();
            self.credit[*position] += weight;
            total += weight;
        }
        let selected = least(&self.eligible, 0, |position| -self.credit[position]);
        self.credit[selected] -= total;
        selected
    }

    /// Index in `eligible` of the next position in order.
    fn next_index(&self) -> usize {
        let index = self.eligible.iter().position(|position| *position >= self.next);
        index.unwrap_or(0)
    }
}

/// The position with the least cost; the first of equals, going round from index `start`.
fn least(positions: &[usize], start: usize, cost: impl Fn(usize) -> f64) -> usize {
    let (before, from) = positions.split_at(start);
    let mut best = (from[0], cost(from[0]));
    for position in from[1..].iter().chain(before) {
        let cost = cost(*position);
        if cost < best.1 {
            best = (*position, cost);
        }
    }
    best.0
}

/// A uniform number below `count`.
fn below(count: usize, draw: f64) -> usize {
    ((draw * count as f64) as usize).min(count - 1)
}

/// Two different numbers below `count`, each ordered pair equally likely.
fn two_below(count: usize, draw: f64) -> (usize, usize) {
    let pair = below(count * (count - 1), draw);
    let (one, other) = (pair / (count - 1), pair % (count - 1));
    (one, if other >= one { other + 1 } else { other })
}

#[cfg(test)]
#[path = "balancer_tests.rs"]
mod tests;
