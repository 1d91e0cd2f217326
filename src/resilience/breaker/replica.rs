//! One host's replica of a breaker that a fleet shares: what it knows, and what follows for an
//! attempt.
//!
//! The first rule that applies decides, from memory alone (`docs/design/fleet.md` "A host"):
//!
//! - detached, or the shared state is closed: the local breaker decides;
//! - the shared state is open and this host's copy of its end has not passed: rejected;
//! - open past that end, or half-open: a host with a *lease* probes, others reject. A lease is
//!   requested as soon as a request needs it; a request without an alternative waits for the
//!   reply, at most [`LEASE_REPLY_TIMEOUT`], and is rejected then;
//! - leases were denied for longer than two lease times: the local breaker probes instead. The
//!   host keeps requesting leases, closed or not: if every host probed on its own, no
//!   host would end the fleet's half-open state.
//!
//! A lease lasts `ttl` from when it was requested. A probe must begin within its first tenth
//! and so ends within it; a lease not used by then is renewed for [`LEASE_KEEP`] after the
//! last demand, or returned when other hosts wait for one. A verdict counts through its lease
//! alone, and in its epoch: the script that receives it decides, not the host.
//!
//! A trip of the local breaker is a *vote*, repeated every [`VOTE_INTERVAL`] while it is open.
//!
//! Knowledge never goes back: a state of a newer epoch ends everything of the older one.

use super::shared_state::SharedState;
use super::{RejectReason, Rejection, StateKind};
use crate::resilience::outcome::Outcome;
use std::time::{Duration, Instant};

/// How long a request without an alternative waits for the reply to a lease request.
pub const LEASE_REPLY_TIMEOUT: Duration = Duration::from_millis(300);
/// How long an unused lease is kept after the last demand for one.
pub const LEASE_KEEP: Duration = Duration::from_secs(60);
pub const VOTE_INTERVAL: Duration = Duration::from_secs(3);
/// A lease is requested if one was wanted within this time.
const DEMAND_LIFETIME: Duration = Duration::from_secs(1);
/// Pause between lease requests after a denial.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The fleet's permission to make one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FleetLease {
    pub epoch: u64,
    /// Unique on this host.
    pub number: u64,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeVerdict {
    Succeeded,
    Failed,
    /// The probe was not made, or its outcome says nothing.
    Unused,
}

/// A replica's decision about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaDecision {
    /// The local breaker decides.
    Local,
    /// Go, as a probe; the lease is taken.
    Probe(FleetLease),
    Reject(Rejection),
}

/// Messages to be sent to the fleet.
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
    /// When it was requested or renewed.
    since: Instant,
    renewing: bool,
}

/// A lease request without a reply so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PendingLease {
    since: Instant,
    sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LeaseDenial {
    since: Instant,
    again: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BreakerReplica {
    ttl: Duration,
    known: SharedState,
    /// This host's copy of the end of the open time.
    until: Instant,
    attached: bool,
    /// In this epoch the local breaker closed by a local probe.
    local_only: bool,
    wanted_at: Option<Instant>,
    pending: Option<PendingLease>,
    denied: Option<LeaseDenial>,
    spare: Option<SpareLease>,
    verdicts: Vec<(FleetLease, ProbeVerdict)>,
    voted_at: Option<Instant>,
}

impl ReplicaMessages {
    pub fn is_empty(&self) -> bool {
        !self.vote && !self.lease && self.renew.is_empty() && self.verdicts.is_empty()
    }
}

impl BreakerReplica {
    /// A replica that is detached and knows nothing. `ttl`: how long a lease lasts.
    pub fn new(ttl: Duration, now: Instant) -> Self {
        BreakerReplica {
            ttl,
            known: SharedState::initial(),
            until: now,
            attached: false,
            local_only: false,
            wanted_at: None,
            pending: None,
            denied: None,
            spare: None,
            verdicts: Vec::new(),
            voted_at: None,
        }
    }

    pub fn retune(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    pub fn known(&self) -> &SharedState {
        &self.known
    }

    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the shared state decides about attempts here.
    pub fn decides(&self) -> bool {
        self.is_fleet_tripped() && !self.local_only
    }

    /// Whether the shared state is open or half-open, so that attempts here may be the
    /// fleet's probes.
    pub fn is_fleet_tripped(&self) -> bool {
        self.attached && self.known.state != StateKind::Closed
    }

    /// The end of the open state, as this host knows it.
    pub fn until(&self) -> Option<Instant> {
        (self.known.state == StateKind::Open).then_some(self.until)
    }

    /// The end of the last open state, as this host knows it.
    pub fn open_until(&self) -> Instant {
        self.until
    }

    /// The connection to the fleet came back, or was lost.
    pub fn attach(&mut self, attached: bool) {
        if self.attached != attached {
            self.attached = attached;
            self.forget_requests();
            self.local_only = false;
            self.voted_at = None;
        }
    }

    /// Takes a shared state; `until` is its end by this host's clock. Whether it is newer.
    pub fn update(&mut self, state: &SharedState, until: Instant) -> bool {
        if !state.supersedes(&self.known) {
            return false;
        }
        self.known = state.clone();
        self.until = until;
        self.local_only = false;
        self.voted_at = None;
        self.verdicts.clear();
        self.forget_requests();
        true
    }

    /// The local breaker closed by a local probe.
    pub fn closed_locally(&mut self) {
        self.local_only = self.decides();
    }

    /// Whether an attempt would be a fleet probe (`true`) or is for the local breaker to
    /// decide (`false`). A missing lease becomes a demand for one.
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
        self.wanted_at = Some(now);
        let rejection = self.request_lease(now);
        if self.local_only || self.is_starved(now) { Ok(false) } else { Err(rejection) }
    }

    /// Like `check`, and takes the lease.
    pub fn admit(&mut self, now: Instant) -> ReplicaDecision {
        match self.check(now) {
            Err(rejection) => ReplicaDecision::Reject(rejection),
            Ok(false) => ReplicaDecision::Local,
            Ok(true) => match self.spare.take() {
                Some(spare) => ReplicaDecision::Probe(spare.lease),
                None => ReplicaDecision::Local,
            },
        }
    }

    /// Whether a lease is available for a probe.
    pub fn has_lease(&self, now: Instant) -> bool {
        self.is_fleet_tripped() && self.usable(now).is_some()
    }

    /// A probe ended.
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

    /// Takes the messages that are due; each is returned once.
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

    /// A lease request sent `at` was granted.
    pub fn lease_granted(&mut self, lease: FleetLease, at: Instant) {
        if lease.epoch != self.known.epoch {
            return;
        }
        self.pending = None;
        self.denied = None;
        if let Some(had) = self.spare.replace(SpareLease { lease, since: at, renewing: false }) {
            self.verdicts.push((had.lease, ProbeVerdict::Unused));
        }
    }

    /// A lease request was denied: all probes are outstanding.
    pub fn lease_denied(&mut self, now: Instant) {
        self.pending = None;
        let since = self.denied.map_or(now, |denied| denied.since);
        self.denied = Some(LeaseDenial { since, again: now + RETRY_PAUSE });
    }

    /// A lease request, or another message, got no reply.
    pub fn request_failed(&mut self) {
        self.pending = None;
        if let Some(spare) = &mut self.spare {
            spare.renewing = false;
        }
    }

    /// The reply to a renewal sent `at`: whether the lease is still live, and whether
    /// other hosts wait for one.
    pub fn lease_renewed(&mut self, lease: FleetLease, lives: bool, contended: bool, at: Instant) {
        match &mut self.spare {
            Some(spare) if spare.lease == lease && lives && !contended => {
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
        (self.pending, self.denied, self.spare) = (None, None, None);
    }

    fn usable(&self, now: Instant) -> Option<FleetLease> {
        let spare = self.spare?;
        (now < spare.since + self.ttl / 10).then_some(spare.lease)
    }

    fn is_starved(&self, now: Instant) -> bool {
        let long =
            |denied: &LeaseDenial| now.saturating_duration_since(denied.since) > self.ttl * 2;
        self.denied.as_ref().is_some_and(long)
    }

    fn request_lease(&mut self, now: Instant) -> Rejection {
        if let Some(LeaseDenial { again, .. }) = self.denied.filter(|denied| now < denied.again) {
            return Rejection { reason: RejectReason::HalfOpen, retry_after: again - now };
        }
        let request = self.pending.get_or_insert(PendingLease { since: now, sent: false });
        match (request.since + LEASE_REPLY_TIMEOUT).saturating_duration_since(now) {
            Duration::ZERO => {
                Rejection { reason: RejectReason::HalfOpen, retry_after: RETRY_PAUSE }
            }
            wait => Rejection { reason: RejectReason::Lease, retry_after: wait },
        }
    }

    fn votes(&mut self, own: StateKind, now: Instant) -> bool {
        if own == StateKind::Closed || self.known.state != StateKind::Closed {
            self.voted_at = None;
            return false;
        }
        let due = self.voted_at.is_none_or(|at| now >= at + VOTE_INTERVAL);
        if due {
            self.voted_at = Some(now);
        }
        due
    }

    fn sends_lease_request(&mut self, now: Instant) -> bool {
        let fresh =
            self.wanted_at.is_some_and(|at| now.saturating_duration_since(at) <= DEMAND_LIFETIME);
        match &mut self.pending {
            Some(request) if !request.sent && fresh => {
                request.sent = true;
                true
            }
            Some(request) if !request.sent => {
                self.pending = None;
                false
            }
            _ => false,
        }
    }

    fn renews(&mut self, now: Instant) -> Vec<FleetLease> {
        let Some(spare) = &mut self.spare else { return Vec::new() };
        let wanted =
            self.wanted_at.is_some_and(|at| now.saturating_duration_since(at) <= LEASE_KEEP);
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
