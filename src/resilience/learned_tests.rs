//! Tests of the pace that refusals teach.

use super::*;
use crate::resilience::hold::Hold;
use crate::resilience::strict_tests::{Answer, Figures, Load, Pacer, Provider, Quota, run};
use proptest::prelude::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// So many go, one after the other, from then on.
fn go(learned: &mut Learned, count: u32, every: Duration, from: Instant) -> Instant {
    (0..count).for_each(|n| learned.take(from + every * n));
    from + every * count
}

/// One that goes then is refused.
fn refuse(learned: &mut Learned, now: Instant) {
    learned.take(now);
    learned.refused(now, now + ms(1));
}

/// The rate once the last refusal is reckoned with and the pace is back at it.
fn rate(learned: &Learned, refused: Instant) -> f64 {
    let mut learned = learned.clone();
    let back = refused + ms(1) + Duration::from_secs_f64(BACK_IN);
    learned.take(back);
    learned.rate(back).expect("it is remembered")
}

fn is_about(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 0.03
}

#[test]
fn before_the_first_refusal_nothing_is_held_back() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 1_000, Duration::ZERO, t0);
    assert_eq!((learned.check(now), learned.rate(now)), (Ok(()), None));
}

#[test]
fn the_first_refusal_leaves_a_little_less_than_the_rate_of_the_last_seconds() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    assert!(is_about(learned.rate(now).expect("a rate"), 9.5), "{:?}", learned.rate(now));
    assert!(is_about(rate(&learned, now), 10.0));
}

#[test]
fn what_goes_through_between_two_refusals_is_the_rate() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    // Nothing for a second, then at ten a second what came meanwhile, and what comes: 6 a second.
    let later = go(&mut learned, 14, ms(100), now + secs(1));
    refuse(&mut learned, later);
    assert!(is_about(rate(&learned, later), 14.0 / 2.4), "{}", rate(&learned, later));
}

#[test]
fn ten_in_flight_that_are_all_refused_teach_once() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 160, ms(125), t0);
    refuse(&mut learned, now);
    let mut later = go(&mut learned, 50, ms(20), now + secs(10));
    go(&mut learned, 10, Duration::ZERO, later);
    for _ in 0..10 {
        later += ms(1);
        learned.refused(now + secs(11), later);
    }
    assert!(is_about(rate(&learned, later), 50.0 / 11.0), "{}", rate(&learned, later));
}

#[test]
fn refusals_before_anything_goes_through_teach_nothing() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let mut now = go(&mut learned, 160, ms(125), t0);
    for _ in 0..2 {
        refuse(&mut learned, now);
        now += secs(5);
    }
    assert!(is_about(rate(&learned, now - secs(5)), 8.0), "{}", rate(&learned, now));
    // But what goes through counts from the first of them on: 120 in 25 s.
    let later = go(&mut learned, 120, ms(125), now);
    refuse(&mut learned, later);
    assert!(is_about(rate(&learned, later), 4.8), "{}", rate(&learned, later));
}

#[test]
fn a_quiet_time_does_not_teach_that_the_quota_is_small() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    let later = go(&mut learned, 6, secs(10), now + secs(1));
    let later = go(&mut learned, 150, ms(80), later);
    refuse(&mut learned, later);
    assert!(is_about(rate(&learned, later), 10.0), "{}", rate(&learned, later));
}

#[test]
fn no_refusal_takes_more_than_half_away() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    let later = go(&mut learned, 10, ms(100), now + secs(8));
    refuse(&mut learned, later);
    assert!(is_about(rate(&learned, later), 5.0), "{}", rate(&learned, later));
}

#[test]
fn the_pace_grows_slowly_and_then_faster_and_is_forgotten() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    let shares = [0, 15, 30, 60].map(|age| learned.rate(now + ms(1) + secs(age)).unwrap() / 10.0);
    let expected = [0.95, 1.0, 1.15, 1.75];
    assert!(shares.iter().zip(expected).all(|(share, expected)| is_about(*share, expected)));
    assert_eq!(learned.rate(now + ms(1) + REMEMBERED), None);
    assert_eq!(learned.check(now + ms(1) + REMEMBERED), Ok(()));
}

#[test]
fn after_a_refusal_one_goes_and_the_next_at_the_pace() {
    let (t0, mut learned) = (Instant::now(), Learned::new());
    let now = go(&mut learned, 200, ms(100), t0);
    refuse(&mut learned, now);
    let later = go(&mut learned, 100, ms(100), now);
    refuse(&mut learned, later);
    let again = later + secs(2);
    assert_eq!(learned.check(again), Ok(()));
    learned.take(again);
    let wait = learned.check(again).unwrap_err();
    assert!(wait > ms(95) && wait < ms(110), "{wait:?}");
}

/// As the live side does it: the hold, without its ramp, and the pace.
#[derive(Default)]
struct Paced {
    hold: Hold,
    learned: Learned,
}

impl Pacer for Paced {
    type Ticket = Instant;

    fn admit(&mut self, _: f64, now: Instant) -> Result<Instant, Duration> {
        self.learned.check(now)?;
        self.hold.admit(now)?;
        self.learned.take(now);
        Ok(now)
    }

    fn answered(&mut self, sent: Instant, answer: &Answer, now: Instant, draw: f64) {
        if answer.throttled {
            self.learned.refused(sent, now);
            self.hold.throttled(answer.retry_after, now, draw);
            self.hold.paced();
        } else {
            self.hold.success(now);
        }
    }
}

/// The least used and the most throttled of some runs.
fn worst(provider: Provider, load: Load) -> Figures {
    let runs = (0..5).map(|seed| run(provider, Load { seed, ..load }, &mut Paced::default()));
    runs.reduce(|a, b| Figures {
        used: a.used.min(b.used),
        throttled: a.throttled.max(b.throttled),
        sent: a.sent.min(b.sent),
    })
    .expect("there are runs")
}

/// Each with requests scarce, both, and tokens, of which an attempt takes more or less.
fn each(burst: f64, check: impl Fn(Provider, Load)) {
    let tokens = Quota::bucket(20_000.0, 20_000.0 * burst / 500.0);
    let provider = Provider::of(Quota::bucket(500.0, burst), tokens);
    for tokens in [(10.0, 30.0), (20.0, 60.0), (50.0, 150.0)] {
        check(provider, Load { tokens, ..Load::default() });
    }
}

#[test]
fn a_quota_that_nobody_tells_is_used_up_with_few_refusals() {
    for (burst, least) in [(500.0, 0.97), (60.0, 0.97), (10.0, 0.85)] {
        each(burst, |provider, load| {
            for retry_after in [true, false] {
                let got = worst(Provider { retry_after, ..provider }, load);
                let few = got.throttled_share() < 0.02;
                assert!(got.used >= least && few, "{provider:?} {load:?} {got:?}");
            }
        });
    }
}

#[test]
fn a_quota_that_is_shared_is_too() {
    each(500.0, |provider, load| {
        let got = worst(Provider { others: 0.3, ..provider }, load);
        assert!(got.used >= 0.95 && got.throttled_share() < 0.02, "{load:?} {got:?}");
    });
}

#[test]
fn one_of_answers_that_take_half_a_minute_is_too() {
    each(60.0, |provider, load| {
        let load = Load { in_flight: 400, ..load };
        let got = worst(Provider { took: (secs(5), secs(30)), ..provider }, load);
        assert!(got.used >= 0.95 && got.throttled_share() < 0.02, "{load:?} {got:?}");
    });
}

#[test]
fn one_that_comes_back_once_a_minute_is_too() {
    each(500.0, |provider, load| {
        let (requests, tokens) = (Quota::window(500.0), Quota::window(20_000.0));
        for retry_after in [true, false] {
            let got = worst(Provider { requests, tokens, retry_after, ..provider }, load);
            assert!(got.used >= 0.95 && got.throttled_share() < 0.03, "{load:?} {got:?}");
        }
    });
}

proptest! {
    #[test]
    fn the_wait_ends_and_the_rate_is_none_that_stops_everything(
        steps in prop::collection::vec((0u8..4, 0u64..30_000, 0usize..20), 1..200)
    ) {
        let (mut now, mut learned) = (Instant::now(), Learned::new());
        let mut sent = Vec::new();
        for (action, gap, which) in steps {
            now += ms(if action == 3 { gap } else { gap % 100 });
            match action {
                0 if !sent.is_empty() => {
                    let index = which % sent.len();
                    learned.refused(sent.swap_remove(index), now);
                }
                _ => {
                    learned.take(now);
                    sent.push(now);
                }
            }
            let backlog = sent.len() as f64;
            let rate = learned.rate(now).unwrap_or(1.0);
            prop_assert!(rate >= LEAST_RATE * (1.0 - STEP_BACK) && rate.is_finite());
            if let Err(wait) = learned.check(now) {
                prop_assert!(wait.as_secs_f64() <= (backlog + 300.0) / LEAST_RATE);
                prop_assert_eq!(learned.check(now + wait), Ok(()));
            }
        }
    }

    #[test]
    fn a_strict_bucket_is_known_after_some_refusals(
        quota in 1.0f64..20.0,
        times in 2.0f64..10.0,
        burst in 25.0f64..100.0,
        held in 1.0f64..20.0,
    ) {
        let (mut now, mut learned) = (Instant::now(), Learned::new());
        let (mut level, mut refused) = (quota * burst, Vec::new());
        while refused.len() < 6 {
            let wanted = Duration::from_secs_f64(1.0 / (quota * times));
            let gap = wanted.max(learned.check(now).err().unwrap_or_default());
            now += gap;
            level = (level + quota * gap.as_secs_f64()).min(quota * burst);
            learned.take(now);
            if level >= 1.0 {
                level -= 1.0;
            } else {
                learned.refused(now, now);
                refused.push(now);
                now += Duration::from_secs_f64(held);
                level += quota * held;
            }
        }
        let found = rate(&learned, refused[5] - ms(1));
        prop_assert!((found / quota - 1.0).abs() < 0.25, "{} {}", found, quota);
    }
}
