//! The three states of a breaker (closed, open, half-open): their data, and the attempts that each
//! admits.
//!
//! A probe holds a *lease* with an end. A probe whose outcome never arrives (client gone, task
//! cancelled) finds no lease after that end, and a later outcome is ignored. A slow probe keeps
//! others away for a part of that time only: an endpoint that recovers may never respond to a
//! request that it received while it was silent. Its success still counts, but its failure says
//! nothing while a later probe is out.
//!
//! The number of consecutive trips is kept for 60 s after closing: an endpoint that fails
//! again right after recovery stays open for longer, and one that was healthy for a minute
//! starts over.

use crate::resilience::limits::slow_start::SlowStart;
use crate::resilience::words::words;
use std::time::{Duration, Instant};

const CLOSED_FORGETS_TRIPS: Duration = Duration::from_secs(60);

/// `rate` is the attempt rate per second before the trip, used by the slow start after
/// recovery.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Closed { failures: u32, recovery: Option<Recovery> },
    Open { until: Instant, trips: u32, rate: f64 },
    HalfOpen { trips: u32, rate: f64, successes: u32, leases: ProbeLeases },
}

/// The memory of a closed breaker of its last trip, for a minute or until the slow start
/// ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    pub closed_at: Instant,
    pub trips: u32,
    pub ramp: Option<SlowStart>,
}

/// Outstanding probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeLeases {
    granted: u64,
    out: Vec<OutstandingProbe>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutstandingProbe {
    id: u64,
    /// Until then it keeps other probes away.
    alone: Instant,
    /// An outcome after it is ignored.
    end: Instant,
}

words! {
    pub enum StateKind {
        Closed = "closed",
        HalfOpen = "half_open",
        Open = "open",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: RejectReason,
    /// Time until another attempt may be admitted.
    pub retry_after: Duration,
}

words! {
    pub enum RejectReason {
        Open = "open",
        /// All probes are outstanding.
        HalfOpen = "half_open",
        /// Just closed: slow start does not admit the next attempt yet.
        Ramp = "ramp",
        /// A probe lease was requested from the fleet, and the reply is pending.
        Lease = "lease",
    }
}

/// A change of state, and the epoch that it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerTransition {
    pub from: StateKind,
    pub to: StateKind,
    pub cause: TransitionCause,
    pub epoch: u64,
}

words! {
    pub enum TransitionCause {
        Consecutive = "consecutive",
        FailureRate = "failure_rate",
        SlowRate = "slow_rate",
        ProbeFailed = "probe_failed",
        ProbeSucceeded = "probe_succeeded",
        /// The open time elapsed.
        Elapsed = "elapsed",
        /// An operator's override.
        Override = "override",
        /// The fleet's shared state.
        Fleet = "fleet",
    }
}

impl ProbeLeases {
    /// Probes outstanding at `now`.
    pub fn out(&self, now: Instant) -> usize {
        self.live(now).count()
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.out.iter().map(|lease| lease.alone).filter(move |&alone| alone > now)
    }

    pub(crate) fn grant(&mut self, now: Instant, alone: Duration, lease: Duration) -> u64 {
        self.out.retain(|lease| lease.end > now);
        self.granted += 1;
        let (alone, end) = (now + alone.min(lease), now + lease);
        self.out.push(OutstandingProbe { id: self.granted, alone, end });
        self.granted
    }

    /// Returns a lease. `None` if it had ended, else whether no later probe is out.
    pub(crate) fn give_back(&mut self, id: u64, now: Instant) -> Option<bool> {
        let at = self.out.iter().position(|lease| lease.id == id)?;
        let is_last = !self.out.iter().any(|lease| lease.id > id && lease.end > now);
        let lease = self.out.swap_remove(at);
        (lease.end > now).then_some(is_last || lease.alone > now)
    }
}

impl Recovery {
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.remembered_trips(now) == 0 && self.ramp.is_none_or(|ramp| ramp.is_over(now))
    }

    pub(crate) fn remembered_trips(&self, now: Instant) -> u32 {
        let closed_for = now.saturating_duration_since(self.closed_at);
        if closed_for < CLOSED_FORGETS_TRIPS { self.trips } else { 0 }
    }
}

impl State {
    pub(crate) const CLOSED: State = State::Closed { failures: 0, recovery: None };

    pub(crate) fn kind(&self) -> StateKind {
        match self {
            State::Closed { .. } => StateKind::Closed,
            State::Open { .. } => StateKind::Open,
            State::HalfOpen { .. } => StateKind::HalfOpen,
        }
    }

    pub(crate) fn check(&self, probes: u32, now: Instant) -> Result<(), Rejection> {
        let (why, retry_after) = match self {
            State::Closed { recovery: Some(Recovery { ramp: Some(ramp), .. }), .. } => {
                match ramp.check(now) {
                    Ok(()) => return Ok(()),
                    Err(wait) => (RejectReason::Ramp, wait),
                }
            }
            State::Closed { .. } => return Ok(()),
            State::Open { until, .. } => (RejectReason::Open, until.saturating_duration_since(now)),
            State::HalfOpen { leases, .. } if leases.out(now) < probes.max(1) as usize => {
                return Ok(());
            }
            State::HalfOpen { leases, .. } => {
                let first = leases.live(now).min().unwrap_or(now);
                (RejectReason::HalfOpen, first.saturating_duration_since(now))
            }
        };
        if retry_after.is_zero() { Ok(()) } else { Err(Rejection { reason: why, retry_after }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn half_open(leases: ProbeLeases) -> State {
        State::HalfOpen { trips: 1, rate: 1.0, successes: 0, leases }
    }

    #[test]
    fn a_lease_counts_until_its_end() {
        let (t0, mut leases) = (Instant::now(), ProbeLeases::default());
        let lease = leases.grant(t0, ms(10), ms(10));
        assert_eq!((leases.out(t0 + ms(9)), leases.out(t0 + ms(10))), (1, 0));
        assert_eq!(leases.clone().give_back(lease, t0 + ms(10)), None);
        assert_eq!(leases.give_back(lease, t0 + ms(9)), Some(true));
        assert_eq!(leases.give_back(lease, t0), None, "only once");
    }

    #[test]
    fn lost_leases_do_not_accumulate() {
        let (t0, mut leases) = (Instant::now(), ProbeLeases::default());
        (0..1000).for_each(|n| {
            leases.grant(t0 + ms(n * 10), ms(10), ms(10));
        });
        assert_eq!(leases.out.len(), 1);
    }

    #[test]
    fn a_rejection_lasts_until_the_first_lease_ends() {
        let (t0, mut leases) = (Instant::now(), ProbeLeases::default());
        leases.grant(t0, ms(30), ms(30));
        leases.grant(t0, ms(20), ms(20));
        let rejection = Rejection { reason: RejectReason::HalfOpen, retry_after: ms(20) };
        assert_eq!(half_open(leases.clone()).check(2, t0), Err(rejection));
        assert_eq!(half_open(leases.clone()).check(3, t0), Ok(()));
        assert_eq!(half_open(leases).check(2, t0 + ms(20)), Ok(()));
    }

    #[test]
    fn a_recovery_lasts_until_trips_and_slow_start_are_over() {
        let t0 = Instant::now();
        for (over, end) in [(ms(10_000), 60_000), (ms(90_000), 90_000)] {
            let ramp = Some(SlowStart::new(1.0, over, t0));
            let recovery = Recovery { closed_at: t0, trips: 3, ramp };
            assert!(!recovery.is_over(t0 + ms(end - 1)));
            assert!(recovery.is_over(t0 + ms(end)));
        }
    }

    proptest! {
        #[test]
        fn a_rejection_names_the_exact_wait(
            ends in prop::collection::vec(1u64..1000, 0..6), probes in 0u32..6, at in 0u64..1000,
        ) {
            let (t0, mut leases) = (Instant::now(), ProbeLeases::default());
            ends.iter().for_each(|end| {
                leases.grant(t0, ms(*end), ms(*end));
            });
            let (now, state) = (t0 + ms(at), half_open(leases.clone()));
            match state.check(probes, now) {
                Ok(()) => prop_assert!(leases.out(now) < probes.max(1) as usize),
                Err(rejection) => {
                    prop_assert!(leases.out(now) >= probes.max(1) as usize);
                    prop_assert!(leases.out(now + rejection.retry_after) < leases.out(now));
                }
            }
        }
    }
}
