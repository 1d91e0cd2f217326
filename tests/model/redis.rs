//! Redis: the scripts of `src/fleet/scripts/` as functions.
//!
//! Modelled: `vote.lua`, `lease.lua`, `renew.lua`, `result.lua`, `assert.lua`, and the
//! snapshot after a heartbeat with a different sum. Omitted, since no invariant here depends
//! on it: the growth of open times (each lasts [`OPEN`]), the share of hosts with traffic (the
//! quorum is a number), pruning, and more than one breaker.
//!
//! The unit of Redis' clock is a tick. For epochs the clock has passed every epoch ever begun,
//! as Redis' microseconds have: an epoch is at most one more than the clock was.

use outrigger::resilience::breaker::StateKind;
use outrigger::resilience::breaker::replica::{FleetLease, ProbeVerdict};
use outrigger::resilience::breaker::shared_state::SharedState;

use super::rules::{Broken, Mutant, Name, Rules, Truth};

/// Ticks that an open state lasts.
pub const OPEN: u32 = 1;
/// Ticks that a vote counts.
const VOTE_LASTS: u32 = 4;

/// The data of one breaker in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    pub shared_state: SharedState,
    votes: Vec<(Name, u32)>,
    leases: Vec<((Name, FleetLease), u32)>,
    /// Beyond the length of an execution.
    awaited: Vec<Name>,
    /// Not in Redis: the verdicts that counted in this epoch.
    counted: Vec<(Name, FleetLease)>,
}

/// The context of a script.
pub struct Run<'a> {
    pub rules: &'a Rules,
    pub truth: &'a mut Truth,
    pub now: u32,
    /// The calling process.
    pub name: Name,
}

// === impl Redis ===

impl Redis {
    /// Without data: at the start, or after losing everything.
    pub fn empty() -> Self {
        Redis {
            shared_state: SharedState::initial(),
            votes: Vec::new(),
            leases: Vec::new(),
            awaited: Vec::new(),
            counted: Vec::new(),
        }
    }

    /// Advances time: removes expired entries.
    pub fn sweep(&mut self, now: u32) {
        self.votes.retain(|(_, ends)| *ends > now);
        self.leases.retain(|(_, ends)| *ends > now);
    }

    /// Remaining open time by Redis' clock.
    pub fn left(&self, now: u32) -> u32 {
        match self.shared_state.state {
            StateKind::Open => (self.shared_state.until as u32).saturating_sub(now),
            StateKind::Closed | StateKind::HalfOpen => 0,
        }
    }

    pub fn vote(&mut self, run: &mut Run<'_>, seen: u64) {
        if self.shared_state.state != StateKind::Closed || seen < self.shared_state.epoch {
            return;
        }
        put(&mut self.votes, run.name, run.now + VOTE_LASTS);
        let quorum = run.rules.quorum;
        let needed = if run.is(Mutant::NoQuorum) { 1 } else { quorum };
        if self.votes.len() < needed {
            return;
        }
        run.truth.check(run.truth.voters(self.shared_state.epoch) >= quorum, Broken::I8);
        self.shared_state.until = u64::from(run.now + OPEN);
        self.begin(run, StateKind::Open, seen);
    }

    /// The lease that was granted.
    pub fn lease(&mut self, run: &mut Run<'_>, seen: u64, number: u64) -> Option<FleetLease> {
        let r = &mut self.shared_state;
        if r.state == StateKind::Open && (u64::from(run.now) >= r.until || seen == r.epoch) {
            run.truth.check(u64::from(run.now) >= r.until, Broken::I5);
            (r.until, r.permits, r.required) = (0, run.rules.probes, run.rules.threshold);
            self.begin(run, StateKind::HalfOpen, seen);
        }
        if self.shared_state.state != StateKind::HalfOpen {
            return None;
        }
        let all_out = self.leases.len() >= self.shared_state.permits as usize;
        if all_out && !run.is(Mutant::GrantsAll) {
            self.awaited.retain(|name| *name != run.name);
            self.awaited.push(run.name);
            self.awaited.sort();
            return None;
        }
        let lease = FleetLease { epoch: self.shared_state.epoch, number };
        put(&mut self.leases, (run.name, lease), run.now + run.rules.ttl);
        self.awaited.retain(|name| *name != run.name);
        Some(lease)
    }

    /// Whether the lease is live, and whether other hosts wait.
    pub fn renew(&mut self, run: &Run<'_>, lease: FleetLease) -> (bool, bool) {
        let lives = self.is_live(run, lease);
        if lives {
            put(&mut self.leases, (run.name, lease), run.now + run.rules.ttl);
        }
        (lives, !self.awaited.is_empty())
    }

    pub fn result(&mut self, run: &mut Run<'_>, lease: FleetLease, verdict: ProbeVerdict) {
        let live = self.is_live(run, lease);
        let named = (run.name, lease);
        if !run.is(Mutant::LeaseOutlivesItsResult) {
            self.leases.retain(|(held, _)| *held != named);
        }
        let counts = live || run.is(Mutant::NoLeaseCheck);
        if !counts || verdict == ProbeVerdict::Unused {
            return;
        }
        run.truth.check(live && !self.counted.contains(&named), Broken::I3);
        match verdict {
            ProbeVerdict::Succeeded => self.succeeded(run, named),
            ProbeVerdict::Failed | ProbeVerdict::Unused => {
                self.shared_state.until = u64::from(run.now + OPEN);
                self.begin(run, StateKind::Open, 0);
            }
        }
    }

    fn succeeded(&mut self, run: &mut Run<'_>, named: (Name, FleetLease)) {
        self.counted.push(named);
        self.shared_state.succeeded += 1;
        if self.shared_state.succeeded < self.shared_state.required
            && !run.is(Mutant::OneSuccessCloses)
        {
            return;
        }
        let enough = self.counted.len() >= run.rules.threshold as usize;
        run.truth.check(enough && self.shared_state.state == StateKind::HalfOpen, Broken::I4);
        self.shared_state.until = 0;
        self.begin(run, StateKind::Closed, 0);
    }

    pub fn assert(&mut self, run: &mut Run<'_>, known: &SharedState) {
        if !known.supersedes(&self.shared_state) {
            return;
        }
        let back = if known.state == StateKind::HalfOpen { StateKind::Open } else { known.state };
        self.forget_probes();
        self.shared_state = SharedState { state: back, succeeded: 0, ..known.clone() };
        run.truth.publish(&self.shared_state);
    }

    fn is_live(&self, run: &Run<'_>, lease: FleetLease) -> bool {
        let held = |((name, held), ends): &((Name, FleetLease), u32)| {
            (*name, *held) == (run.name, lease) && *ends > run.now
        };
        let current = lease.epoch == self.shared_state.epoch;
        current && self.shared_state.state == StateKind::HalfOpen && self.leases.iter().any(held)
    }

    /// Begins a new epoch and drops everything of the previous one.
    fn begin(&mut self, run: &mut Run<'_>, state: StateKind, seen: u64) {
        let (stored, clock) = (self.shared_state.epoch, run.truth.newest());
        let epoch = match run.rules.mutant {
            Some(Mutant::StoredPlusOne) => stored + 1,
            Some(Mutant::NoClock) => stored.max(seen) + 1,
            _ => stored.max(seen).max(clock) + 1,
        };
        self.shared_state.epoch = epoch;
        (self.shared_state.writer, self.shared_state.state) = (run.name.to_string(), state);
        self.shared_state.succeeded = 0;
        self.forget_probes();
        run.truth.begun(epoch);
        run.truth.publish(&self.shared_state);
    }

    fn forget_probes(&mut self) {
        self.votes.clear();
        self.leases.clear();
        self.awaited.clear();
        self.counted.clear();
    }
}

// === impl Run ===

impl Run<'_> {
    fn is(&self, mutant: Mutant) -> bool {
        self.rules.mutant == Some(mutant)
    }
}

/// Like a sorted set: one score for each member.
fn put<T: PartialEq>(set: &mut Vec<(T, u32)>, member: T, ends: u32) {
    set.retain(|(held, _)| *held != member);
    set.push((member, ends));
}
