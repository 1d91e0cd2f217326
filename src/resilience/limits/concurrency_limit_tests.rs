//! Tests of the adaptive concurrency limit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::*;
use crate::resilience::rate::strict_provider_tests::RandomDraws;
use proptest::prelude::*;

/// How service times scatter about their mean.
#[derive(Clone, Copy, Debug)]
enum Scatter {
    None,
    Half,
    Exponential,
}

const SCATTERS: [Scatter; 3] = [Scatter::None, Scatter::Half, Scatter::Exponential];

/// A server that works on this many attempts at once; more of them queue there.
#[derive(Clone, Copy, Debug)]
struct Server {
    slots: usize,
    seconds: f64,
    scatter: Scatter,
}

/// Five thousand clients, each of which always has a request.
struct ClientLoad {
    limit: ConcurrencyLimit,
    nanos: u64,
    busy: usize,
    queue: VecDeque<u64>,
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    /// Start, number in flight and epoch of each attempt.
    flights: BTreeMap<u64, (u64, u32, u64)>,
    number: u64,
    draws: RandomDraws,
}

impl Scatter {
    fn factor(self, draw: f64) -> f64 {
        match self {
            Scatter::None => 1.0,
            Scatter::Half => 0.5 + draw,
            Scatter::Exponential => -(1.0 - draw).ln(),
        }
    }
}

impl ClientLoad {
    fn new(clamp: u32, seed: u64) -> Self {
        ClientLoad {
            limit: ConcurrencyLimit::new(clamp),
            nanos: 0,
            busy: 0,
            queue: VecDeque::new(),
            ends: BinaryHeap::new(),
            flights: BTreeMap::new(),
            number: 0,
            draws: RandomDraws(seed),
        }
    }

    /// The mean limit over this many responses.
    fn run(&mut self, server: Server, responses: u32) -> f64 {
        let limits = (0..responses).map(|_| {
            self.begin();
            self.serve(server);
            self.end();
            self.serve(server);
            f64::from(self.limit.limit())
        });
        limits.sum::<f64>() / f64::from(responses)
    }

    fn begin(&mut self) {
        while self.flights.len() < self.limit.limit() as usize {
            self.number += 1;
            let beside = self.flights.len() as u32 + 1;
            self.flights.insert(self.number, (self.nanos, beside, self.limit.epoch()));
            self.queue.push_back(self.number);
        }
    }

    fn serve(&mut self, server: Server) {
        while self.busy < server.slots {
            let Some(id) = self.queue.pop_front() else { return };
            self.busy += 1;
            let seconds = server.seconds * server.scatter.factor(self.draws.draw());
            self.ends.push(Reverse((self.nanos + (seconds * 1e9) as u64, id)));
        }
    }

    fn end(&mut self) {
        let Reverse((at, id)) = self.ends.pop().expect("an attempt in service");
        let (began, in_flight, epoch) = self.flights.remove(&id).expect("it is in flight");
        (self.nanos, self.busy) = (at, self.busy - 1);
        let took = Duration::from_nanos(at - began);
        self.limit.observe(LatencySample { took, in_flight, epoch, dropped: false });
    }
}

/// A sample that begins now, with the limit in flight.
fn sample(limit: &ConcurrencyLimit, millis: u64) -> LatencySample {
    LatencySample {
        took: Duration::from_millis(millis),
        in_flight: limit.limit(),
        epoch: limit.epoch(),
        dropped: false,
    }
}

fn drop_of(limit: &ConcurrencyLimit) -> LatencySample {
    LatencySample { dropped: true, ..sample(limit, 10) }
}

#[test]
fn it_finds_the_capacity_of_a_provider() {
    for scatter in SCATTERS {
        for (slots, seed) in [(10, 1), (10, 2), (50, 1), (50, 2), (200, 1), (200, 2)] {
            let server = Server { slots, seconds: 0.5, scatter };
            let mut rush = ClientLoad::new(1_024, seed);
            rush.run(server, 300 * slots.max(50) as u32);
            let mean = rush.run(server, 20_000) / slots as f64;
            // With ten, the headroom alone is four, and a round of twenty samples
            // is easily wrong.
            let most = if slots == 10 { 3.5 } else { 2.0 };
            assert!((1.0..most).contains(&mean), "{server:?} {seed}: {mean} of its slots");
        }
    }
}

#[test]
fn steady_latency_grows_it_to_the_clamp() {
    for scatter in SCATTERS {
        let server = Server { slots: 5_000, seconds: 0.5, scatter };
        let mut rush = ClientLoad::new(256, 1);
        rush.run(server, 5_000);
        let mean = rush.run(server, 50_000);
        assert!(mean > 250.0, "{server:?}: {mean}");
    }
}

#[test]
fn a_permanently_slower_provider_keeps_its_limit() {
    for scatter in SCATTERS {
        let server = Server { slots: 5_000, seconds: 0.5, scatter };
        let mut rush = ClientLoad::new(256, 1);
        rush.run(server, 10_000);
        let slow = Server { seconds: 2.0, ..server };
        rush.run(slow, 20_000);
        let mean = rush.run(slow, 20_000);
        assert!(mean > 250.0, "{server:?}: {mean}");
    }
}

#[test]
fn it_recovers_when_the_provider_does() {
    for scatter in SCATTERS {
        let server = Server { slots: 100, seconds: 0.5, scatter };
        let mut rush = ClientLoad::new(1_024, 1);
        rush.run(server, 20_000);
        // It loses nine tenths of its capacity, then regains them.
        let mean = rush.run(Server { slots: 10, ..server }, 20_000);
        assert!(mean < 80.0, "{server:?}: {mean}");
        rush.run(server, 20_000);
        let mean = rush.run(server, 20_000);
        assert!((90.0..250.0).contains(&mean), "{server:?}: {mean}");
    }
}

#[test]
fn idle_samples_do_not_grow_the_limit() {
    let mut limit = ConcurrencyLimit::new(1_000);
    let before = limit.limit();
    (0..10_000).for_each(|_| limit.observe(LatencySample { in_flight: 9, ..sample(&limit, 10) }));
    assert_eq!(limit.limit(), before);
    (0..20).for_each(|_| limit.observe(LatencySample { in_flight: 10, ..sample(&limit, 10) }));
    assert!(limit.limit() > before);
}

#[test]
fn failures_of_one_round_trip_take_one_tenth_away() {
    let mut limit = ConcurrencyLimit::new(1_000);
    let failed = drop_of(&limit);
    (0..20).for_each(|_| limit.observe(failed));
    assert_eq!(limit.limit(), 18);
    limit.observe(drop_of(&limit));
    assert_eq!(limit.limit(), 16);
}

#[test]
fn a_failing_provider_keeps_four_attempts() {
    let mut limit = ConcurrencyLimit::new(1_000);
    (0..1_000).for_each(|_| limit.observe(drop_of(&limit)));
    assert_eq!(limit.limit(), 4);
    let mut tight = ConcurrencyLimit::new(2);
    (0..1_000).for_each(|_| tight.observe(drop_of(&tight)));
    assert_eq!(tight.limit(), 2);
}

#[test]
fn a_failure_during_a_probe_applies_to_the_previous_limit() {
    let mut rush = ClientLoad::new(1_000, 1);
    let server = Server { slots: 50, seconds: 0.5, scatter: Scatter::None };
    let is_looking = |rush: &ClientLoad| matches!(rush.limit.phase, LimitPhase::Probing { .. });
    let mut before = rush.limit.limit();
    while !is_looking(&rush) {
        before = rush.limit.limit();
        rush.run(server, 1);
    }
    assert_eq!(rush.limit.limit(), before / 2);
    rush.limit.observe(drop_of(&rush.limit));
    let after = rush.limit.limit();
    assert!(!is_looking(&rush) && after.abs_diff(before * 9 / 10) <= 1, "{before} {after}");
}

#[test]
fn a_new_clamp_applies_at_once_and_older_samples_do_not_count() {
    let mut limit = ConcurrencyLimit::new(1_000);
    let old = drop_of(&limit);
    limit.retune(10);
    assert_eq!(limit.limit(), 10);
    limit.observe(old);
    assert_eq!(limit.limit(), 10);
    limit.retune(1_000);
    assert_eq!(limit.limit(), 10);
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds(
        clamp in 1u32..2_000,
        steps in prop::collection::vec((0u64..100_000, 0u32..2_000, 0u8..20, 1u32..60), 1..100),
    ) {
        let (mut limit, mut clamp) = (ConcurrencyLimit::new(clamp), clamp);
        for (millis, in_flight, action, times) in steps {
            let took = Duration::from_millis(millis);
            let took = if action == 3 { Duration::MAX } else { took };
            for _ in 0..times {
                let epoch = limit.epoch() - u64::from(action == 2 && limit.epoch() > 0);
                limit.observe(LatencySample { took, in_flight, epoch, dropped: action == 1 });
            }
            if action == 0 {
                clamp = in_flight.max(1);
                limit.retune(clamp);
            }
            prop_assert!(limit.limit() <= clamp && limit.limit() >= clamp.min(4));
        }
    }

    #[test]
    fn latency_within_the_tolerance_never_shrinks_it(
        millis in prop::collection::vec(100u64..140, 2_000)
    ) {
        let mut limit = ConcurrencyLimit::new(100);
        for millis in millis {
            let before = limit.limit();
            limit.observe(sample(&limit, millis));
            prop_assert!(limit.limit() >= before);
        }
    }
}
