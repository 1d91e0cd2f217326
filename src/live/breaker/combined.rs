//! The rules of one breaker: the host's own, and its part in the fleet's, which outranks it.

use std::time::{Duration, Instant};

use super::cell::Leave;
use crate::resilience::breaker::replica::{Member, Says};
use crate::resilience::breaker::{Admission, Breaker, Kind, Mode, Rejection, Transition};

/// For so long after its time is over, one that nobody asked counts as open: a probe comes with the
/// next request, and fails mostly.
const UNASKED: Duration = Duration::from_secs(1);

/// The host's own breaker, and its part in the fleet's.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) own: Breaker,
    pub(crate) member: Option<Member>,
}

impl Rules {
    /// The member's word counts where nothing outranks it.
    pub(crate) fn member(&mut self, now: Instant) -> Option<&mut Member> {
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

    pub(crate) fn admit(&mut self, now: Instant) -> (Result<Leave, Rejection>, Option<Transition>) {
        match self.member(now).map_or(Says::Own, |member| member.admit(now)) {
            Says::Probe(lease) => (Ok(Leave::Lease(lease)), None),
            Says::Refuse(rejection) => (Err(rejection), None),
            Says::Own => match self.own.admit(now) {
                (Admission::Admit(permit), moved) => (Ok(Leave::Own(permit)), moved),
                (Admission::Reject(rejection), moved) => (Err(rejection), moved),
            },
        }
    }

    pub(crate) fn restrains(&self, now: Instant) -> bool {
        let member = self.member.as_ref().is_some_and(Member::is_concerned);
        member || self.own.kind() != Kind::Closed || self.own.slow_start(now) < 1.0
    }

    /// Nothing gets through, or only just could again. Where nobody asks it cannot stay so for ever:
    /// a mode that answers by itself would never be left.
    pub(crate) fn is_shut(&self, now: Instant) -> bool {
        let lately = |until: Instant| now < until + UNASKED;
        let member = self.member.as_ref().filter(|member| member.restrains());
        match member.filter(|_| self.own.hand(now).is_none()) {
            Some(member) => lately(member.open_until()),
            None if self.own.mode(now) == Mode::Shadow => false,
            None => match self.own.kind() {
                Kind::Closed => false,
                Kind::HalfOpen => self.own.would_admit(now).is_err(),
                Kind::Open => self.own.retry_at().is_none_or(lately),
            },
        }
    }

    /// What holds here, the fleet's word included.
    pub(crate) fn kind(&self, now: Instant) -> Kind {
        let member = self.member.as_ref().filter(|member| member.restrains());
        match member.filter(|_| self.own.hand(now).is_none()) {
            Some(member) => member.known().state,
            None => self.own.kind(),
        }
    }
}
