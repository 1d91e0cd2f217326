//! Fleet sync of a breaker: applies what the fleet decided and collects messages to it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cell::{BreakerCell, gauge};
use super::combined::CombinedBreaker;
use crate::live::operator_override::AuditNote;
use crate::resilience::breaker::replica::{BreakerReplica, FleetLease, ReplicaMessages};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{BreakerPolicy, EnforcementMode, StateKind};

/// Jitter lengthens an open time by at most a fifth.
const LONGER: f64 = 1.2;

/// A breaker's messages to the fleet.
#[derive(Debug)]
pub struct BreakerMessages {
    pub messages: ReplicaMessages,
    pub policy: BreakerPolicy,
    /// The epoch that it knows.
    pub known_epoch: u64,
}

impl BreakerCell {
    /// Joins the fleet's breaker if the policy says so, or leaves it.
    pub(crate) fn join(&self, breaker: &mut CombinedBreaker, now: Instant) {
        let policy = *breaker.local.policy();
        let Some(fleet) = &self.fleet else { return };
        if policy.shared.is_none() || policy.mode == EnforcementMode::Shadow {
            breaker.replica = None;
            return;
        }
        if let Some(replica) = &mut breaker.replica {
            replica.retune(policy.probe_lease);
            return;
        }
        let mut replica = BreakerReplica::new(policy.probe_lease, now);
        replica.attach(fleet.is_attached());
        if let Some((state, until)) = fleet.shared_state(&self.key.to_string()) {
            replica.update(&state, until);
            if state.state != StateKind::Closed {
                breaker.local.follow(state.state, until, state.trips, now);
            }
        }
        breaker.replica = Some(replica);
    }

    /// Takes a new shared state; `why`: which host brought it about, and the cause.
    pub fn apply_shared_state(&self, state: &SharedState, until: Instant, why: &str, now: Instant) {
        let transition = self.with(now, |breaker| {
            // Bounded by the policy, whatever the clocks say.
            let most = breaker.local.policy().max_recovery_timeout.mul_f64(LONGER);
            let until = until.min(now + most);
            let learned = breaker.replica.as_mut().is_some_and(|m| m.update(state, until));
            if !learned {
                return None;
            }
            breaker.local.follow(state.state, until, state.trips, now)
        });
        // If this host had tripped before, the fleet's trip is no change here.
        if let Some(transition) = transition.filter(|transition| transition.from != transition.to) {
            self.report_with_reason(transition, why);
        }
    }

    /// The host attached to the fleet, or detached.
    pub fn attach(&self, attached: bool, now: Instant) {
        let kind = self.with(now, |breaker| {
            breaker.replica.iter_mut().for_each(|replica| replica.attach(attached));
            breaker.kind(now)
        });
        self.show(kind);
    }

    /// The messages to send now; none, without a lock, for nearly all breakers nearly
    /// always.
    pub fn take_messages(&self, now: Instant) -> Option<BreakerMessages> {
        if !self.is_restrained() {
            return None;
        }
        self.with(now, |breaker| {
            let policy = *breaker.local.policy();
            let tripped =
                breaker.local.has_tripped() && breaker.local.active_override(now).is_none();
            let local = if tripped { breaker.local.kind() } else { StateKind::Closed };
            let replica = breaker.replica.as_mut()?;
            let messages = replica.take_messages(local, now);
            (!messages.is_empty()).then(|| BreakerMessages {
                messages,
                policy,
                known_epoch: replica.known().epoch,
            })
        })
    }

    /// The reply to a lease request sent `at`.
    pub fn lease_received(&self, lease: Option<FleetLease>, at: Instant, now: Instant) {
        self.with(now, |breaker| {
            let Some(replica) = &mut breaker.replica else { return };
            match lease {
                Some(lease) => replica.lease_granted(lease, at),
                None => replica.lease_denied(now),
            }
        });
    }

    /// The reply to a renewal sent `at`: whether the lease is live, and whether other
    /// hosts wait for one.
    pub fn renewed(&self, lease: FleetLease, is_live: bool, contended: bool, at: Instant) {
        self.with(at, |breaker| {
            breaker
                .replica
                .iter_mut()
                .for_each(|replica| replica.lease_renewed(lease, is_live, contended, at));
        });
    }

    /// A message got no reply.
    pub fn request_failed(&self, now: Instant) {
        self.with(now, |breaker| {
            breaker.replica.iter_mut().for_each(BreakerReplica::request_failed)
        });
    }

    /// The known shared state, its end, and the local state, if it takes part.
    pub fn replica_status(
        &self,
        now: Instant,
    ) -> Option<(SharedState, Option<Instant>, StateKind)> {
        self.with(now, |breaker| {
            let local = breaker.local.kind();
            breaker.replica.as_ref().map(|m| (m.known().clone(), m.until(), local))
        })
    }

    /// Removes an override that was set for the fleet; a local one stays.
    pub fn clear_fleet_override(&self, now: Instant) {
        if self.note.lock().fleet && self.rules.lock().local.active_override(now).is_some() {
            self.set_override(None, AuditNote::default(), now);
        }
    }

    /// Whether it was used within this time.
    pub fn is_used(&self, within: Duration, now: Instant) -> bool {
        self.unused_for(now) <= within
    }

    fn is_restrained(&self) -> bool {
        self.restrains.load(Ordering::Acquire)
    }

    fn show(&self, kind: StateKind) {
        self.state.set(gauge(kind));
    }
}
