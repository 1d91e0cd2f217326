//! What the fleet's task does with a breaker: it tells it what the fleet decided, and asks what it
//! has to say.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cell::{BreakerCell, gauge};
use super::combined::CombinedBreaker;
use crate::live::operator_override::AuditNote;
use crate::resilience::breaker::replica::{BreakerReplica, FleetLease, ReplicaMessages};
use crate::resilience::breaker::shared_state::SharedState;
use crate::resilience::breaker::{BreakerPolicy, EnforcementMode, StateKind};

/// An open time is spread by a fifth.
const LONGER: f64 = 1.2;

/// What a breaker has to say to the fleet.
#[derive(Debug)]
pub struct BreakerMessages {
    pub asks: ReplicaMessages,
    pub policy: BreakerPolicy,
    /// The epoch that it has seen.
    pub seen: u64,
}

impl BreakerCell {
    /// Takes part in the fleet's breaker, where its policy says so, or no longer.
    pub(crate) fn join(&self, rules: &mut CombinedBreaker, now: Instant) {
        let policy = *rules.own.policy();
        let Some(fleet) = &self.fleet else { return };
        if policy.shared.is_none() || policy.mode == EnforcementMode::Shadow {
            rules.member = None;
            return;
        }
        if let Some(member) = &mut rules.member {
            member.retune(policy.probe_lease);
            return;
        }
        let mut member = BreakerReplica::new(policy.probe_lease, now);
        member.attach(fleet.is_attached());
        if let Some((register, until)) = fleet.shared_state(&self.key.to_string()) {
            member.update(&register, until);
            if register.state != StateKind::Closed {
                rules.own.follow(register.state, until, register.trips, now);
            }
        }
        rules.member = Some(member);
    }

    /// The fleet's breaker came to this; `why`: who brought it there, and by what.
    pub fn apply_shared_state(
        &self,
        register: &SharedState,
        until: Instant,
        why: &str,
        now: Instant,
    ) {
        let moved = self.with(now, |rules| {
            // Bounded by the policy, whatever clocks were set to.
            let most = rules.own.policy().max_recovery_timeout.mul_f64(LONGER);
            let until = until.min(now + most);
            let learned = rules.member.as_mut().is_some_and(|m| m.update(register, until));
            if !learned {
                return None;
            }
            rules.own.follow(register.state, until, register.trips, now)
        });
        // Where this host had tripped before, it is no news that the fleet did.
        if let Some(moved) = moved.filter(|moved| moved.from != moved.to) {
            self.report_with_reason(moved, why);
        }
    }

    /// The fleet is heard again, or no longer.
    pub fn attach(&self, attached: bool, now: Instant) {
        let kind = self.with(now, |rules| {
            rules.member.iter_mut().for_each(|member| member.attach(attached));
            rules.kind(now)
        });
        self.show(kind);
    }

    /// What is to be said now; nothing, for nearly all of them nearly always, without a lock.
    pub fn take_messages(&self, now: Instant) -> Option<BreakerMessages> {
        if !self.is_restrained() {
            return None;
        }
        self.with(now, |rules| {
            let policy = *rules.own.policy();
            let tripped = rules.own.has_tripped() && rules.own.hand(now).is_none();
            let own = if tripped { rules.own.kind() } else { StateKind::Closed };
            let member = rules.member.as_mut()?;
            let asks = member.take_messages(own, now);
            (!asks.is_empty()).then(|| BreakerMessages { asks, policy, seen: member.known().epoch })
        })
    }

    /// An ask that was sent `at` was answered.
    pub fn lease_answered(&self, lease: Option<FleetLease>, at: Instant, now: Instant) {
        self.with(now, |rules| {
            let Some(member) = &mut rules.member else { return };
            match lease {
                Some(lease) => member.lease_granted(lease, at),
                None => member.refused(now),
            }
        });
    }

    /// A renewal that was sent `at` was answered: whether the lease lives, and others wait.
    pub fn renewed(&self, lease: FleetLease, (lives, awaited): (bool, bool), at: Instant) {
        self.with(at, |rules| {
            rules
                .member
                .iter_mut()
                .for_each(|member| member.lease_renewed(lease, lives, awaited, at));
        });
    }

    /// What was sent had no answer.
    pub fn request_failed(&self, now: Instant) {
        self.with(now, |rules| rules.member.iter_mut().for_each(BreakerReplica::request_failed));
    }

    /// The register that is known here, and the host's own state, where it takes part.
    pub fn replica_status(
        &self,
        now: Instant,
    ) -> Option<(SharedState, Option<Instant>, StateKind)> {
        self.with(now, |rules| {
            let own = rules.own.kind();
            rules.member.as_ref().map(|m| (m.known().clone(), m.until(), own))
        })
    }

    /// Takes off the hand that the fleet had laid on; another one stays.
    pub fn clear_fleet_override(&self, now: Instant) {
        if self.note.lock().fleet && self.rules.lock().own.hand(now).is_some() {
            self.set_override(None, AuditNote::default(), now);
        }
    }

    /// Used within so long.
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
