//! The rules of one breaker: the host's own, and its part in the fleet's, which outranks it.

use std::time::{Duration, Instant};

use super::cell::CellPermit;
use crate::resilience::breaker::replica::{BreakerReplica, ReplicaDecision};
use crate::resilience::breaker::{
    Breaker, BreakerAdmission, BreakerTransition, EnforcementMode, Rejection, StateKind,
};

/// For so long after its time is over, one that nobody asked counts as open: a probe comes with the
/// next request, and fails mostly.
const UNASKED: Duration = Duration::from_secs(1);

/// The host's own breaker, and its part in the fleet's.
#[derive(Debug)]
pub(crate) struct CombinedBreaker {
    pub(crate) own: Breaker,
    pub(crate) member: Option<BreakerReplica>,
}

impl CombinedBreaker {
    /// The member's word counts where nothing outranks it.
    pub(crate) fn member(&mut self, now: Instant) -> Option<&mut BreakerReplica> {
        let outranked = self.own.hand(now).is_some();
        self.member.as_mut().filter(|_| !outranked)
    }

    /// Would an attempt be admitted?
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Rejection> {
        match self.member(now).map_or(Ok(false), |member| member.check(now))? {
            true => Ok(()),
            false => self.own.would_admit(now),
        }
    }

    pub(crate) fn admit(
        &mut self,
        now: Instant,
    ) -> (Result<CellPermit, Rejection>, Option<BreakerTransition>) {
        match self.member(now).map_or(ReplicaDecision::Local, |member| member.admit(now)) {
            ReplicaDecision::Probe(lease) => (Ok(CellPermit::Lease(lease)), None),
            ReplicaDecision::Refuse(rejection) => (Err(rejection), None),
            ReplicaDecision::Local => match self.own.admit(now) {
                (BreakerAdmission::Admit(permit), moved) => (Ok(CellPermit::Own(permit)), moved),
                (BreakerAdmission::Reject(rejection), moved) => (Err(rejection), moved),
            },
        }
    }

    pub(crate) fn restrains(&self, now: Instant) -> bool {
        let member = self.member.as_ref().is_some_and(BreakerReplica::is_fleet_tripped);
        member || self.own.kind() != StateKind::Closed || self.own.slow_start(now) < 1.0
    }

    /// Nothing gets through, or only just could again. Where nobody asks it cannot stay so for ever:
    /// a mode that answers by itself would never be left.
    pub(crate) fn is_shut(&self, now: Instant) -> bool {
        let lately = |until: Instant| now < until + UNASKED;
        let member = self.member.as_ref().filter(|member| member.decides());
        match member.filter(|_| self.own.hand(now).is_none()) {
            Some(member) => lately(member.open_until()),
            None if self.own.mode(now) == EnforcementMode::Shadow => false,
            None => match self.own.kind() {
                StateKind::Closed => false,
                StateKind::HalfOpen => self.own.would_admit(now).is_err(),
                StateKind::Open => self.own.retry_at().is_none_or(lately),
            },
        }
    }

    /// What holds here, the fleet's word included.
    pub(crate) fn kind(&self, now: Instant) -> StateKind {
        let member = self.member.as_ref().filter(|member| member.decides());
        match member.filter(|_| self.own.hand(now).is_none()) {
            Some(member) => member.known().state,
            None => self.own.kind(),
        }
    }
}
