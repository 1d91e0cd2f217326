//! Tests of the hold.

use super::*;
use proptest::prelude::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Throttles without Retry-After, each at the end of the previous hold; the length of each
/// hold.
fn pauses(hold: &mut Hold, mut now: Instant, draw: f64, n: usize) -> Vec<Duration> {
    let mut next = || {
        let begun = now;
        now = hold.throttled(None, begun, draw);
        now - begun
    };
    (0..n).map(|_| next()).collect()
}

fn end_of(hold: &Hold) -> Option<Instant> {
    match hold.state {
        State::Held { until, .. } => Some(until),
        State::Free | State::SlowStart(_) => None,
    }
}

#[test]
fn a_hold_lasts_for_retry_after() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    assert_eq!(hold.throttled(Some(secs(30)), t0, 0.0), t0 + secs(30));
    assert_eq!(hold.check(t0 + secs(29)), Err(secs(1)));
    assert_eq!(hold.admit(t0 + secs(29)), Err(secs(1)));
    assert_eq!(hold.admit(t0 + secs(30)), Ok(()));
}

#[test]
fn jitter_lengthens_by_up_to_half() {
    let t0 = Instant::now();
    assert_eq!(Hold::default().throttled(Some(secs(10)), t0, 0.5), t0 + secs(12) + secs(1) / 2);
    assert_eq!(Hold::default().throttled(Some(secs(10)), t0, 1.0), t0 + secs(15));
}

#[test]
fn an_absurd_retry_after_counts_as_five_minutes() {
    let t0 = Instant::now();
    assert_eq!(Hold::default().throttled(Some(Duration::MAX), t0, 0.0), t0 + secs(300));
}

#[test]
fn a_shorter_hold_does_not_end_a_longer_one() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    hold.throttled(Some(secs(30)), t0, 0.0);
    assert_eq!(hold.throttled(Some(secs(5)), t0 + secs(1), 0.0), t0 + secs(30));
    assert_eq!(end_of(&hold), Some(t0 + secs(30)));
}

#[test]
fn without_retry_after_it_doubles_from_one_second_to_sixty() {
    let lengths = pauses(&mut Hold::default(), Instant::now(), 0.0, 8);
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60].map(secs));
}

#[test]
fn jitter_stays_at_the_cap() {
    let t0 = Instant::now();
    let ends = [0.0, 0.5, 0.999].map(|draw| pauses(&mut Hold::default(), t0, draw, 9)[8]);
    assert!(ends[0] == secs(60) && ends[1] == secs(75) && ends[2] > secs(89), "{ends:?}");
}

#[test]
fn a_retry_after_of_zero_is_ignored() {
    let t0 = Instant::now();
    assert_eq!(Hold::default().throttled(Some(Duration::ZERO), t0, 0.0), t0 + secs(1));
}

#[test]
fn attempts_throttled_together_double_once() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    (0..10).for_each(|_| {
        hold.throttled(None, t0, 0.0);
    });
    assert_eq!(end_of(&hold), Some(t0 + secs(1)));
    let t1 = t0 + secs(1);
    assert_eq!(hold.throttled(None, t1, 0.0), t1 + secs(2));
}

#[test]
fn a_success_restarts_the_doubling() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    pauses(&mut hold, t0, 0.0, 5);
    let later = t0 + secs(100);
    hold.success(later);
    assert_eq!(hold.throttled(None, later, 0.0), later + secs(1));
}

#[test]
fn a_success_during_the_hold_changes_nothing() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    let until = hold.throttled(None, t0, 0.0);
    hold.success(t0);
    assert_eq!(hold.throttled(None, until, 0.0), until + secs(2));
}

#[test]
fn a_401_holds_the_credential_for_ten_minutes_at_once() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    assert_eq!(hold.credential(401, t0), Some(t0 + secs(600)));
    assert_eq!(hold.reason(), Some(HoldReason::Credential));
    assert_eq!(hold.check(t0), Err(secs(600)));
}

#[test]
fn a_402_and_a_403_hold_after_three_in_a_row() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    assert_eq!(hold.credential(403, t0), None);
    assert_eq!(hold.credential(402, t0), None);
    assert_eq!(hold.admit(t0), Ok(()));
    hold.success(t0);
    assert_eq!(hold.credential(403, t0), None);
    assert_eq!(hold.credential(403, t0), None);
    assert_eq!(hold.credential(402, t0), Some(t0 + secs(600)));
    // Three more after the hold.
    let t1 = t0 + secs(600);
    assert_eq!([403, 403].map(|status| hold.credential(status, t1)), [None, None]);
    assert_eq!(hold.credential(403, t1), Some(t1 + secs(600)));
}

#[test]
fn a_used_up_quota_holds_after_three_in_a_row() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    assert_eq!([429, 400].map(|status| hold.credential(status, t0)), [None, None]);
    assert_eq!(hold.credential(429, t0), Some(t0 + secs(600)));
}

#[test]
fn a_credential_hold_outlasts_a_throttle_and_keeps_its_reason() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    hold.credential(401, t0);
    hold.throttled(Some(secs(5)), t0, 0.0);
    assert_eq!(
        (hold.reason(), end_of(&hold)),
        (Some(HoldReason::Credential), Some(t0 + secs(600)))
    );
}

#[test]
fn slow_start_follows_the_rate_before_the_hold() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    for n in 0..500 {
        assert_eq!(hold.admit(t0 + Duration::from_millis(n * 20)), Ok(()));
    }
    let until = hold.throttled(Some(secs(20)), t0 + secs(10), 0.0);
    assert!((0..3).all(|_| hold.admit(until) == Ok(())));
    let wait = hold.check(until).unwrap_err();
    // 50/s starts at 5/s.
    assert!(wait > Duration::from_millis(150) && wait < Duration::from_millis(210), "{wait:?}");
    assert_eq!((end_of(&hold), hold.reason()), (None, None));
    assert!((0..100).all(|_| hold.admit(until + secs(10)).is_ok()));
}

#[test]
fn slow_start_begins_when_the_hold_ends() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    let until = hold.throttled(None, t0, 0.0);
    assert!((0..100).all(|_| hold.admit(until + secs(10)).is_ok()));
}

#[test]
fn a_throttle_during_slow_start_keeps_the_previous_rate() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    for n in 0..500 {
        assert_eq!(hold.admit(t0 + Duration::from_millis(n * 20)), Ok(()));
    }
    let first = hold.throttled(Some(secs(60)), t0 + secs(10), 0.0);
    assert_eq!(hold.admit(first), Ok(()));
    let second = hold.throttled(None, first, 0.0);
    assert!((0..3).all(|_| hold.admit(second) == Ok(())));
    assert!(hold.check(second).unwrap_err() < Duration::from_millis(210));
}

#[test]
fn the_first_attempts_after_a_hold_of_a_quiet_endpoint_go_at_once() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    assert_eq!(hold.admit(t0), Ok(()));
    let until = hold.throttled(Some(secs(2)), t0, 0.0);
    assert!((0..3).all(|_| hold.admit(until) == Ok(())));
    assert!(hold.check(until).unwrap_err() < Duration::from_millis(1100));
    assert_eq!(hold.admit(until + secs(2)), Ok(()));
}

#[test]
fn a_cleared_hold_admits_everything() {
    let (t0, mut hold) = (Instant::now(), Hold::default());
    hold.credential(401, t0);
    hold.clear();
    assert!((0..100).all(|_| hold.admit(t0) == Ok(())));
    assert_eq!((end_of(&hold), hold.reason()), (None, None));
}

proptest! {
    #[test]
    fn a_hold_is_never_shorter_than_retry_after_and_always_ends(
        steps in prop::collection::vec((0u8..6, 0u64..400, 0u64..90_000, 0.0f64..1.0), 1..100)
    ) {
        let (mut now, mut hold) = (Instant::now(), Hold::default());
        let mut earliest = now;
        for (action, retry_after, gap, draw) in steps {
            now += Duration::from_millis(gap);
            match action {
                0 => {
                    let until = hold.throttled(Some(secs(retry_after)), now, draw);
                    prop_assert!(until <= now + secs(600));
                    earliest = earliest.max(now + secs(retry_after.min(300)));
                }
                1 => earliest = earliest.max(hold.throttled(None, now, draw)),
                2 => earliest = earliest.max(hold.credential(403, now).unwrap_or(earliest)),
                3 => hold.success(now),
                _ => {
                    let said = hold.check(now);
                    prop_assert_eq!(hold.admit(now), said);
                    prop_assert!(said.is_err() || now >= earliest);
                    if let Err(wait) = said {
                        prop_assert_eq!(hold.check(now + wait), Ok(()));
                    }
                }
            }
        }
        prop_assert_eq!(hold.check(now + secs(600)), Ok(()));
    }
}
