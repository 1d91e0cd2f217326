use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(10);

fn register(epoch: u64, state: StateKind) -> SharedState {
    SharedState { epoch, state, permits: 1, required: 1, ..SharedState::initial() }
}

/// A member of an attached host that knows this.
fn member(epoch: u64, state: StateKind, until: Instant, now: Instant) -> BreakerReplica {
    let mut member = BreakerReplica::new(TTL, now);
    member.attach(true);
    member.update(&register(epoch, state), until);
    member
}

fn lease(epoch: u64) -> FleetLease {
    FleetLease { epoch, number: 1 }
}

fn why(says: ReplicaDecision) -> Option<RejectReason> {
    match says {
        ReplicaDecision::Reject(rejection) => Some(rejection.reason),
        ReplicaDecision::Local | ReplicaDecision::Probe(_) => None,
    }
}

#[test]
fn an_open_is_kept_to_this_hosts_copy_of_its_end() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::Open, t0 + 5 * SECOND, t0);
    assert_eq!(why(member.admit(t0 + 4 * SECOND)), Some(RejectReason::Open));
    assert!(
        !member.take_messages(StateKind::Open, t0 + 4 * SECOND).lease,
        "nothing is asked before"
    );
    assert_eq!(why(member.admit(t0 + 5 * SECOND)), Some(RejectReason::Lease));
    assert!(member.take_messages(StateKind::Open, t0 + 5 * SECOND).lease);
}

#[test]
fn whoever_has_a_lease_probes_and_its_verdict_is_told_once() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::HalfOpen, t0, t0);
    member.lease_granted(lease(5), t0);
    assert_eq!(member.admit(t0), ReplicaDecision::Probe(lease(5)));
    assert_eq!(why(member.admit(t0)), Some(RejectReason::Lease), "there was one");
    member.probe_finished(lease(5), Outcome::Throttled);
    let told = member.take_messages(StateKind::Open, t0).verdicts;
    assert_eq!(told, [(lease(5), ProbeVerdict::Failed)]);
    assert!(member.take_messages(StateKind::Open, t0).verdicts.is_empty());
}

#[test]
fn an_answer_is_waited_for_a_moment_and_a_refusal_is_believed_for_a_second() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::HalfOpen, t0, t0);
    assert_eq!(why(member.admit(t0)), Some(RejectReason::Lease));
    assert_eq!(why(member.admit(t0 + LEASE_REPLY_TIMEOUT)), Some(RejectReason::HalfOpen));
    member.lease_denied(t0 + LEASE_REPLY_TIMEOUT);
    assert_eq!(why(member.admit(t0 + LEASE_REPLY_TIMEOUT)), Some(RejectReason::HalfOpen));
    assert_eq!(why(member.admit(t0 + LEASE_REPLY_TIMEOUT + SECOND)), Some(RejectReason::Lease));
}

#[test]
fn a_lease_that_nobody_used_is_renewed_and_given_back_where_others_wait() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::HalfOpen, t0, t0);
    let _ = member.admit(t0);
    member.lease_granted(lease(5), t0);
    let late = t0 + TTL / 20;
    assert_eq!(member.take_messages(StateKind::Open, late).renew, [lease(5)]);
    member.lease_renewed(lease(5), true, false, late);
    assert_eq!(member.admit(late + TTL / 20), ReplicaDecision::Probe(lease(5)));
    member.lease_granted(lease(5), late);
    member.lease_renewed(lease(5), true, true, late);
    assert_eq!(
        member.take_messages(StateKind::Open, late).verdicts,
        [(lease(5), ProbeVerdict::Unused)]
    );
}

#[test]
fn refused_for_longer_than_two_leases_it_probes_by_itself_until_there_is_news() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::HalfOpen, t0, t0);
    member.lease_denied(t0);
    assert_ne!(member.admit(t0 + 2 * TTL), ReplicaDecision::Local);
    member.lease_denied(t0 + 2 * TTL);
    assert_eq!(member.admit(t0 + 2 * TTL + SECOND), ReplicaDecision::Local);
    member.closed_locally();
    assert!(!member.decides());
    let later = t0 + 2 * TTL + 3 * SECOND;
    assert_eq!(member.admit(later), ReplicaDecision::Local);
    assert!(member.take_messages(StateKind::Closed, later).lease, "it goes on asking");
    member.lease_granted(lease(5), later);
    assert_eq!(member.admit(later), ReplicaDecision::Probe(lease(5)));
    member.update(&register(6, StateKind::Open), t0 + 90 * SECOND);
    assert!(member.decides());
}

#[test]
fn a_trip_is_a_vote_that_is_said_again_while_it_is_open() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::Closed, t0, t0);
    assert!(!member.take_messages(StateKind::Closed, t0).vote);
    assert!(member.take_messages(StateKind::Open, t0).vote);
    assert!(!member.take_messages(StateKind::Open, t0 + VOTE_INTERVAL - SECOND).vote);
    assert!(member.take_messages(StateKind::HalfOpen, t0 + VOTE_INTERVAL).vote);
}

#[test]
fn detached_it_says_nothing() {
    let t0 = Instant::now();
    let mut member = member(5, StateKind::Open, t0 + 60 * SECOND, t0);
    member.attach(false);
    assert_eq!(member.admit(t0), ReplicaDecision::Local);
    assert!(member.take_messages(StateKind::Open, t0).is_empty());
    member.attach(true);
    assert_eq!(why(member.admit(t0)), Some(RejectReason::Open), "what is known is not forgotten");
}

fn kinds() -> impl Strategy<Value = StateKind> {
    prop_oneof![Just(StateKind::Open), Just(StateKind::HalfOpen), Just(StateKind::Closed)]
}

proptest! {
    #[test]
    fn any_course_keeps_the_rules(
        steps in prop::collection::vec((0u8..9, 0u64..8, kinds(), 0u64..4000), 1..200)
    ) {
        let mut now = Instant::now();
        let mut member = BreakerReplica::new(TTL, now);
        let (mut granted, mut out, mut number) = (Vec::new(), Vec::new(), 0);
        for (what, epoch, state, wait) in steps {
            now += Duration::from_millis(wait);
            let before = member.known().clone();
            match what {
                0 => member.attach(epoch % 2 == 0),
                1 | 2 => {
                    member.update(&register(epoch, state), now + SECOND * (epoch as u32));
                }
                3 => {
                    number += 1;
                    let lease = FleetLease { epoch: member.known().epoch, number };
                    member.lease_granted(lease, now);
                    granted.push((lease, now));
                }
                4 => member.lease_denied(now),
                5 => member.request_failed(),
                6 => {
                    let asks = member.take_messages(state, now);
                    prop_assert!(member.is_attached() || asks.is_empty());
                    prop_assert!(!asks.vote || member.known().state == StateKind::Closed);
                }
                _ => match member.admit(now) {
                    ReplicaDecision::Probe(lease) => {
                        prop_assert!(granted.iter().any(|(l, at)| *l == lease && now < *at + TTL / 10));
                        prop_assert!(!out.contains(&lease), "each lease is one probe");
                        prop_assert_eq!(lease.epoch, member.known().epoch);
                        out.push(lease);
                        member.probe_finished(lease, Outcome::Success);
                    }
                    ReplicaDecision::Local => {}
                    ReplicaDecision::Reject(rejection) => {
                        prop_assert!(member.decides());
                        prop_assert!(!rejection.retry_after.is_zero());
                        prop_assert!(rejection.reason != RejectReason::Lease || rejection.retry_after <= LEASE_REPLY_TIMEOUT);
                    }
                },
            }
            prop_assert!(!before.supersedes(member.known()), "what is known never goes back");
            if member.decides() && member.until().is_some_and(|until| now < until) {
                prop_assert_eq!(why(member.admit(now)), Some(RejectReason::Open));
            }
        }
    }
}
