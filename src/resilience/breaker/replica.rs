//! One host's part in a breaker that a fleet shares: what it knows, and what follows for an attempt.
//!
//! The first that applies decides, from memory alone (FLEET.md, "A host"):
//!
//! - detached, or the register is closed: the host's own breaker;
//! - the register is open, and this host's own copy of the end has not come: refused;
//! - open beyond that end, or half-open: whoever has a *lease* probes, others are refused. One is
//!   fetched as soon as a request wants it; a request that has nowhere else to go waits for the
//!   answer, [`ANSWER`] at most, and is refused then;
//! - refused leases for longer than two of them last: the host's own breaker probes for it. It goes on
//!   asking, closed or not: if every host probed by itself, nobody would end the fleet's half-open.
//!
//! A lease lasts so long (`ttl`) from when it was asked for. A probe begins within its first tenth and
//! so ends within it; what is not begun by then is renewed, for [`WANTED`] after the last demand, or
//! given back where others wait. A verdict counts through the lease alone, and in its epoch: the
//! script that hears it decides, not the host.
//!
//! A trip of the host's own breaker is a *vote*, said again every [`VOTE_AGAIN`] while it is open.
//!
//! What is known never goes back. A register of a newer epoch ends everything of the older one.

use super::shared_state::SharedState;
use super::{RejectReason, Rejection, StateKind};
use crate::resilience::outcome::Outcome;
use std::time::{Duration, Instant};

/// A request with nowhere else to go waits so long for the answer to an ask.
pub const ANSWER: Duration = Duration::from_millis(300);
/// A lease that nobody used is kept for so long after somebody wanted one.
pub const WANTED: Duration = Duration::from_secs(60);
pub const VOTE_AGAIN: Duration = Duration::from_secs(3);
/// A lease is asked for where one was wanted in so long.
const FRESH: Duration = Duration::from_secs(1);
/// After a refusal it is not asked sooner.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Leave of the fleet to make one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FleetLease {
    pub epoch: u64,
    /// No other of this host has it.
    pub number: u64,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeVerdict {
    Succeeded,
    Failed,
    /// It was not made, or taught nothing.
    Unused,
}

/// What a member says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaDecision {
    /// Nothing: the host's own breaker decides.
    Local,
    /// Go, as a probe; the lease is taken.
    Probe(FleetLease),
    Refuse(Rejection),
}

/// What is to be said to the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReplicaMessages {
    pub vote: bool,
    pub lease: bool,
    pub renew: Vec<FleetLease>,
    pub verdicts: Vec<(FleetLease, ProbeVerdict)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SpareLease {
    lease: FleetLease,
    /// When it was asked for, or renewed.
    since: Instant,
    renewing: bool,
}

/// An ask for a lease that was not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PendingLease {
    since: Instant,
    sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LeaseRefusal {
    since: Instant,
    again: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BreakerReplica {
    ttl: Duration,
    known: SharedState,
    /// This host's copy of an open's end.
    until: Instant,
    attached: bool,
    /// In this epoch the host's own breaker closed by a probe of its own.
    alone: bool,
    wanted: Option<Instant>,
    ask: Option<PendingLease>,
    refused: Option<LeaseRefusal>,
    spare: Option<SpareLease>,
    verdicts: Vec<(FleetLease, ProbeVerdict)>,
    voted: Option<Instant>,
}

// === impl Asks ===

impl ReplicaMessages {
    pub fn is_empty(&self) -> bool {
        !self.vote && !self.lease && self.renew.is_empty() && self.verdicts.is_empty()
    }
}

// === impl Member ===

impl BreakerReplica {
    /// Of a host that is detached and knows nothing. `ttl`: how long a lease lasts.
    pub fn new(ttl: Duration, now: Instant) -> Self {
        BreakerReplica {
            ttl,
            known: SharedState::initial(),
            until: now,
            attached: false,
            alone: false,
            wanted: None,
            ask: None,
            refused: None,
            spare: None,
            verdicts: Vec::new(),
            voted: None,
        }
    }

    pub fn retune(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    pub fn known(&self) -> &SharedState {
        &self.known
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the register restrains attempts here.
    pub fn decides(&self) -> bool {
        self.is_fleet_tripped() && !self.alone
    }

    /// Whether attempts here may be the fleet's probes.
    pub fn is_fleet_tripped(&self) -> bool {
        self.attached && self.known.state != StateKind::Closed
    }

    /// When the register's open ends, as this host knows it.
    pub fn until(&self) -> Option<Instant> {
        (self.known.state == StateKind::Open).then_some(self.until)
    }

    /// When the last open ends or ended, as this host knows it.
    pub fn open_until(&self) -> Instant {
        self.until
    }

    /// The fleet is heard again, or no longer.
    pub fn attach(&mut self, attached: bool) {
        if self.attached != attached {
            self.attached = attached;
            self.forget_requests();
            self.alone = false;
            self.voted = None;
        }
    }

    /// A register was seen; `until` is its end by this host's clock. Whether it is news.
    pub fn update(&mut self, register: &SharedState, until: Instant) -> bool {
        if !register.supersedes(&self.known) {
            return false;
        }
        self.known = register.clone();
        self.until = until;
        self.alone = false;
        self.voted = None;
        self.verdicts.clear();
        self.forget_requests();
        true
    }

    /// The host's own breaker closed, by a probe of its own.
    pub fn closed_locally(&mut self) {
        self.alone = self.decides();
    }

    /// What holds for an attempt now. Where a lease is missing, this is the demand for one.
    pub fn check(&mut self, now: Instant) -> Result<bool, Rejection> {
        if !self.is_fleet_tripped() {
            return Ok(false);
        }
        if self.known.state == StateKind::Open && now < self.until {
            return Err(Rejection { reason: RejectReason::Open, retry_after: self.until - now });
        }
        if self.usable(now).is_some() {
            return Ok(true);
        }
        self.wanted = Some(now);
        let rejection = self.request_lease(now);
        if self.alone || self.is_starved(now) { Ok(false) } else { Err(rejection) }
    }

    /// As `check`, and takes the lease.
    pub fn admit(&mut self, now: Instant) -> ReplicaDecision {
        match self.check(now) {
            Err(rejection) => ReplicaDecision::Refuse(rejection),
            Ok(false) => ReplicaDecision::Local,
            Ok(true) => match self.spare.take() {
                Some(spare) => ReplicaDecision::Probe(spare.lease),
                None => ReplicaDecision::Local,
            },
        }
    }

    /// Would an attempt probe with a lease that is here?
    pub fn has_lease(&self, now: Instant) -> bool {
        self.is_fleet_tripped() && self.usable(now).is_some()
    }

    /// A probe is over.
    pub fn probe_finished(&mut self, lease: FleetLease, outcome: Outcome) {
        if lease.epoch == self.known.epoch {
            let verdict = match outcome {
                Outcome::Success => ProbeVerdict::Succeeded,
                Outcome::Failure | Outcome::Throttled => ProbeVerdict::Failed,
                Outcome::Ignored => ProbeVerdict::Unused,
            };
            self.verdicts.push((lease, verdict));
        }
    }

    /// What the fleet is to be told and asked now; each is given once.
    pub fn take_messages(&mut self, own: StateKind, now: Instant) -> ReplicaMessages {
        if !self.attached {
            return ReplicaMessages::default();
        }
        ReplicaMessages {
            vote: self.votes(own, now),
            lease: self.sends_lease_request(now),
            renew: self.renews(now),
            verdicts: std::mem::take(&mut self.verdicts),
        }
    }

    /// An ask that was sent `at` was answered with a lease.
    pub fn lease_granted(&mut self, lease: FleetLease, at: Instant) {
        if lease.epoch != self.known.epoch {
            return;
        }
        self.ask = None;
        self.refused = None;
        if let Some(had) = self.spare.replace(SpareLease { lease, since: at, renewing: false }) {
            self.verdicts.push((had.lease, ProbeVerdict::Unused));
        }
    }

    /// An ask was answered with no: all probes are out.
    pub fn refused(&mut self, now: Instant) {
        self.ask = None;
        let since = self.refused.map_or(now, |refused| refused.since);
        self.refused = Some(LeaseRefusal { since, again: now + ASK_AGAIN });
    }

    /// An ask, or what else was sent, had no answer.
    pub fn request_failed(&mut self) {
        self.ask = None;
        if let Some(spare) = &mut self.spare {
            spare.renewing = false;
        }
    }

    /// A renewal that was sent `at` was answered: whether the lease still lives, and whether others
    /// wait for one.
    pub fn lease_renewed(&mut self, lease: FleetLease, lives: bool, awaited: bool, at: Instant) {
        match &mut self.spare {
            Some(spare) if spare.lease == lease && lives && !awaited => {
                (spare.since, spare.renewing) = (at, false);
            }
            Some(spare) if spare.lease == lease => {
                self.spare = None;
                if lives {
                    self.verdicts.push((lease, ProbeVerdict::Unused));
                }
            }
            _ => {}
        }
    }

    fn forget_requests(&mut self) {
        (self.ask, self.refused, self.spare) = (None, None, None);
    }

    fn usable(&self, now: Instant) -> Option<FleetLease> {
        let spare = self.spare?;
        (now < spare.since + self.ttl / 10).then_some(spare.lease)
    }

    fn is_starved(&self, now: Instant) -> bool {
        let long =
            |refused: &LeaseRefusal| now.saturating_duration_since(refused.since) > self.ttl * 2;
        self.refused.as_ref().is_some_and(long)
    }

    fn request_lease(&mut self, now: Instant) -> Rejection {
        if let Some(LeaseRefusal { again, .. }) = self.refused.filter(|refused| now < refused.again)
        {
            return Rejection { reason: RejectReason::HalfOpen, retry_after: again - now };
        }
        let ask = self.ask.get_or_insert(PendingLease { since: now, sent: false });
        match (ask.since + ANSWER).saturating_duration_since(now) {
            Duration::ZERO => Rejection { reason: RejectReason::HalfOpen, retry_after: ASK_AGAIN },
            wait => Rejection { reason: RejectReason::Lease, retry_after: wait },
        }
    }

    fn votes(&mut self, own: StateKind, now: Instant) -> bool {
        if own == StateKind::Closed || self.known.state != StateKind::Closed {
            self.voted = None;
            return false;
        }
        let due = self.voted.is_none_or(|at| now >= at + VOTE_AGAIN);
        if due {
            self.voted = Some(now);
        }
        due
    }

    fn sends_lease_request(&mut self, now: Instant) -> bool {
        let fresh = self.wanted.is_some_and(|at| now.saturating_duration_since(at) <= FRESH);
        match &mut self.ask {
            Some(ask) if !ask.sent && fresh => {
                ask.sent = true;
                true
            }
            Some(ask) if !ask.sent => {
                self.ask = None;
                false
            }
            _ => false,
        }
    }

    fn renews(&mut self, now: Instant) -> Vec<FleetLease> {
        let Some(spare) = &mut self.spare else { return Vec::new() };
        let wanted = self.wanted.is_some_and(|at| now.saturating_duration_since(at) <= WANTED);
        if !wanted {
            self.verdicts.push((spare.lease, ProbeVerdict::Unused));
            self.spare = None;
            return Vec::new();
        }
        if spare.renewing || now < spare.since + self.ttl / 20 {
            return Vec::new();
        }
        spare.renewing = true;
        vec![spare.lease]
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
