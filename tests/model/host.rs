//! A host: its replica is `resilience::breaker::replica` itself, its local breaker is reduced
//! to what the replica sees. An attempt admitted by the local breaker ends at once; a probe
//! takes time.

use std::time::Instant;

use outrigger::resilience::breaker::replica::{
    BreakerReplica, FleetLease, ReplicaDecision, ReplicaMessages,
};
use outrigger::resilience::breaker::shared_state::SharedState;
use outrigger::resilience::breaker::{RejectReason, Rejection, StateKind};
use outrigger::resilience::outcome::Outcome;

use super::redis::OPEN;
use super::rules::{Mutant, Rules};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Counts restarts.
    pub life: u8,
    pub member: BreakerReplica,
    pub own: Own,
    /// Fleet probes that have not ended.
    pub probes: Vec<Probe>,
    /// Lease requests so far.
    pub lease_requests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    pub lease: FleetLease,
    pub began: u32,
}

/// The local breaker: one failure trips it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    pub state: OwnState,
    /// Its last trip was caused by local outcomes.
    mine: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnState {
    Closed,
    Open { until: Instant },
    HalfOpen { ok: u32 },
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    ToAnAttempt,
    ToNothing(Option<Rejection>),
}

// === impl Host ===

impl Host {
    /// Just started: it knows nothing and is not attached.
    pub fn new(rules: &Rules, life: u8) -> Self {
        Host {
            life,
            member: BreakerReplica::new(rules.lease_lasts(), rules.base),
            own: Own::CLOSED,
            probes: Vec::new(),
            lease_requests: 0,
        }
    }

    pub fn request(&mut self, rules: &Rules, tick: u32, well: bool) -> Came {
        let now = rules.at(tick);
        match self.member.admit(now) {
            ReplicaDecision::Probe(lease) => {
                self.probes.push(Probe { lease, began: tick });
                Came::ToAnAttempt
            }
            ReplicaDecision::Reject(rejection) => Came::ToNothing(Some(rejection)),
            ReplicaDecision::Local if self.own.admits(now) => {
                if self.own.observe(rules, tick, well) {
                    self.member.closed_locally();
                }
                Came::ToAnAttempt
            }
            ReplicaDecision::Local => Came::ToNothing(None),
        }
    }

    /// A probe ended.
    pub fn ends(&mut self, which: usize, outcome: Outcome) {
        let probe = self.probes.remove(which);
        self.member.probe_finished(probe.lease, outcome);
    }

    /// The messages to send now.
    pub fn says(&mut self, now: Instant) -> ReplicaMessages {
        let own = if self.own.mine { self.own.kind() } else { StateKind::Closed };
        self.member.take_messages(own, now)
    }

    pub fn learn(&mut self, rules: &Rules, shared_state: &SharedState, until: Instant) {
        if rules.mutant == Some(Mutant::AdoptsOlder) && shared_state != self.member.known() {
            let attached = self.member.is_attached();
            self.member = BreakerReplica::new(rules.lease_lasts(), rules.base);
            self.member.attach(attached);
        }
        if self.member.update(shared_state, until) {
            self.own.follow(shared_state.state, until);
        }
    }

    /// Whether it makes attempts while it knows that the shared breaker is open.
    pub fn is_early(&self, tick: u32) -> bool {
        let known = self.member.known();
        known.state == StateKind::Open && u64::from(tick) < known.until
    }
}

impl Came {
    /// Rejected because the shared breaker is open.
    pub fn to_an_open(self) -> bool {
        matches!(self, Came::ToNothing(Some(Rejection { reason: RejectReason::Open, .. })))
    }
}

// === impl Own ===

impl Own {
    const CLOSED: Own = Own { state: OwnState::Closed, mine: false };

    fn kind(self) -> StateKind {
        match self.state {
            OwnState::Closed => StateKind::Closed,
            OwnState::Open { .. } => StateKind::Open,
            OwnState::HalfOpen { .. } => StateKind::HalfOpen,
        }
    }

    pub fn is_closed(self) -> bool {
        self.state == OwnState::Closed
    }

    fn admits(&mut self, now: Instant) -> bool {
        match self.state {
            OwnState::Open { until } if now < until => false,
            OwnState::Open { .. } => {
                self.state = OwnState::HalfOpen { ok: 0 };
                true
            }
            OwnState::Closed | OwnState::HalfOpen { .. } => true,
        }
    }

    /// Whether it closed.
    fn observe(&mut self, rules: &Rules, tick: u32, well: bool) -> bool {
        match self.state {
            _ if !well => {
                self.state = OwnState::Open { until: rules.at(tick + OPEN) };
                self.mine = true;
                false
            }
            OwnState::HalfOpen { ok } if ok + 1 < rules.threshold => {
                self.state = OwnState::HalfOpen { ok: ok + 1 };
                false
            }
            OwnState::HalfOpen { .. } => {
                *self = Own::CLOSED;
                true
            }
            OwnState::Closed | OwnState::Open { .. } => false,
        }
    }

    /// The shared breaker changed; the local one follows.
    fn follow(&mut self, state: StateKind, until: Instant) {
        self.mine &= state == StateKind::HalfOpen;
        self.state = match state {
            StateKind::Closed => OwnState::Closed,
            StateKind::Open => OwnState::Open { until },
            StateKind::HalfOpen => OwnState::HalfOpen { ok: 0 },
        };
    }
}
