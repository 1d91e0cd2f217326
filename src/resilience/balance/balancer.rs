//! Which of a route's endpoints takes the next attempt.
//!
//! - `latency`: power of two choices (Mitzenmacher, 2001) by expected cost, latency times
//!   what is pending. Two at random and the better one of them: nearly as good as the best of
//!   all, without every client running to the same one. With four or fewer all are compared.
//! - `least_connections`, `round_robin`: as they say; shares do not count.
//! - `weighted`: nginx's smooth weighted round robin, exact over any whole cycle.
//! - `first`: the first in order; the others are spares.
//!
//! An endpoint that was never measured costs nothing while it is idle, so it gets one trial
//! at once; until that is answered it counts as `UNKNOWN`, which is dear beside a healthy
//! one and cheap beside one that fails.
//!
//! The list is always the whole one, in its order: positions are the keys of the state, and
//! who is eligible may change from pick to pick.

/// Nanoseconds that an endpoint is taken to need while its first attempt is out.
const UNKNOWN: f64 = 10e9;
const COMPARE_ALL: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BalanceAlgorithm {
    Latency,
    LeastConnections,
    RoundRobin,
    Weighted,
    First,
}

/// What the balancer knows of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct BalancerCandidate {
    /// The provider's weight times the endpoint's; above 0.
    pub share: f64,
    /// Nanoseconds; 0 = never measured.
    pub latency: f64,
    /// Attempts in flight.
    pub pending: u32,
    /// 0.1 to 1.
    pub slow_start: f64,
}

/// One for each route.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    /// Positions that are eligible in this pick; kept for its memory only.
    ready: Vec<usize>,
    /// Smooth weighted round robin: what each position is owed.
    credit: Vec<f64>,
    /// Position after the one picked last.
    next: usize,
}

// === impl Balance ===

impl BalanceAlgorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            BalanceAlgorithm::Latency => "latency",
            BalanceAlgorithm::LeastConnections => "least_connections",
            BalanceAlgorithm::RoundRobin => "round_robin",
            BalanceAlgorithm::Weighted => "weighted",
            BalanceAlgorithm::First => "first",
        }
    }
}

// === impl Candidate ===

impl BalancerCandidate {
    fn weight(&self) -> f64 {
        let weight = self.share * self.slow_start;
        if weight.is_finite() { weight.max(f64::MIN_POSITIVE) } else { f64::MIN_POSITIVE }
    }

    /// Expected nanoseconds of everything pending and one more, for its share.
    fn cost(&self) -> f64 {
        let latency = match (self.latency > 0.0, self.pending) {
            (true, _) => self.latency,
            (false, 0) => return 0.0,
            (false, _) => UNKNOWN,
        };
        latency * (f64::from(self.pending) + 1.0) / self.weight()
    }

    fn crowd(&self) -> f64 {
        (f64::from(self.pending) + 1.0) / self.slow_start
    }
}

// === impl Balancer ===

impl Balancer {
    pub fn new() -> Self {
        Self::default()
    }

    /// A position in `candidates` that `eligible` permits; none if it permits none.
    ///
    /// `candidates` is the whole list of the route, `eligible` is asked once for each.
    pub fn select(
        &mut self,
        how: BalanceAlgorithm,
        candidates: &[BalancerCandidate],
        eligible: impl Fn(usize) -> bool,
        draw: f64,
    ) -> Option<usize> {
        if how == BalanceAlgorithm::First {
            return (0..candidates.len()).find(|position| eligible(*position));
        }
        self.ready.clear();
        self.ready.extend((0..candidates.len()).filter(|position| eligible(*position)));
        if self.ready.is_empty() {
            return None;
        }
        let picked = match how {
            BalanceAlgorithm::Latency => self.cheapest(candidates, draw),
            BalanceAlgorithm::LeastConnections => self.least_crowded(candidates),
            BalanceAlgorithm::Weighted => self.most_owed(candidates),
            BalanceAlgorithm::RoundRobin | BalanceAlgorithm::First => self.ready[self.turn()],
        };
        self.next = picked + 1;
        Some(picked)
    }

    fn cheapest(&self, candidates: &[BalancerCandidate], draw: f64) -> usize {
        let cost = |position: usize| candidates[position].cost();
        let ready = &self.ready;
        if ready.len() <= COMPARE_ALL {
            return least(ready, below(ready.len(), draw), cost);
        }
        let (one, other) = two_below(ready.len(), draw);
        least(&[ready[one], ready[other]], 0, cost)
    }

    fn least_crowded(&self, candidates: &[BalancerCandidate]) -> usize {
        least(&self.ready, self.turn(), |position| candidates[position].crowd())
    }

    fn most_owed(&mut self, candidates: &[BalancerCandidate]) -> usize {
        self.credit.resize(candidates.len(), 0.0);
        let mut total = 0.0;
        for position in &self.ready {
            let weight = candidates[*position].weight();
            self.credit[*position] += weight;
            total += weight;
        }
        let picked = least(&self.ready, 0, |position| -self.credit[position]);
        self.credit[picked] -= total;
        picked
    }

    /// Index in `ready` of the position whose turn it is.
    fn turn(&self) -> usize {
        let turn = self.ready.iter().position(|position| *position >= self.next);
        turn.unwrap_or(0)
    }
}

/// The position of the least cost; of equals the first, going round from index `start`.
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

/// A number below `count`, each as likely.
fn below(count: usize, draw: f64) -> usize {
    ((draw * count as f64) as usize).min(count - 1)
}

/// Two different numbers below `count`, each ordered pair as likely.
fn two_below(count: usize, draw: f64) -> (usize, usize) {
    let pair = below(count * (count - 1), draw);
    let (one, other) = (pair / (count - 1), pair % (count - 1));
    (one, if other >= one { other + 1 } else { other })
}

#[cfg(test)]
#[path = "balancer_tests.rs"]
mod tests;
