//! The local breaker, and this host's replica of the fleet's breaker, which takes precedence.

use std::time::{Duration, Instant};

use super::cell::CellPermit;
use crate::resilience::breaker::replica::{BreakerReplica, ReplicaDecision};
use crate::resilience::breaker::{
    BreakerTransition, EnforcementMode, LocalBreaker, Rejection, StateKind,
};

/// How long an open breaker without traffic counts as open after its end: a probe comes only
/// with the next request, and mostly fails.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// The local breaker and the replica of the fleet's.
#[derive(Debug)]
pub(crate) struct CombinedBreaker {
    pub(crate) local: LocalBreaker,
    pub(crate) replica: Option<BreakerReplica>,
}

impl CombinedBreaker {
    /// The replica, unless an override takes precedence.
    pub(crate) fn replica(&mut self, now: Instant) -> Option<&mut BreakerReplica> {
        let outranked = self.local.active_override(now).is_some();
        self.replica.as_mut().filter(|_| !outranked)
    }

    /// Whether an attempt would be admitted.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Rejection> {
        match self.replica(now).map_or(Ok(false), |replica| replica.check(now))? {
            true => Ok(()),
            false => self.local.would_admit(now),
        }
    }

    pub(crate) fn admit(
        &mut self,
        now: Instant,
    ) -> (Result<CellPermit, Rejection>, Option<BreakerTransition>) {
        match self.replica(now).map_or(ReplicaDecision::Local, |replica| replica.admit(now)) {
            ReplicaDecision::Probe(lease) => (Ok(CellPermit::Lease(lease)), None),
            ReplicaDecision::Reject(rejection) => (Err(rejection), None),
            ReplicaDecision::Local => {
                let (admitted, transition) = self.local.admit(now);
                (admitted.map(CellPermit::Local), transition)
            }
        }
    }

    pub(crate) fn restrains(&self, now: Instant) -> bool {
        let replica = self.replica.as_ref().is_some_and(BreakerReplica::is_fleet_tripped);
        replica || self.local.kind() != StateKind::Closed || self.local.slow_start(now) < 1.0
    }

    /// Whether it is open, or only just could be probed again. Without traffic it must
    /// not stay so for ever: a mode that responds itself would never be left. Half-open is not shut,
    /// even while its probes are outstanding: a probe would put a mode back in force that was
    /// just left, and keep the other probes away.
    pub(crate) fn is_shut(&self, now: Instant) -> bool {
        let lately = |until: Instant| now < until + IDLE_GRACE;
        let replica = self.replica.as_ref().filter(|replica| replica.decides());
        match replica.filter(|_| self.local.active_override(now).is_none()) {
            Some(replica) => lately(replica.open_until()),
            None if self.local.mode(now) == EnforcementMode::Shadow => false,
            None => match self.local.kind() {
                StateKind::Closed | StateKind::HalfOpen => false,
                StateKind::Open => self.local.retry_at().is_none_or(lately),
            },
        }
    }

    /// The effective state, the fleet's included.
    pub(crate) fn kind(&self, now: Instant) -> StateKind {
        let replica = self.replica.as_ref().filter(|replica| replica.decides());
        match replica.filter(|_| self.local.active_override(now).is_none()) {
            Some(replica) => replica.known().state,
            None => self.local.kind(),
        }
    }
}
