//! Calm conditions: every message arrives, and the state a fleet converges to.
//!
//! Executions begin in such states ([`scenes`]), since interesting faults lie many steps from
//! the start. And from any state that an execution reaches, a fleet under calm conditions must
//! converge ([`comes_to_rest`]).

use outrigger::resilience::breaker::StateKind;

use super::rules::Rules;
use super::world::{Step, World};

/// Ticks of calm conditions within which all hosts agree again.
const ROUNDS: u32 = 12;

/// Initial states: nothing happened; the breaker is open; its end has passed; it is half-open
/// and a host has a lease; that host probes; it is closed again, and the provider fails once
/// more.
pub fn scenes(rules: &Rules) -> Vec<World> {
    let rules = &Rules { mutant: None, ..rules.clone() };
    let start = World::new(rules);
    let mut open = start.clone();
    for host in 0..rules.quorum {
        open = open.then(rules, Step::Request { host });
    }
    open = open.calmed(rules);
    let over = open.then(rules, Step::Ticks);
    let leased = over.then(rules, Step::Request { host: 0 }).calmed(rules);
    let probing = leased.then(rules, Step::Request { host: 0 });
    let mut closed = probing.clone();
    closed.well = true;
    closed = closed.then(rules, Step::ProbeEnds { host: 0, probe: 0 }).calmed(rules).busy(rules);
    closed.well = false;
    vec![start, open, over, leased, probing, closed]
}

/// Whether all breakers close if the provider is healthy, nothing is lost, and requests
/// arrive.
pub fn comes_to_rest(rules: &Rules, from: &World) -> bool {
    let rules = &Rules { ticks: rules.ticks + ROUNDS, mutant: None, ..rules.clone() };
    let mut world = World { well: true, ..from.clone() };
    for _ in 0..ROUNDS {
        world = world.calmed(rules).busy(rules);
        if world.is_at_rest() {
            return true;
        }
        world = world.then(rules, Step::Ticks);
    }
    false
}

impl World {
    /// A step that cannot happen changes nothing.
    fn then(&self, rules: &Rules, step: Step) -> World {
        self.after(rules, step).unwrap_or_else(|| self.clone())
    }

    /// Each host makes a request, and everything it began ends.
    fn busy(self, rules: &Rules) -> World {
        let mut world = self;
        for host in 0..world.hosts.len() {
            for _ in 0..2 {
                world = world.then(rules, Step::Request { host }).calmed(rules);
            }
            while !world.hosts[host].probes.is_empty() {
                world = world.then(rules, Step::ProbeEnds { host, probe: 0 }).calmed(rules);
            }
        }
        world
    }

    /// All messages in flight arrive, and every host reads everything.
    fn calmed(&self, rules: &Rules) -> World {
        let mut world = self.clone();
        loop {
            while !world.wire.is_empty() {
                world = world.then(rules, Step::Arrives { message: 0 });
            }
            for host in 0..world.hosts.len() {
                while let Some(entry) = world.news(host) {
                    world = world.then(rules, Step::Hears { host, entry });
                }
                world = world.then(rules, Step::Reads { host });
            }
            if world.wire.is_empty() {
                return world;
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let shared_state = &self.redis.shared_state;
        shared_state.state == StateKind::Closed
            && self.hosts.iter().all(|host| {
                let member = &host.member;
                member.is_attached() && member.known() == shared_state && host.own.is_closed()
            })
    }
}
