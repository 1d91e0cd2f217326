use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(10);

fn shared_state(epoch: u64, state: StateKind) -> SharedState {
    SharedState { epoch, state, permits: 1, required: 1, ..SharedState::initial() }
}

/// A replica of an attached host that knows this state.
fn replica(epoch: u64, state: StateKind, until: Instant, now: Instant) -> BreakerReplica {
    let mut replica = BreakerReplica::new(TTL, now);
    replica.attach(true);
    replica.update(&shared_state(epoch, state), until);
    replica
}

fn lease(epoch: u64) -> FleetLease {
    FleetLease { epoch, number: 1 }
}

fn reject_reason(decision: ReplicaDecision) -> Option<RejectReason> {
    match decision {
        ReplicaDecision::Reject(rejection) => Some(rejection.reason),
        ReplicaDecision::Local | ReplicaDecision::Probe(_) => None,
    }
}

#[test]
fn an_open_state_lasts_until_this_hosts_copy_of_its_end() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::Open, t0 + 5 * SECOND, t0);
    assert_eq!(reject_reason(replica.admit(t0 + 4 * SECOND)), Some(RejectReason::Open));
    assert!(
        !replica.take_messages(StateKind::Open, t0 + 4 * SECOND).lease,
        "nothing is requested before"
    );
    assert_eq!(reject_reason(replica.admit(t0 + 5 * SECOND)), Some(RejectReason::Lease));
    assert!(replica.take_messages(StateKind::Open, t0 + 5 * SECOND).lease);
}

#[test]
fn a_lease_allows_one_probe_and_its_verdict_is_sent_once() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::HalfOpen, t0, t0);
    replica.lease_granted(lease(5), t0);
    assert_eq!(replica.admit(t0), ReplicaDecision::Probe(lease(5)));
    assert_eq!(reject_reason(replica.admit(t0)), Some(RejectReason::Lease), "there was one");
    replica.probe_finished(lease(5), Outcome::Throttled);
    let verdicts = replica.take_messages(StateKind::Open, t0).verdicts;
    assert_eq!(verdicts, [(lease(5), ProbeVerdict::Failed)]);
    assert!(replica.take_messages(StateKind::Open, t0).verdicts.is_empty());
}

#[test]
fn a_reply_is_awaited_briefly_and_a_denial_lasts_a_second() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::HalfOpen, t0, t0);
    assert_eq!(reject_reason(replica.admit(t0)), Some(RejectReason::Lease));
    assert_eq!(
        reject_reason(replica.admit(t0 + LEASE_REPLY_TIMEOUT)),
        Some(RejectReason::HalfOpen)
    );
    replica.lease_denied(t0 + LEASE_REPLY_TIMEOUT);
    assert_eq!(
        reject_reason(replica.admit(t0 + LEASE_REPLY_TIMEOUT)),
        Some(RejectReason::HalfOpen)
    );
    assert_eq!(
        reject_reason(replica.admit(t0 + LEASE_REPLY_TIMEOUT + SECOND)),
        Some(RejectReason::Lease)
    );
}

#[test]
fn an_unused_lease_is_renewed_and_returned_when_others_wait() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::HalfOpen, t0, t0);
    let _ = replica.admit(t0);
    replica.lease_granted(lease(5), t0);
    let late = t0 + TTL / 20;
    assert_eq!(replica.take_messages(StateKind::Open, late).renew, [lease(5)]);
    replica.lease_renewed(lease(5), true, false, late);
    assert_eq!(replica.admit(late + TTL / 20), ReplicaDecision::Probe(lease(5)));
    replica.lease_granted(lease(5), late);
    replica.lease_renewed(lease(5), true, true, late);
    assert_eq!(
        replica.take_messages(StateKind::Open, late).verdicts,
        [(lease(5), ProbeVerdict::Unused)]
    );
}

#[test]
fn denied_for_two_leases_it_probes_locally_until_the_state_changes() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::HalfOpen, t0, t0);
    replica.lease_denied(t0);
    assert_ne!(replica.admit(t0 + 2 * TTL), ReplicaDecision::Local);
    replica.lease_denied(t0 + 2 * TTL);
    assert_eq!(replica.admit(t0 + 2 * TTL + SECOND), ReplicaDecision::Local);
    replica.closed_locally();
    assert!(!replica.decides());
    let later = t0 + 2 * TTL + 3 * SECOND;
    assert_eq!(replica.admit(later), ReplicaDecision::Local);
    assert!(replica.take_messages(StateKind::Closed, later).lease, "it goes on asking");
    replica.lease_granted(lease(5), later);
    assert_eq!(replica.admit(later), ReplicaDecision::Probe(lease(5)));
    replica.update(&shared_state(6, StateKind::Open), t0 + 90 * SECOND);
    assert!(replica.decides());
}

#[test]
fn a_trip_is_a_vote_repeated_while_open() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::Closed, t0, t0);
    assert!(!replica.take_messages(StateKind::Closed, t0).vote);
    assert!(replica.take_messages(StateKind::Open, t0).vote);
    assert!(!replica.take_messages(StateKind::Open, t0 + VOTE_INTERVAL - SECOND).vote);
    assert!(replica.take_messages(StateKind::HalfOpen, t0 + VOTE_INTERVAL).vote);
}

#[test]
fn a_detached_replica_sends_nothing() {
    let t0 = Instant::now();
    let mut replica = replica(5, StateKind::Open, t0 + 60 * SECOND, t0);
    replica.attach(false);
    assert_eq!(replica.admit(t0), ReplicaDecision::Local);
    assert!(replica.take_messages(StateKind::Open, t0).is_empty());
    replica.attach(true);
    assert_eq!(
        reject_reason(replica.admit(t0)),
        Some(RejectReason::Open),
        "what is known is not forgotten"
    );
}

fn kinds() -> impl Strategy<Value = StateKind> {
    prop_oneof![Just(StateKind::Open), Just(StateKind::HalfOpen), Just(StateKind::Closed)]
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_rules(
        steps in prop::collection::vec((0u8..9, 0u64..8, kinds(), 0u64..4000), 1..200)
    ) {
        let mut now = Instant::now();
        let mut replica = BreakerReplica::new(TTL, now);
        let (mut granted, mut out, mut number) = (Vec::new(), Vec::new(), 0);
        for (what, epoch, state, wait) in steps {
            now += Duration::from_millis(wait);
            let before = replica.known().clone();
            match what {
                0 => replica.attach(epoch % 2 == 0),
                1 | 2 => {
                    replica.update(&shared_state(epoch, state), now + SECOND * (epoch as u32));
                }
                3 => {
                    number += 1;
                    let lease = FleetLease { epoch: replica.known().epoch, number };
                    replica.lease_granted(lease, now);
                    granted.push((lease, now));
                }
                4 => replica.lease_denied(now),
                5 => replica.request_failed(),
                6 => {
                    let messages = replica.take_messages(state, now);
                    prop_assert!(replica.is_attached() || messages.is_empty());
                    prop_assert!(!messages.vote || replica.known().state == StateKind::Closed);
                }
                _ => match replica.admit(now) {
                    ReplicaDecision::Probe(lease) => {
                        prop_assert!(granted.iter().any(|(l, at)| *l == lease && now < *at + TTL / 10));
                        prop_assert!(!out.contains(&lease), "each lease is one probe");
                        prop_assert_eq!(lease.epoch, replica.known().epoch);
                        out.push(lease);
                        replica.probe_finished(lease, Outcome::Success);
                    }
                    ReplicaDecision::Local => {}
                    ReplicaDecision::Reject(rejection) => {
                        prop_assert!(replica.decides());
                        prop_assert!(!rejection.retry_after.is_zero());
                        prop_assert!(rejection.reason != RejectReason::Lease || rejection.retry_after <= LEASE_REPLY_TIMEOUT);
                    }
                },
            }
            prop_assert!(!before.supersedes(replica.known()), "what is known never goes back");
            if replica.decides() && replica.until().is_some_and(|until| now < until) {
                prop_assert_eq!(reject_reason(replica.admit(now)), Some(RejectReason::Open));
            }
        }
    }
}
