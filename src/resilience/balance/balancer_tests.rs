//! Tests of the balancer alone, then together with latency estimates in a simulation of
//! endpoints.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::resilience::balance::latency::PeakEwma;

const IDLE: BalancerCandidate =
    BalancerCandidate { share: 1.0, latency: 50e6, pending: 0, slow_start: 1.0 };
const EVERY: [BalanceAlgorithm; 5] = [
    BalanceAlgorithm::Latency,
    BalanceAlgorithm::LeastConnections,
    BalanceAlgorithm::RoundRobin,
    BalanceAlgorithm::Weighted,
    BalanceAlgorithm::First,
];

/// Splitmix64: the same draws in every run.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn shares(
    algorithm: BalanceAlgorithm,
    candidates: &[BalancerCandidate],
    selections: usize,
) -> Vec<f64> {
    let (mut balancer, mut draws) = (Balancer::default(), Draws(1));
    let mut counts = vec![0.0; candidates.len()];
    for _ in 0..selections {
        let picked = balancer.select(algorithm, candidates, |_| true, draws.next());
        counts[picked.expect("all are eligible")] += 1.0 / selections as f64;
    }
    counts
}

fn sequence(
    algorithm: BalanceAlgorithm,
    candidates: &[BalancerCandidate],
    selections: usize,
) -> Vec<usize> {
    let mut balancer = Balancer::default();
    let picked = (0..selections).map(|_| balancer.select(algorithm, candidates, |_| true, 0.0));
    picked.map(|position| position.expect("all are eligible")).collect()
}

fn weighing(weights: &[f64]) -> Vec<BalancerCandidate> {
    weights.iter().map(|share| BalancerCandidate { share: *share, ..IDLE }).collect()
}

#[test]
fn without_an_eligible_endpoint_none_is_selected() {
    for algorithm in EVERY {
        assert_eq!(Balancer::default().select(algorithm, &[], |_| true, 0.0), None);
        assert_eq!(Balancer::default().select(algorithm, &[IDLE; 3], |_| false, 0.0), None);
    }
}

#[test]
fn shares_over_100_000_weighted_selections_are_the_weights() {
    let weights = [1.0, 2.0, 3.0, 0.5, 10.0, 0.01, 7.3];
    let total: f64 = weights.iter().sum();
    let found = shares(BalanceAlgorithm::Weighted, &weighing(&weights), 100_000);
    for (weight, share) in weights.iter().zip(found) {
        let expected = weight / total;
        assert!((share - expected).abs() <= expected * 0.01, "{share} for {expected}");
    }
}

#[test]
fn weighted_selections_are_spread_and_not_in_runs() {
    let picked = sequence(BalanceAlgorithm::Weighted, &weighing(&[5.0, 1.0, 1.0]), 7);
    assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn slow_start_reduces_a_weighted_share() {
    let mut candidates = weighing(&[1.0, 1.0]);
    candidates[0].slow_start = 0.25;
    let found = shares(BalanceAlgorithm::Weighted, &candidates, 10_000);
    assert!((found[0] - 0.2).abs() < 0.001, "{found:?}");
}

#[test]
fn an_ineligible_weighted_endpoint_earns_no_credit() {
    let (candidates, mut balancer) = (weighing(&[1.0, 1.0, 1.0]), Balancer::default());
    for _ in 0..1_000 {
        balancer.select(BalanceAlgorithm::Weighted, &candidates, |position| position != 1, 0.0);
    }
    let back = (0..9).filter(|_| {
        balancer.select(BalanceAlgorithm::Weighted, &candidates, |_| true, 0.0) == Some(1)
    });
    assert!((2..=4).contains(&back.count()));
}

#[test]
fn round_robin_ignores_weights() {
    let picked = sequence(BalanceAlgorithm::RoundRobin, &weighing(&[9.0, 1.0, 1.0]), 7);
    assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn round_robin_stays_even_while_one_is_ineligible() {
    let (mut balancer, mut counts) = (Balancer::default(), [0; 4]);
    for _ in 0..300 {
        let picked = balancer.select(BalanceAlgorithm::RoundRobin, &[IDLE; 4], |p| p != 1, 0.0);
        counts[picked.expect("three are eligible")] += 1;
    }
    assert_eq!(counts, [100, 0, 100, 100]);
}

#[test]
fn least_connections_rotates_among_equals() {
    let mut candidates = [IDLE; 3];
    candidates[1].pending = 2;
    assert_eq!(sequence(BalanceAlgorithm::LeastConnections, &candidates, 4), [0, 2, 0, 2]);
}

#[test]
fn least_connections_ignores_weights_but_not_slow_start() {
    let mut candidates = weighing(&[100.0, 1.0]);
    candidates[0].pending = 1;
    assert_eq!(sequence(BalanceAlgorithm::LeastConnections, &candidates, 1), [1]);
    candidates[1].slow_start = 0.1;
    assert_eq!(sequence(BalanceAlgorithm::LeastConnections, &candidates, 1), [0]);
}

#[test]
fn first_is_the_first_that_is_eligible() {
    let mut balancer = Balancer::default();
    assert_eq!(balancer.select(BalanceAlgorithm::First, &[IDLE; 3], |_| true, 0.9), Some(0));
    assert_eq!(balancer.select(BalanceAlgorithm::First, &[IDLE; 3], |p| p > 0, 0.9), Some(1));
}

#[test]
fn latency_weighs_pending_attempts_and_weights() {
    let fast_but_busy = BalancerCandidate { pending: 3, ..IDLE };
    let slow_but_idle = BalancerCandidate { latency: 100e6, ..IDLE };
    let picked =
        |candidates: &[BalancerCandidate]| sequence(BalanceAlgorithm::Latency, candidates, 1)[0];
    assert_eq!(picked(&[fast_but_busy, slow_but_idle]), 1);
    let big = BalancerCandidate { share: 4.0, ..fast_but_busy };
    assert_eq!(picked(&[big, slow_but_idle]), 0);
    let starting = BalancerCandidate { slow_start: 0.1, ..big };
    assert_eq!(picked(&[starting, slow_but_idle]), 1);
}

#[test]
fn an_unmeasured_endpoint_gets_one_trial_at_once() {
    let unknown = BalancerCandidate { latency: 0.0, ..IDLE };
    assert_eq!(sequence(BalanceAlgorithm::Latency, &[IDLE, unknown], 1), [1]);
    let tried = BalancerCandidate { pending: 1, ..unknown };
    let busy = BalancerCandidate { pending: 100, ..IDLE };
    assert_eq!(sequence(BalanceAlgorithm::Latency, &[tried, busy], 1), [1]);
}

#[test]
fn equal_costs_are_shared_evenly_however_many_there_are() {
    for count in [2, 4, 5, 8, 70] {
        let found = shares(BalanceAlgorithm::Latency, &vec![IDLE; count], 100_000);
        let even = 1.0 / count as f64;
        assert!(found.iter().all(|share| (share - even).abs() < even * 0.15), "{found:?}");
    }
}

#[test]
fn the_most_expensive_endpoint_is_never_selected() {
    let mut candidates = [IDLE; 8];
    candidates[3].latency = 51e6;
    assert_eq!(shares(BalanceAlgorithm::Latency, &candidates, 10_000)[3], 0.0);
}

proptest! {
    #[test]
    fn an_eligible_endpoint_is_selected_if_there_is_one(
        parts in prop::collection::vec(
            (any::<f64>(), any::<f64>(), any::<u32>(), any::<f64>(), any::<bool>()), 0..80
        ),
        draws in prop::collection::vec(0.0..1.0f64, 1..20),
        algorithm in prop::sample::select(EVERY.to_vec()),
    ) {
        let candidates: Vec<_> = parts.iter().map(|(share, latency, pending, slow_start, _)| {
            BalancerCandidate { share: *share, latency: *latency, pending: *pending, slow_start: *slow_start }
        }).collect();
        let mut balancer = Balancer::default();
        for (turn, draw) in draws.into_iter().enumerate() {
            let eligible = |position: usize| parts[position].4 ^ (turn % 3 == 0);
            let picked = balancer.select(algorithm, &candidates, eligible, draw);
            prop_assert_eq!(picked.is_some(), (0..parts.len()).any(eligible));
            prop_assert!(picked.is_none_or(eligible));
        }
    }

    #[test]
    fn weights_hold_over_every_span(
        weights in prop::collection::vec(1u32..20, 1..10), selections in 1usize..500
    ) {
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let total: f64 = weights.iter().sum();
        let found = shares(BalanceAlgorithm::Weighted, &weighing(&weights), selections);
        for (weight, share) in weights.iter().zip(&found) {
            let (made, due) = (share * selections as f64, weight / total * selections as f64);
            prop_assert!((made - due).abs() < weights.len() as f64, "{made} for {due}");
        }
    }
}

// === simulated endpoints ===

#[derive(Clone, Copy)]
struct Endpoint {
    takes: Duration,
    /// Fails until then.
    fails_until: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    /// This many per second, whether or not earlier ones have ended.
    Open { per_second: u32 },
    /// This many clients, each of which sends again as soon as it has a response.
    Closed { clients: u32 },
}

const ALWAYS: Duration = Duration::MAX;
const FAILING: Endpoint = Endpoint { takes: Duration::from_millis(1), fails_until: ALWAYS };

fn healthy_endpoint(takes_ms: u64) -> Endpoint {
    Endpoint { takes: Duration::from_millis(takes_ms), fails_until: Duration::ZERO }
}

struct Simulation {
    endpoints: Vec<Endpoint>,
    latencies: Vec<PeakEwma>,
    pending: Vec<u32>,
    balancer: Balancer,
    draws: Draws,
    start: Instant,
    /// End and endpoint of each attempt.
    ends: BinaryHeap<Reverse<(Duration, usize)>>,
    /// Time and endpoint of each selection.
    selections: Vec<(Duration, usize)>,
}

impl Simulation {
    fn run(endpoints: &[Endpoint], load: Load, seconds: u64) -> Simulation {
        let mut simulation = Simulation {
            endpoints: endpoints.to_vec(),
            latencies: vec![PeakEwma::default(); endpoints.len()],
            pending: vec![0; endpoints.len()],
            balancer: Balancer::default(),
            draws: Draws(7),
            start: Instant::now(),
            ends: BinaryHeap::new(),
            selections: Vec::new(),
        };
        let until = Duration::from_secs(seconds);
        match load {
            Load::Open { per_second } => {
                for arrival in 0..per_second * seconds as u32 {
                    let at = Duration::from_secs(1) * arrival / per_second;
                    while simulation.end_before(at).is_some() {}
                    simulation.begin(at);
                }
            }
            Load::Closed { clients } => {
                (0..clients).for_each(|_| simulation.begin(Duration::ZERO));
                while let Some(at) = simulation.end_before(until) {
                    simulation.begin(at);
                }
            }
        }
        simulation
    }

    fn begin(&mut self, at: Duration) {
        let now = self.start + at;
        let live = self.latencies.iter().zip(&self.pending);
        let candidates: Vec<_> = live
            .map(|(latency, pending)| BalancerCandidate {
                latency: latency.estimate(now),
                pending: *pending,
                ..IDLE
            })
            .collect();
        let draw = self.draws.next();
        let picked = self.balancer.select(BalanceAlgorithm::Latency, &candidates, |_| true, draw);
        let picked = picked.expect("all are eligible");
        self.pending[picked] += 1;
        self.ends.push(Reverse((at + self.endpoints[picked].takes, picked)));
        self.selections.push((at, picked));
    }

    fn end_before(&mut self, limit: Duration) -> Option<Duration> {
        let Reverse((at, _)) = *self.ends.peek()?;
        if at > limit {
            return None;
        }
        let Reverse((at, ended)) = self.ends.pop()?;
        let Endpoint { takes, fails_until } = self.endpoints[ended];
        self.pending[ended] -= 1;
        if at < fails_until {
            self.latencies[ended].penalise(takes, self.start + at);
        } else {
            self.latencies[ended].observe(takes, self.start + at);
        }
        Some(at)
    }

    /// Selections from second `from` to second `to`: of `endpoint`, and of all.
    fn count(&self, endpoint: usize, from: u64, to: u64) -> (u32, u32) {
        let span = Duration::from_secs(from)..Duration::from_secs(to);
        let selections = self.selections.iter().filter(|(at, _)| span.contains(at));
        selections
            .fold((0, 0), |(its, all), (_, picked)| (its + u32::from(*picked == endpoint), all + 1))
    }

    fn share(&self, endpoint: usize, from: u64, to: u64) -> f64 {
        let (its, all) = self.count(endpoint, from, to);
        f64::from(its) / f64::from(all.max(1))
    }
}

const LOADS: [Load; 3] =
    [Load::Open { per_second: 100 }, Load::Closed { clients: 10 }, Load::Closed { clients: 100 }];

fn with_one_failing(healthy_ms: u64, healthy: usize, load: Load) -> Simulation {
    let mut endpoints = vec![healthy_endpoint(healthy_ms); healthy];
    endpoints.push(FAILING);
    Simulation::run(&endpoints, load, 61)
}

#[test]
fn a_fast_failing_endpoint_gets_almost_no_traffic_after_a_second() {
    for load in LOADS {
        for (healthy_ms, healthy) in [(50, 1), (50, 3), (50, 7), (5_000, 1), (5_000, 3)] {
            let share = with_one_failing(healthy_ms, healthy, load).share(healthy, 1, 61);
            assert!(share < 0.05, "{share} beside {healthy} of {healthy_ms} ms under {load:?}");
        }
    }
    for load in [LOADS[0], LOADS[2]] {
        let share = with_one_failing(5_000, 7, load).share(7, 1, 61);
        assert!(share < 0.05, "{share} under {load:?}");
    }
}

/// Ten clients make two attempts a second here, and an idle endpoint is soon the cheapest: its
/// few trials are 7 % of that first minute.
#[test]
fn a_fast_failing_endpoint_gets_few_attempts_under_light_traffic() {
    let simulation = with_one_failing(5_000, 7, LOADS[1]);
    let (failed, all) = simulation.count(7, 1, 61);
    assert!(failed <= 10, "{failed} of {all}");
}

/// The healthy endpoints are not measured for five seconds; a failing one must not look
/// better.
#[test]
fn a_fast_failing_endpoint_is_avoided_before_slow_ones_respond() {
    let simulation =
        Simulation::run(&[healthy_endpoint(5_000), healthy_endpoint(5_000), FAILING], LOADS[0], 5);
    assert!(simulation.share(2, 0, 1) < 0.05, "{}", simulation.share(2, 0, 1));
    assert!(simulation.share(2, 1, 5) < 0.01, "{}", simulation.share(2, 1, 5));
}

#[test]
fn a_recovered_endpoint_regains_its_traffic_within_a_minute() {
    let mending = Endpoint { fails_until: Duration::from_secs(30), ..healthy_endpoint(50) };
    let simulation =
        Simulation::run(&[healthy_endpoint(50), healthy_endpoint(50), mending], LOADS[0], 120);
    assert!(simulation.share(2, 1, 30) < 0.01, "{}", simulation.share(2, 1, 30));
    assert!(simulation.share(2, 90, 120) > 0.3, "{}", simulation.share(2, 90, 120));
}

#[test]
fn an_endpoint_twice_as_slow_keeps_a_part_of_the_traffic() {
    let simulation =
        Simulation::run(&[healthy_endpoint(1_000), healthy_endpoint(2_000)], LOADS[0], 60);
    let share = simulation.share(1, 10, 60);
    assert!((0.2..0.45).contains(&share), "{share}");
}
