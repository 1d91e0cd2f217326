//! A model of the fleet's protocol: all executions of a small fleet, checked
//! (`docs/design/fleet.md` "Invariants").
//!
//! The decisions of a host and the order of shared states are the production code,
//! `resilience::breaker::replica` and `shared_state`. The scripts are reimplemented in
//! `redis.rs`, and a host's local breaker is simplified in `host.rs`. The rest is the
//! environment: messages that are delayed, lost, duplicated and reordered, hosts that crash,
//! are disconnected and return, leases that expire, a provider that fails and recovers, a
//! Redis that loses its last write or all data. Each event may happen a limited number of
//! times ([`rules::FaultBudget`]).
//!
//! From each of several initial states ([`calm::scenes`]) every execution of a given length is
//! explored, and random executions are followed to their end.
//!
//! A model that finds nothing may check nothing: each [`rules::Mutant`] is an injected fault
//! that must break the invariant named beside it.

#![allow(clippy::print_stdout)]

mod calm;
mod host;
mod redis;
mod rules;
mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use calm::{comes_to_rest, scenes};
use outrigger::clock;
use rules::{Broken, FaultBudget, Mutant, Rules};
use world::{Step, World, hash_of};

const I1: &str = "I1 the register that a host knows never goes back";
const I2: &str =
    "I2 outstanding probes stay within the limit, twice the limit after a loss of data";
const I3: &str = "I3 a verdict counts once, and only through a live lease";
const I4: &str = "I4 as many probes must succeed as the policy says";
const I5: &str = "I5 an open never ends early";
const I6: &str = "I6 the shared breaker closes again";
const RESTS: &str = "I6 from any state, under calm conditions every host closes";
const I8: &str = "I8 fewer than the quorum cannot open";
const I10: &str = "I10 each epoch is greater than all before";

/// One of this many states is checked for convergence, which takes a hundred steps.
const RESTS_EVERY: u64 = 16;

const ALL: FaultBudget =
    FaultBudget { turns: 1, crashes: 1, detaches: 1, losses: 1, doubles: 1, wipes: 1, cancels: 1 };

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        scenes(self)
    }

    fn actions(&self, state: &World, actions: &mut Vec<Step>) {
        state.steps(self, actions);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        last.after(self, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, world: &World| world.truth.holds(Broken::I1)),
            Property::always(I2, |rules: &Rules, world: &World| {
                let most = rules.probes as usize * if world.truth.wiped { 2 } else { 1 };
                world.most_out() <= most
            }),
            Property::always(I3, |_, world: &World| world.truth.holds(Broken::I3)),
            Property::always(I4, |_, world: &World| world.truth.holds(Broken::I4)),
            Property::always(I5, |_, world: &World| world.truth.holds(Broken::I5)),
            Property::sometimes(I6, |_, world: &World| world.has_closed()),
            Property::always(RESTS, |rules: &Rules, world: &World| {
                let hash = hash_of(&(&world.redis, &world.wire, world.tick));
                !hash.is_multiple_of(RESTS_EVERY) || comes_to_rest(rules, world)
            }),
            Property::always(I8, |_, world: &World| world.truth.holds(Broken::I8)),
            Property::always(I10, |_, world: &World| world.truth.holds(Broken::I10)),
        ]
    }
}

/// Two hosts that must agree, one probe at a time, and a provider that recovers once.
fn two_hosts() -> Rules {
    Rules {
        hosts: 2,
        quorum: 2,
        probes: 1,
        threshold: 1,
        ttl: 2,
        ticks: 4,
        in_flight: 3,
        faults: FaultBudget { turns: 1, ..FaultBudget::default() },
        mutant: None,
        base: clock::now(),
    }
}

/// Explores every execution of this many steps.
fn explore(name: &str, depth: usize, rules: Rules) {
    let began = clock::now();
    let checker = rules.checker().threads(2).target_max_depth(depth).spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{name}: {states} states, {steps} steps, in {:.1?}", clock::now() - began);
    checker.assert_properties();
}

/// The mutant breaks the invariant within this many steps.
fn caught(mutant: Mutant, invariant: &'static str, depth: usize, rules: Rules) {
    let rules = Rules { mutant: Some(mutant), ..rules };
    let found = HasDiscoveries::AnyOf(BTreeSet::from([invariant]));
    let checker = rules.checker().threads(2).target_max_depth(depth).finish_when(found);
    let checker = checker.spawn_bfs().join();
    let states = checker.unique_state_count();
    let course = checker.discovery(invariant).map(|path| path.into_actions());
    let course =
        course.unwrap_or_else(|| panic!("{mutant:?} keeps `{invariant}`: {states} states"));
    println!("{mutant:?} breaks `{invariant}` by {course:?}, after {states} states");
}

#[test]
fn the_invariants_hold_under_all_events() {
    explore("everything once", 8, Rules { faults: ALL, ..two_hosts() });
}

#[test]
fn messages_may_be_lost_and_duplicated() {
    let faults = FaultBudget { losses: 1, doubles: 1, ..two_hosts().faults };
    explore("losses and doubles", 9, Rules { faults, ..two_hosts() });
}

#[test]
fn redis_may_lose_its_data() {
    let faults = FaultBudget { wipes: 1, ..two_hosts().faults };
    explore("a loss of data", 9, Rules { faults, ..two_hosts() });
}

#[test]
fn hosts_may_crash_and_be_disconnected() {
    let faults = FaultBudget { crashes: 1, detaches: 1, ..two_hosts().faults };
    explore("crashes and partitions", 9, Rules { faults, ..two_hosts() });
}

#[test]
fn two_probes_may_have_to_succeed() {
    let faults = FaultBudget { doubles: 1, ..two_hosts().faults };
    explore("two successes", 9, Rules { threshold: 2, faults, ..two_hosts() });
}

#[test]
fn two_probes_may_be_out() {
    let faults = FaultBudget { wipes: 1, doubles: 1, cancels: 1, ..two_hosts().faults };
    explore("two probes", 7, Rules { threshold: 2, probes: 2, faults, ..two_hosts() });
}

#[test]
fn two_of_three_hosts_may_decide() {
    explore("three hosts", 6, Rules { hosts: 3, faults: ALL, ..two_hosts() });
}

#[test]
fn leases_may_expire_repeatedly() {
    let faults = FaultBudget { losses: 3, ..two_hosts().faults };
    explore("short leases", 10, Rules { ttl: 1, ticks: 9, in_flight: 2, faults, ..two_hosts() });
}

/// Each was denied once, since a lease was lost; then the fleet was unreachable for longer
/// than two lease times.
#[test]
fn hosts_that_all_probed_locally_close_the_shared_breaker() {
    let faults = FaultBudget { losses: 1, ..two_hosts().faults };
    let rules = Rules { ttl: 1, ticks: 9, faults, ..two_hosts() };
    let (a, b) = (Step::Request { host: 0 }, Step::Request { host: 1 });
    let (arrives, lost) = (Step::Arrives { message: 0 }, Step::Lost { message: 0 });
    let hears = |host| Step::Hears { host, entry: 0 };
    let lease_reply_lost = [a, arrives, lost, arrives, hears(0), hears(1)];
    let refused = [a, arrives, arrives, b, arrives, arrives, Step::Ticks];
    let alone = [a, b, Step::Ticks, Step::Ticks, Step::ProviderTurns, a, b];
    let over = scenes(&rules)[2].clone();
    let steps = lease_reply_lost.into_iter().chain(refused).chain(alone);
    let world = steps.fold(over, |world, step| {
        let next = world.after(&rules, step);
        next.unwrap_or_else(|| panic!("{step:?} changes nothing: {world:?}"))
    });
    assert!(world.hosts.iter().all(|host| !host.member.decides() && host.own.is_closed()));
    assert!(comes_to_rest(&rules, &world), "{world:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn long_random_executions_keep_the_invariants(
        (hosts, threshold, ttl) in (2u8..4, 1u32..3, 1u32..3),
        faults in prop::array::uniform7(0u8..4),
        choices in prop::collection::vec(any::<Index>(), 1..400),
    ) {
        let [turns, crashes, detaches, losses, doubles, wipes, cancels] = faults;
        let faults = FaultBudget { turns, crashes, detaches, losses, doubles, wipes, cancels };
        let rules = Rules { hosts, threshold, ttl, ticks: 40, faults, ..two_hosts() };
        let mut world = World::new(&rules);
        let mut taken = Vec::new();
        for choice in choices {
            let mut steps = Vec::new();
            world.steps(&rules, &mut steps);
            let step = *choice.get(&steps);
            let Some(next) = world.after(&rules, step) else { continue };
            world = next;
            taken.push(step);
            for property in rules.properties() {
                let always = property.expectation == Expectation::Always;
                let holds = !always || (property.condition)(&rules, &world);
                prop_assert!(holds, "{}: {:?}\n{:?}", property.name, taken, world);
            }
        }
        prop_assert!(comes_to_rest(&rules, &world), "{:?}\n{:?}", taken, world);
    }
}

#[test]
fn an_epoch_based_only_on_the_stored_one_is_caught() {
    let faults = FaultBudget { wipes: 1, ..two_hosts().faults };
    caught(Mutant::StoredPlusOne, I10, 9, Rules { faults, ..two_hosts() });
}

#[test]
fn an_epoch_that_ignores_the_clock_is_caught() {
    let faults = FaultBudget { wipes: 1, crashes: 2, ..two_hosts().faults };
    caught(Mutant::NoClock, I10, 12, Rules { faults, ..two_hosts() });
}

#[test]
fn a_verdict_that_counts_without_its_lease_is_caught() {
    caught(Mutant::NoLeaseCheck, I3, 9, two_hosts());
}

#[test]
fn a_verdict_that_does_not_use_up_its_lease_is_caught() {
    let faults = FaultBudget { doubles: 1, ..two_hosts().faults };
    caught(Mutant::LeaseOutlivesItsResult, I3, 9, Rules { threshold: 2, faults, ..two_hosts() });
}

#[test]
fn a_host_that_takes_an_older_state_is_caught() {
    caught(Mutant::AdoptsOlder, I1, 9, two_hosts());
}

#[test]
fn an_opening_without_a_quorum_is_caught() {
    caught(Mutant::NoQuorum, I8, 9, two_hosts());
}

#[test]
fn a_host_that_requests_a_lease_before_its_copy_of_the_end_is_caught() {
    caught(Mutant::RequestsEarly, I5, 9, two_hosts());
}

#[test]
fn one_success_where_two_are_needed_is_caught() {
    caught(Mutant::OneSuccessCloses, I4, 9, Rules { threshold: 2, ..two_hosts() });
}

#[test]
fn a_lease_for_every_request_is_caught() {
    caught(Mutant::GrantsAll, I2, 9, two_hosts());
}
