//! Tests of the breaker, its states and its policy.

use super::*;
use proptest::prelude::*;

const POLICY: BreakerPolicy = BreakerPolicy {
    failure_threshold: 3,
    failure_rate: None,
    slow_rate: None,
    recovery_timeout: Duration::from_secs(5),
    backoff_multiplier: 2.0,
    max_recovery_timeout: Duration::from_secs(60),
    success_threshold: 2,
    probes: 1,
    probe_lease: Duration::from_secs(30),
    ramp: Duration::ZERO,
    mode: EnforcementMode::Enforce,
    shared: None,
};
const RATE: RateRule = RateRule { above: 0.5, over: Duration::from_secs(30), min_requests: 20 };
const SLOW: SlowRule = SlowRule {
    slower_than: Duration::from_secs(20),
    slower_than_baseline: None,
    above: 0.8,
    over: Duration::from_secs(30),
    min_requests: 10,
};
const TOOK: Duration = Duration::from_millis(80);
const MIDDLE: f64 = 0.5;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn permit(breaker: &mut LocalBreaker, now: Instant) -> BreakerPermit {
    match breaker.admit(now) {
        (Ok(permit), _) => permit,
        (Err(rejection), _) => panic!("{rejection:?}"),
    }
}

fn rejection(breaker: &mut LocalBreaker, now: Instant) -> Rejection {
    match breaker.admit(now) {
        (Err(rejection), _) => rejection,
        (Ok(permit), _) => panic!("{permit:?}"),
    }
}

fn give(
    breaker: &mut LocalBreaker,
    permit: BreakerPermit,
    outcome: Outcome,
    now: Instant,
) -> Option<TransitionCause> {
    breaker.observe(permit, outcome, TOOK, now, MIDDLE).map(|moved| moved.cause)
}

/// One attempt from start to end.
fn attempt(breaker: &mut LocalBreaker, outcome: Outcome, now: Instant) -> Option<TransitionCause> {
    let permit = permit(breaker, now);
    give(breaker, permit, outcome, now)
}

/// Makes one attempt if the breaker admits it; whether it did.
pub(super) fn try_attempt(breaker: &mut LocalBreaker, outcome: Outcome, now: Instant) -> bool {
    match breaker.admit(now).0 {
        Ok(permit) => {
            breaker.observe(permit, outcome, Duration::ZERO, now, MIDDLE);
            true
        }
        Err(_) => false,
    }
}

fn trip(breaker: &mut LocalBreaker, now: Instant) {
    for _ in 0..breaker.policy.failure_threshold {
        attempt(breaker, Outcome::Failure, now);
    }
    assert_eq!(breaker.kind(), StateKind::Open);
}

fn tripped(policy: BreakerPolicy, now: Instant) -> LocalBreaker {
    let mut breaker = LocalBreaker::new(policy);
    trip(&mut breaker, now);
    breaker
}

/// Probes at the end of the open time until the breaker closes; returns when.
fn close(breaker: &mut LocalBreaker) -> Instant {
    let now = breaker.retry_at().expect("is open");
    for _ in 0..breaker.policy.success_threshold.max(1) {
        attempt(breaker, Outcome::Success, now);
    }
    assert_eq!(breaker.kind(), StateKind::Closed);
    now
}

fn open_time(breaker: &LocalBreaker, now: Instant) -> Duration {
    breaker.retry_at().expect("is open") - now
}

// === tripping ===

#[test]
fn consecutive_failures_trip() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), None);
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), None);
    let third = permit(&mut breaker, t0);
    let moved = breaker.observe(third, Outcome::Failure, TOOK, t0, MIDDLE);
    let (from, to, cause) = (StateKind::Closed, StateKind::Open, TransitionCause::Consecutive);
    assert_eq!(moved, Some(BreakerTransition { from, to, cause, epoch: 1 }));
    assert_eq!(
        rejection(&mut breaker, t0),
        Rejection { reason: RejectReason::Open, retry_after: secs(5) }
    );
}

#[test]
fn a_success_between_failures_keeps_it_closed() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    for n in 0..30 {
        let outcome = if n % 3 == 2 { Outcome::Success } else { Outcome::Failure };
        assert_eq!(attempt(&mut breaker, outcome, t0), None);
    }
}

#[test]
fn a_throttle_counts_neither_as_failure_nor_as_success() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    (0..100).for_each(|_| assert_eq!(attempt(&mut breaker, Outcome::Throttled, t0), None));
    attempt(&mut breaker, Outcome::Failure, t0);
    attempt(&mut breaker, Outcome::Failure, t0);
    attempt(&mut breaker, Outcome::Throttled, t0);
    attempt(&mut breaker, Outcome::Ignored, t0);
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), Some(TransitionCause::Consecutive));
}

#[test]
fn a_threshold_of_zero_disables_the_rule() {
    let mut breaker = LocalBreaker::new(BreakerPolicy { failure_threshold: 0, ..POLICY });
    let t0 = Instant::now();
    (0..1000).for_each(|_| assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), None));
}

#[test]
fn the_failure_rate_trips_from_min_requests_on() {
    let policy = BreakerPolicy { failure_threshold: 0, failure_rate: Some(RATE), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    for n in 0..19 {
        let outcome = if n < 11 { Outcome::Failure } else { Outcome::Success };
        assert_eq!(attempt(&mut breaker, outcome, t0), None);
    }
    // 11 of 20: the one that reaches the minimum need not be a failure.
    assert_eq!(attempt(&mut breaker, Outcome::Success, t0), Some(TransitionCause::FailureRate));
}

#[test]
fn a_failure_rate_at_the_limit_is_not_above_it() {
    let policy = BreakerPolicy { failure_threshold: 0, failure_rate: Some(RATE), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    for n in 0..40 {
        let outcome = if n % 2 == 1 { Outcome::Failure } else { Outcome::Success };
        assert_eq!(attempt(&mut breaker, outcome, t0), None);
    }
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), Some(TransitionCause::FailureRate));
}

#[test]
fn failures_outside_the_window_are_forgotten() {
    let policy = BreakerPolicy { failure_threshold: 0, failure_rate: Some(RATE), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    (0..19).for_each(|_| assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), None));
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0 + secs(30)), None);
}

#[test]
fn slow_successes_trip() {
    let policy = BreakerPolicy { slow_rate: Some(SLOW), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    for n in 1..=11 {
        let slow = permit(&mut breaker, t0);
        let took = if n <= 2 { SLOW.slower_than } else { SLOW.slower_than + ms(1) };
        let moved = breaker.observe(slow, Outcome::Success, took, t0, MIDDLE);
        // Two took exactly the limit, which is not slower: 8 of 10, then 9 of 11.
        assert_eq!(moved.map(|moved| moved.cause), (n == 11).then_some(TransitionCause::SlowRate));
    }
}

#[test]
fn attempts_that_are_slower_than_usual_trip_and_nothing_counts_while_that_is_unknown() {
    let rule = SlowRule { slower_than_baseline: Some(2.0), ..SLOW };
    let policy = BreakerPolicy { slow_rate: Some(rule), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    let mut observe = |took, usual_p95| {
        let slow = permit(&mut breaker, t0);
        let latency = AttemptLatency { took, usual_p95 };
        breaker.observe(slow, Outcome::Success, latency, t0, MIDDLE).map(|moved| moved.cause)
    };
    for _ in 0..30 {
        assert_eq!(observe(secs(60), None), None);
    }
    let usual = Some(ms(100));
    assert_eq!((0..2).map(|_| observe(ms(200), usual)).collect::<Vec<_>>(), [None, None]);
    let tripped = (3..=11).map(|n| observe(ms(201), usual).map(|cause| (n, cause)));
    assert_eq!(tripped.flatten().collect::<Vec<_>>(), [(11, TransitionCause::SlowRate)]);
}

#[test]
fn a_trip_clears_the_counts() {
    let policy = BreakerPolicy {
        failure_threshold: 0,
        failure_rate: Some(RATE),
        slow_rate: Some(SlowRule { min_requests: 20, ..SLOW }),
        ..POLICY
    };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    for n in 1..=20 {
        let permit = permit(&mut breaker, t0);
        let moved = breaker.observe(permit, Outcome::Failure, secs(25), t0, MIDDLE);
        assert_eq!(moved.is_some(), n == 20);
    }
    let t1 = close(&mut breaker);
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t1), None);
    let slow = permit(&mut breaker, t1);
    assert_eq!(breaker.observe(slow, Outcome::Success, secs(25), t1, MIDDLE), None);
}

// === interrupted streams ===

#[test]
fn an_interrupted_stream_counts_as_a_failure() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    let streams = [0; 3].map(|_| permit(&mut breaker, t0));
    let epochs = streams.map(|stream| {
        let epoch = stream.epoch();
        assert_eq!(give(&mut breaker, stream, Outcome::Success, t0), None);
        epoch
    });
    let moved = epochs
        .map(|epoch| breaker.observe_interruption(epoch, t0, MIDDLE).map(|moved| moved.cause));
    assert_eq!(moved, [None, None, Some(TransitionCause::Consecutive)]);
}

#[test]
fn consecutive_interrupted_streams_trip() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    let mut moved = None;
    for _ in 0..POLICY.failure_threshold {
        assert_eq!(moved, None);
        let stream = permit(&mut breaker, t0);
        let epoch = stream.epoch();
        assert_eq!(give(&mut breaker, stream, Outcome::Success, t0), None);
        moved = breaker.observe_interruption(epoch, t0, MIDDLE).map(|moved| moved.cause);
    }
    assert_eq!(moved, Some(TransitionCause::Consecutive));
}

#[test]
fn interrupted_streams_count_in_the_failure_rate() {
    let all = RateRule { above: 0.96, ..RATE };
    let policy = BreakerPolicy { failure_threshold: 0, failure_rate: Some(all), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    for n in 1..=20 {
        let stream = permit(&mut breaker, t0);
        let epoch = stream.epoch();
        assert_eq!(give(&mut breaker, stream, Outcome::Success, t0), None);
        let moved = breaker.observe_interruption(epoch, t0, MIDDLE).map(|moved| moved.cause);
        assert_eq!(moved, (n == 20).then_some(TransitionCause::FailureRate));
    }
}

#[test]
fn an_interruption_never_judges_a_probe_or_another_epoch() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    assert_eq!(breaker.observe_interruption(0, t0, MIDDLE), None);
    assert_eq!(breaker.observe_interruption(1, t0, MIDDLE), None);
    let t1 = t0 + secs(5);
    attempt(&mut breaker, Outcome::Success, t1);
    assert_eq!(breaker.kind(), StateKind::HalfOpen);
    assert_eq!(breaker.observe_interruption(breaker.epoch(), t1, MIDDLE), None);
    let probing = breaker.epoch();
    attempt(&mut breaker, Outcome::Success, t1);
    assert_eq!(breaker.kind(), StateKind::Closed);
    (0..10).for_each(|_| assert_eq!(breaker.observe_interruption(probing, t1, MIDDLE), None));
    assert_eq!(breaker.kind(), StateKind::Closed);
}

// === open ===

#[test]
fn open_time_doubles_with_each_consecutive_trip_up_to_its_cap() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    let (mut now, mut times) = (t0, vec![open_time(&breaker, t0)]);
    for _ in 0..6 {
        now = breaker.retry_at().expect("is open");
        let probe = permit(&mut breaker, now);
        let moved = breaker.observe(probe, Outcome::Failure, secs(1), now, MIDDLE);
        assert_eq!(moved.map(|moved| moved.cause), Some(TransitionCause::ProbeFailed));
        times.push(open_time(&breaker, now));
    }
    assert_eq!(times, [5, 10, 20, 40, 60, 60, 60].map(secs));
    assert_eq!((breaker.trips(), now > t0), (7, true));
}

#[test]
fn no_policy_overflows_a_clock() {
    let (long, mad) = (Duration::MAX, f64::MAX);
    let policy = BreakerPolicy {
        recovery_timeout: long,
        max_recovery_timeout: long,
        backoff_multiplier: mad,
        probe_lease: long,
        ramp: long,
        success_threshold: 0,
        probes: 0,
        ..POLICY
    };
    let mut breaker = tripped(policy, Instant::now());
    let closed = close(&mut breaker);
    assert_eq!(breaker.would_admit(closed), Ok(()));
}

#[test]
fn the_trip_count_resets_after_sixty_seconds_closed() {
    let t0 = Instant::now();
    for (closed_for, trips) in [(secs(59), 2), (secs(60), 1)] {
        let mut breaker = tripped(POLICY, t0);
        let now = close(&mut breaker) + closed_for;
        assert_eq!(breaker.trips(), 1);
        trip(&mut breaker, now);
        assert_eq!(breaker.trips(), trips);
        assert_eq!(open_time(&breaker, now), secs(5) * trips);
    }
}

// === half-open ===

#[test]
fn one_probe_is_admitted_when_the_open_time_ends() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    let t1 = t0 + secs(5);
    assert_eq!(breaker.would_admit(t1), Ok(()));
    let (admission, moved) = breaker.admit(t1);
    assert!(matches!(admission, Ok(permit) if permit.is_probe()));
    let (from, to, cause) = (StateKind::Open, StateKind::HalfOpen, TransitionCause::Elapsed);
    assert_eq!(moved, Some(BreakerTransition { from, to, cause, epoch: 2 }));
    let refused = Rejection { reason: RejectReason::HalfOpen, retry_after: secs(7) };
    assert_eq!(rejection(&mut breaker, t1 + secs(1)), refused);
}

#[test]
fn a_slow_probe_makes_room_for_others_and_its_success_still_counts() {
    let t0 = Instant::now();
    for succeeds in [true, false] {
        let mut breaker = tripped(BreakerPolicy { success_threshold: 1, ..POLICY }, t0);
        let t1 = t0 + secs(5);
        let slow = permit(&mut breaker, t1);
        rejection(&mut breaker, t1 + secs(8) - ms(1));
        let second = permit(&mut breaker, t1 + secs(8));
        rejection(&mut breaker, t1 + secs(16) - ms(1));
        if succeeds {
            let closed = give(&mut breaker, slow, Outcome::Success, t1 + secs(9));
            assert_eq!(closed, Some(TransitionCause::ProbeSucceeded));
            continue;
        }
        // The later probe knows more.
        assert_eq!(give(&mut breaker, slow, Outcome::Failure, t1 + secs(9)), None);
        let open = give(&mut breaker, second, Outcome::Failure, t1 + secs(20));
        assert_eq!(open, Some(TransitionCause::ProbeFailed));
    }
}

#[test]
fn an_outcome_after_the_end_of_its_lease_is_ignored() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    let t1 = t0 + secs(5);
    let lost = permit(&mut breaker, t1);
    let second = permit(&mut breaker, t1 + secs(30));
    // The late outcome of the lost probe is ignored, though its epoch is the current one.
    assert_eq!(lost.epoch(), second.epoch());
    assert_eq!(give(&mut breaker, lost, Outcome::Failure, t1 + secs(31)), None);
    assert_eq!(breaker.kind(), StateKind::HalfOpen);
    assert_eq!(
        give(&mut breaker, second, Outcome::Failure, t1 + secs(31)),
        Some(TransitionCause::ProbeFailed)
    );
}

#[test]
fn an_ignored_probe_only_frees_its_lease() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    let t1 = t0 + secs(5);
    for _ in 0..10 {
        assert_eq!(attempt(&mut breaker, Outcome::Ignored, t1), None);
    }
    assert!(matches!(breaker.state, State::HalfOpen { successes: 0, trips: 1, .. }));
}

#[test]
fn enough_successes_close_and_one_throttle_reopens() {
    let t0 = Instant::now();
    let mut breaker = tripped(POLICY, t0);
    let t1 = t0 + secs(5);
    assert_eq!(attempt(&mut breaker, Outcome::Success, t1), None);
    assert_eq!(attempt(&mut breaker, Outcome::Throttled, t1), Some(TransitionCause::ProbeFailed));
    let t2 = t1 + secs(10);
    assert_eq!(attempt(&mut breaker, Outcome::Success, t2), None);
    assert_eq!(attempt(&mut breaker, Outcome::Success, t2), Some(TransitionCause::ProbeSucceeded));
}

#[test]
fn a_success_admitted_before_the_trip_does_not_close() {
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(POLICY));
    let early = [0; 5].map(|_| permit(&mut breaker, t0));
    trip(&mut breaker, t0);
    let t1 = t0 + secs(5);
    let probe = permit(&mut breaker, t1);
    for (late, outcome) in early.into_iter().zip([Outcome::Success, Outcome::Failure].repeat(3)) {
        assert_eq!(give(&mut breaker, late, outcome, t1), None);
    }
    assert!(matches!(breaker.state, State::HalfOpen { successes: 0, .. }));
    assert_eq!(give(&mut breaker, probe, Outcome::Success, t1), None);
}

// === after closing ===

#[test]
fn slow_start_follows_the_rate_before_the_trip() {
    let policy = BreakerPolicy { ramp: secs(10), ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    (0..1000).for_each(|n| {
        attempt(&mut breaker, Outcome::Success, t0 + ms(n * 10));
    });
    trip(&mut breaker, t0 + secs(10));
    let t1 = close(&mut breaker);
    assert_eq!(breaker.slow_start(t1), 0.1);
    let mut admitted = 0;
    for n in 0..10_000 {
        let now = t1 + ms(n);
        let said = breaker.would_admit(now);
        match breaker.admit(now).0 {
            Ok(_) => admitted += 1,
            Err(refused) => {
                assert_eq!((said, refused.reason), (Err(refused), RejectReason::Ramp));
                assert_eq!(breaker.would_admit(now + refused.retry_after), Ok(()));
            }
        }
    }
    // 55 % of about 100/s for 10 s. Called at whole milliseconds, it loses half of one each
    // time.
    assert!((500..=560).contains(&admitted), "{admitted}");
    assert_eq!(breaker.slow_start(t1 + secs(10)), 1.0);
    (0..1000).for_each(|_| {
        attempt(&mut breaker, Outcome::Success, t1 + secs(10));
    });
}

#[test]
fn a_trip_during_slow_start_keeps_the_rate_before_the_first_trip() {
    let policy = BreakerPolicy { ramp: secs(10), failure_threshold: 1, ..POLICY };
    let (t0, mut breaker) = (Instant::now(), LocalBreaker::new(policy));
    (0..1000).for_each(|n| {
        attempt(&mut breaker, Outcome::Success, t0 + ms(n * 10));
    });
    trip(&mut breaker, t0 + secs(10));
    let State::Open { rate: before, .. } = breaker.state else { panic!("is open") };
    let now = close(&mut breaker);
    trip(&mut breaker, now);
    assert!(matches!(breaker.state, State::Open { rate, .. } if rate == before && rate > 90.0));
}

// === shadow and retune ===

#[test]
fn shadow_admits_everything_and_changes_states_alike() {
    let shadow = BreakerPolicy { mode: EnforcementMode::Shadow, ramp: secs(10), ..POLICY };
    let t0 = Instant::now();
    let mut breaker = tripped(shadow, t0);
    assert_eq!(breaker.would_admit(t0), Ok(()));
    let extra = permit(&mut breaker, t0);
    assert!(extra.would_reject() && !extra.is_probe());
    assert_eq!(give(&mut breaker, extra, Outcome::Success, t0), None);

    let t1 = t0 + secs(5);
    let (probe, extra) = (permit(&mut breaker, t1), permit(&mut breaker, t1));
    assert_eq!((probe.is_probe(), probe.would_reject()), (true, false));
    assert_eq!((extra.is_probe(), extra.would_reject()), (false, true));
    assert_eq!(give(&mut breaker, extra, Outcome::Failure, t1), None);
    assert_eq!(give(&mut breaker, probe, Outcome::Success, t1), None);
    assert_eq!(attempt(&mut breaker, Outcome::Success, t1), Some(TransitionCause::ProbeSucceeded));

    assert_eq!((permit(&mut breaker, t1).would_reject(), breaker.slow_start(t1)), (false, 1.0));
    // During slow start, too, an attempt that would have been rejected is ignored.
    for _ in 0..10 {
        let extra = permit(&mut breaker, t1);
        assert!(extra.would_reject());
        assert_eq!(give(&mut breaker, extra, Outcome::Failure, t1), None);
    }
}

#[test]
fn retuning_keeps_the_state_and_the_counts() {
    let policy = BreakerPolicy { failure_rate: Some(RATE), ..POLICY };
    let t0 = Instant::now();
    let mut breaker = LocalBreaker::new(policy);
    attempt(&mut breaker, Outcome::Failure, t0);
    let stricter = RateRule { above: 0.1, ..RATE };
    breaker.retune(BreakerPolicy { failure_rate: Some(stricter), ..policy });
    let counts = |breaker: &LocalBreaker| breaker.failed.as_ref().map(|window| window.counts(t0));
    assert_eq!(counts(&breaker), Some((1, 1)));
    let longer = RateRule { over: secs(60), ..RATE };
    breaker.retune(BreakerPolicy { failure_rate: Some(longer), slow_rate: Some(SLOW), ..policy });
    assert_eq!((counts(&breaker), breaker.slow.is_some()), (Some((0, 0)), true));
    attempt(&mut breaker, Outcome::Failure, t0);
    assert_eq!(attempt(&mut breaker, Outcome::Failure, t0), Some(TransitionCause::Consecutive));
    breaker.retune(BreakerPolicy { recovery_timeout: secs(1), ..POLICY });
    assert_eq!((breaker.retry_at(), breaker.epoch()), (Some(t0 + secs(5)), 1));
    assert_eq!(breaker.policy().recovery_timeout, secs(1));
}

#[test]
fn words_match_the_policy_and_the_metrics() {
    assert_eq!(
        [EnforcementMode::Enforce, EnforcementMode::Shadow].map(EnforcementMode::as_str),
        ["enforce", "shadow"]
    );
    let kinds = [StateKind::Closed, StateKind::HalfOpen, StateKind::Open].map(StateKind::as_str);
    assert_eq!(kinds, ["closed", "half_open", "open"]);
    assert_eq!(
        [RejectReason::Open, RejectReason::HalfOpen, RejectReason::Ramp].map(RejectReason::as_str),
        ["open", "half_open", "ramp"]
    );
}

// === properties ===

fn policies() -> impl Strategy<Value = BreakerPolicy> {
    (0u32..4, 0u32..4, 0u32..4, 0u64..20_000, 1u64..40_000, prop::bool::ANY).prop_map(
        |(failures, probes, successes, ramp, lease, rates)| BreakerPolicy {
            failure_threshold: failures,
            failure_rate: rates.then_some(RateRule { min_requests: 5, ..RATE }),
            slow_rate: rates.then_some(SlowRule { min_requests: 5, ..SLOW }),
            success_threshold: successes,
            probes,
            ramp: ms(ramp),
            probe_lease: ms(lease),
            ..POLICY
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Return { which: prop::sample::Index, outcome: Outcome, took: Duration },
    Lose { which: prop::sample::Index },
    Cut { epoch: u64 },
}

fn steps() -> impl Strategy<Value = Vec<(u64, f64, Step)>> {
    let outcomes = [Outcome::Success, Outcome::Failure, Outcome::Throttled, Outcome::Ignored];
    let which = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => Just(Step::Admit),
        4 => (which(), prop::sample::select(outcomes.to_vec()), 0u64..30)
            .prop_map(|(which, outcome, took)| Step::Return { which, outcome, took: secs(took) }),
        1 => which().prop_map(|which| Step::Lose { which }),
        1 => (0u64..8).prop_map(|epoch| Step::Cut { epoch }),
    ];
    let gap = prop_oneof![3 => 0u64..200, 1 => 0u64..20_000];
    prop::collection::vec((gap, 0.0f64..1.0, step), 0..200)
}

/// Runs any schedule and checks the rules after each step.
struct Run {
    breaker: LocalBreaker,
    now: Instant,
    held: Vec<(BreakerPermit, Instant)>,
}

impl Run {
    fn new(policy: BreakerPolicy) -> Self {
        Self { breaker: LocalBreaker::new(policy), now: Instant::now(), held: Vec::new() }
    }

    fn play(&mut self, steps: Vec<(u64, f64, Step)>) -> Result<(), TestCaseError> {
        for (gap, draw, step) in steps {
            self.now += ms(gap);
            match step {
                Step::Admit => self.admit()?,
                Step::Return { which, outcome, took } if !self.held.is_empty() => {
                    self.give_back(which.index(self.held.len()), outcome, took, draw)?;
                }
                Step::Lose { which } if !self.held.is_empty() => {
                    drop(self.held.swap_remove(which.index(self.held.len())));
                }
                Step::Cut { epoch } => self.cut(epoch, draw)?,
                Step::Return { .. } | Step::Lose { .. } => {}
            }
            self.check_leases()?;
        }
        Ok(())
    }

    fn admit(&mut self) -> Result<(), TestCaseError> {
        let (said, from, epoch) =
            (self.breaker.would_admit(self.now), self.breaker.kind(), self.breaker.epoch());
        let (admission, moved) = self.breaker.admit(self.now);
        prop_assert_eq!(self.breaker.epoch(), epoch + u64::from(moved.is_some()));
        if let Some(moved) = moved {
            prop_assert_eq!((moved.from, moved.cause), (StateKind::Open, TransitionCause::Elapsed));
        }
        match admission {
            Ok(permit) => {
                let half_open = self.breaker.kind() == StateKind::HalfOpen;
                prop_assert_eq!(permit.is_probe(), half_open && !permit.would_reject());
                if self.breaker.policy().mode == EnforcementMode::Enforce {
                    prop_assert_eq!(said, Ok(()));
                    prop_assert!(from != StateKind::Open || moved.is_some());
                }
                let lease_end = self.now + self.breaker.policy().probe_lease;
                self.held.push((permit, lease_end));
            }
            Err(rejection) => {
                prop_assert_eq!(said, Err(rejection));
                let later = self.now + rejection.retry_after;
                prop_assert_eq!(self.breaker.would_admit(later), Ok(()));
            }
        }
        Ok(())
    }

    fn give_back(
        &mut self,
        which: usize,
        outcome: Outcome,
        took: Duration,
        draw: f64,
    ) -> Result<(), TestCaseError> {
        let (permit, lease_end) = self.held.swap_remove(which);
        let late =
            permit.epoch() != self.breaker.epoch() || (permit.is_probe() && self.now >= lease_end);
        let before = (self.breaker.kind(), self.breaker.epoch(), self.breaker.trips());
        let moved = self.breaker.observe(permit, outcome, took, self.now, draw);
        if late || outcome == Outcome::Ignored {
            prop_assert_eq!(moved, None);
            let after = (self.breaker.kind(), self.breaker.epoch(), self.breaker.trips());
            prop_assert_eq!(before, after);
        }
        self.check_move(moved, before.1)
    }

    fn cut(&mut self, epoch: u64, draw: f64) -> Result<(), TestCaseError> {
        let (kind, before) = (self.breaker.kind(), self.breaker.epoch());
        let moved = self.breaker.observe_interruption(epoch, self.now, draw);
        prop_assert!(moved.is_none() || (epoch == before && kind == StateKind::Closed));
        self.check_move(moved, before)
    }

    fn check_move(
        &self,
        moved: Option<BreakerTransition>,
        before: u64,
    ) -> Result<(), TestCaseError> {
        let Some(moved) = moved else { return Ok(()) };
        prop_assert_eq!((moved.epoch, moved.to), (before + 1, self.breaker.kind()));
        prop_assert_ne!(moved.from, moved.to);
        if let Some(until) = self.breaker.retry_at() {
            let longest = self.breaker.policy().max_recovery_timeout.mul_f64(1.2);
            prop_assert!(until - self.now <= longest);
            prop_assert!(until - self.now >= self.breaker.policy().recovery_timeout.mul_f64(0.8));
        }
        Ok(())
    }

    /// Counts leases independently: permits of this epoch that still keep other probes away.
    fn check_leases(&self) -> Result<(), TestCaseError> {
        let policy = self.breaker.policy();
        let shared = policy.probe_lease.saturating_sub(policy.fast_cap());
        let live = self.held.iter().filter(|(permit, end)| {
            permit.is_probe() && permit.epoch() == self.breaker.epoch() && *end > self.now + shared
        });
        prop_assert!(live.count() <= self.breaker.policy().probes.max(1) as usize);
        Ok(())
    }
}

proptest! {
    #[test]
    fn any_schedule_keeps_the_rules_and_the_endpoint_is_probed_again(
        policy in policies(), steps in steps()
    ) {
        let mut run = Run::new(policy);
        run.play(steps)?;
        // Slow start below 1/s waits ten seconds at most.
        let longest = policy.max_recovery_timeout.mul_f64(1.2).max(policy.probe_lease);
        let admission = run.breaker.admit(run.now + longest.max(secs(10))).0;
        prop_assert!(admission.is_ok());
    }

    #[test]
    fn shadow_rejects_nothing_under_any_schedule(policy in policies(), steps in steps()) {
        let mut shadow = Run::new(BreakerPolicy { mode: EnforcementMode::Shadow, ..policy });
        for step in steps {
            prop_assert_eq!(shadow.breaker.would_admit(shadow.now), Ok(()));
            let (before, is_admit) = (shadow.held.len(), matches!(step.2, Step::Admit));
            shadow.play(vec![step])?;
            prop_assert!(!is_admit || shadow.held.len() == before + 1);
        }
    }

    #[test]
    fn a_breaker_of_a_healthy_endpoint_closes_and_stays_closed(
        policy in policies(), steps in steps()
    ) {
        let mut run = Run::new(policy);
        run.play(steps)?;
        run.held.clear();
        // Each round waits as long as the rejection says, and every attempt succeeds.
        for _ in 0..500 {
            match run.breaker.admit(run.now).0 {
                Err(rejection) => run.now += rejection.retry_after,
                Ok(permit) => {
                    give(&mut run.breaker, permit, Outcome::Success, run.now);
                    run.now += ms(100);
                }
            }
        }
        prop_assert_eq!(run.breaker.kind(), StateKind::Closed);
        prop_assert_eq!(run.breaker.slow_start(run.now), 1.0);
    }
}
