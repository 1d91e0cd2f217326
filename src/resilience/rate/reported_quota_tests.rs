//! Tests of the quotas that a provider's headers report.

use super::*;
use crate::resilience::limits::hold::Hold;
use crate::resilience::rate::strict_provider_tests::{
    Figures, Load, Pacer, Provider, ProviderReply, Quota, run,
};
use proptest::prelude::*;

/// As the live side does it: the hold, and both quotas.
#[derive(Default)]
struct Paced {
    hold: Hold,
    requests: ReportedQuota,
    tokens: ReportedQuota,
}

impl Pacer for Paced {
    type Ticket = (ChargeMark, ChargeMark);

    fn admit(&mut self, tokens: f64, now: Instant) -> Result<Self::Ticket, Duration> {
        self.requests.check(1.0, now)?;
        self.tokens.check(tokens, now)?;
        self.hold.admit(now)?;
        Ok((self.requests.take(1.0, now), self.tokens.take(tokens, now)))
    }

    fn reply_received(
        &mut self,
        (requests, tokens): Self::Ticket,
        reply: &ProviderReply,
        now: Instant,
        draw: f64,
    ) {
        self.requests.observe(reply.requests, requests, now);
        self.tokens.observe(reply.tokens, tokens, now);
        if reply.throttled {
            self.hold.throttled(reply.retry_after, now, draw);
        } else {
            self.hold.success(now);
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn bucket(limit: f64, remaining: f64, reset: Duration) -> QuotaReport {
    QuotaReport { limit: Some(limit), remaining, reset: Some(reset), refill: Refill::Bucket }
}

fn window(limit: f64, remaining: f64, reset: Duration) -> QuotaReport {
    QuotaReport { refill: Refill::Window, ..bucket(limit, remaining, reset) }
}

fn bare(remaining: f64) -> QuotaReport {
    QuotaReport { limit: None, reset: None, ..window(1.0, remaining, Duration::ZERO) }
}

/// Sends one attempt whose response arrives at once.
fn quota(report: QuotaReport, now: Instant) -> ReportedQuota {
    let mut quota = ReportedQuota::default();
    let mark = quota.take(1.0, now);
    quota.observe(report, mark, now);
    quota
}

fn take(quota: &mut ReportedQuota, attempts: u32, now: Instant) {
    (0..attempts).for_each(|_| {
        quota.take(1.0, now);
    });
}

/// How many single attempts may go now.
fn room(quota: &ReportedQuota, now: Instant) -> usize {
    let mut quota = *quota;
    let mut admit = || quota.check(1.0, now).map(|()| quota.take(1.0, now)).is_ok();
    (0..10_000).take_while(|_| admit()).count()
}

#[test]
fn without_a_report_nothing_is_limited() {
    let (t0, quota) = (Instant::now(), ReportedQuota::default());
    assert_eq!((quota.check(1e9, t0), quota.is_known(t0)), (Ok(()), false));
    assert_eq!((quota.remaining(t0), quota.share_used(t0)), (None, None));
}

#[test]
fn a_bucket_gives_the_remaining_amount_and_then_its_refill() {
    let t0 = Instant::now();
    let mut quota = quota(bucket(60.0, 10.0, secs(50)), t0);
    assert_eq!(room(&quota, t0), 10);
    take(&mut quota, 10, t0);
    // One refills each second; we rely on slightly less.
    let wait = quota.check(1.0, t0).unwrap_err();
    assert!(wait > secs(1) && wait < ms(1_030), "{wait:?}");
    assert_eq!(quota.check(1.0, t0 + wait), Ok(()));
    assert_eq!(room(&quota, t0 + secs(10)), 9);
    assert!(quota.share_used(t0).is_some_and(|share| share > 0.999));
}

#[test]
fn later_attempts_may_not_be_counted_in_a_report() {
    let (t0, mut quota) = (Instant::now(), ReportedQuota::default());
    let mark = quota.take(1.0, t0);
    take(&mut quota, 5, t0 + secs(1));
    quota.observe(bucket(60.0, 20.0, secs(40)), mark, t0 + secs(2));
    assert_eq!(room(&quota, t0 + secs(2)), 15);
}

#[test]
fn attempts_sent_together_may_arrive_in_any_order() {
    let (t0, mut quota) = (Instant::now(), ReportedQuota::default());
    take(&mut quota, 5, t0);
    let mark = quota.take(1.0, t0 + ms(10));
    quota.observe(bucket(60.0, 20.0, secs(40)), mark, t0 + ms(20));
    assert_eq!(room(&quota, t0 + ms(20)), 15);
    // Those sent a second ago have arrived.
    let mark = quota.take(1.0, t0 + secs(1));
    quota.observe(bucket(60.0, 5.0, secs(55)), mark, t0 + secs(1));
    assert_eq!(room(&quota, t0 + secs(1)), 5);
}

#[test]
fn our_count_stands_while_a_report_leaves_it_possible() {
    let t0 = Instant::now();
    let mut quota = quota(bucket(60.0, 10.0, secs(50)), t0);
    let mark = quota.take(1.0, t0 + secs(1));
    take(&mut quota, 4, t0 + secs(2));
    let before = quota.remaining(t0 + secs(3));
    // The report allows 4 to 8; we count just under 8.
    quota.observe(bucket(60.0, 8.0, secs(52)), mark, t0 + secs(3));
    assert_eq!(quota.remaining(t0 + secs(3)).map(f64::round), before.map(f64::round));
}

#[test]
fn use_by_others_shows_in_the_next_report() {
    let t0 = Instant::now();
    let mut quota = quota(bucket(60.0, 40.0, secs(20)), t0);
    let mark = quota.take(1.0, t0 + secs(1));
    quota.observe(bucket(60.0, 3.0, secs(57)), mark, t0 + secs(1));
    assert_eq!(room(&quota, t0 + secs(1)), 3);
}

#[test]
fn an_amount_above_the_limit_goes_when_nothing_is_used() {
    let t0 = Instant::now();
    for report in [bucket(60.0, 30.0, secs(30)), window(60.0, 30.0, secs(30))] {
        let mut quota = quota(report, t0);
        let wait = quota.check(100.0, t0).unwrap_err();
        assert!(wait >= secs(30) && wait < secs(31), "{wait:?}");
        assert_eq!(quota.check(100.0, t0 + wait), Ok(()));
        quota.take(100.0, t0 + wait);
        assert!(quota.check(1.0, t0 + wait).is_err());
    }
}

#[test]
fn a_used_window_gives_nothing_until_its_reset() {
    let t0 = Instant::now();
    let mut quota = quota(window(60.0, 2.0, secs(30)), t0);
    assert_eq!(room(&quota, t0), 2);
    take(&mut quota, 2, t0);
    assert_eq!(quota.check(1.0, t0 + secs(10)), Err(secs(20)));
    assert_eq!(room(&quota, t0 + secs(30)), 60);
    assert_eq!(quota.remaining(t0 + secs(30)), Some(60.0));
}

#[test]
fn a_report_about_the_previous_window_is_ignored() {
    let t0 = Instant::now();
    let mut quota = quota(window(60.0, 2.0, secs(30)), t0);
    let old = quota.take(1.0, t0 + secs(29));
    let new = quota.take(1.0, t0 + secs(30));
    quota.observe(window(60.0, 1.0, secs(1)), old, t0 + secs(31));
    assert_eq!(room(&quota, t0 + secs(31)), 59);
    quota.observe(window(60.0, 49.0, secs(59)), new, t0 + secs(31));
    assert_eq!(room(&quota, t0 + secs(31)), 49);
}

#[test]
fn without_limit_and_reset_one_attempt_a_second_fetches_a_report() {
    let t0 = Instant::now();
    let mut quota = quota(bare(2.0), t0);
    assert_eq!(room(&quota, t0), 2);
    take(&mut quota, 2, t0);
    assert_eq!(quota.check(700.0, t0), Err(secs(1)));
    assert_eq!(quota.check(700.0, t0 + secs(1)), Ok(()));
    let mark = quota.take(700.0, t0 + secs(1));
    assert_eq!(quota.check(1.0, t0 + secs(1)), Err(secs(1)));
    quota.observe(bare(30.0), mark, t0 + ms(1_500));
    assert_eq!(room(&quota, t0 + ms(1_500)), 30);
    assert_eq!(quota.share_used(t0 + ms(1_500)), None);
}

#[test]
fn an_expired_but_used_window_gets_another_attempt() {
    let t0 = Instant::now();
    let quota = quota(window(60.0, 0.0, Duration::ZERO), t0);
    assert_eq!(quota.check(1.0, t0), Err(secs(1)));
    assert_eq!(room(&quota, t0 + secs(1)), 1);
}

#[test]
fn no_report_blocks_a_provider_for_longer_than_two_hours() {
    let t0 = Instant::now();
    let mut year = quota(window(60.0, 0.0, Duration::MAX), t0);
    assert_eq!(year.check(1.0, t0), Err(secs(3_600)));
    year.take(1.0, t0 + secs(3_600));
    assert_eq!(year.check(1.0, t0 + secs(3_600)), Err(secs(3_600)));
    let slow = quota(bucket(60.0, 0.0, Duration::MAX), t0);
    assert_eq!(slow.check(1.0, t0), Err(secs(7_200)));
}

#[test]
fn a_bucket_that_fills_in_a_day_gives_one_each_quarter_of_an_hour() {
    let t0 = Instant::now();
    let quota = quota(bucket(100.0, 0.0, secs(86_400)), t0);
    let wait = quota.check(1.0, t0).unwrap_err();
    assert!(wait > secs(864) && wait < secs(890), "{wait:?}");
}

#[test]
fn a_report_is_forgotten_a_while_after_its_reset() {
    let t0 = Instant::now();
    let quick = quota(bucket(60.0, 0.0, secs(10)), t0);
    assert!(quick.is_known(t0 + secs(69)) && !quick.is_known(t0 + secs(70)));
    let mut slow = quota(window(60.0, 0.0, secs(3_600)), t0);
    slow.take(1.0, t0 + secs(3_600));
    assert!(slow.is_known(t0 + secs(7_199)) && !slow.is_known(t0 + secs(7_200)));
    assert_eq!(slow.check(1e9, t0 + secs(7_200)), Ok(()));
}

#[test]
fn unsent_attempts_are_returned() {
    let t0 = Instant::now();
    for report in [bucket(60.0, 10.0, secs(50)), window(60.0, 10.0, secs(50))] {
        let mut quota = quota(report, t0);
        quota.take(4.0, t0);
        quota.give_back(4.0, t0);
        assert_eq!(room(&quota, t0), 10);
        quota.give_back(1e9, t0);
        assert_eq!(room(&quota, t0), 60);
    }
}

#[test]
fn a_full_bucket_is_assumed_to_refill_within_a_minute() {
    let t0 = Instant::now();
    let mut quota = quota(bucket(60.0, 60.0, Duration::ZERO), t0);
    quota.take(60.0, t0);
    let wait = quota.check(1.0, t0).unwrap_err();
    assert!(wait >= secs(1) && wait < ms(1_100), "{wait:?}");
}

#[test]
fn an_invalid_report_is_ignored() {
    let t0 = Instant::now();
    for odd in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(!quota(bucket(60.0, odd, secs(1)), t0).is_known(t0));
        assert!(!quota(window(odd, 1.0, secs(1)), t0).is_known(t0));
    }
    assert!(!quota(bucket(0.0, 0.0, secs(1)), t0).is_known(t0));
}

/// The least used and the most throttled of some runs.
fn worst(provider: Provider, load: Load) -> Figures {
    let runs = (0..5).map(|seed| run(provider, Load { seed, ..load }, &mut Paced::default()));
    runs.reduce(|a, b| Figures {
        used: a.used.min(b.used),
        throttled: a.throttled.max(b.throttled),
        ..a
    })
    .expect("there are runs")
}

/// 500 requests and 20,000 tokens a minute, with this burst of requests.
fn a_bucket_of(burst: f64) -> Provider {
    let tokens = Quota::bucket(20_000.0, 20_000.0 * burst / 500.0);
    Provider::of(Quota::bucket(500.0, burst), tokens)
}

fn each_load(check: impl Fn(Load)) {
    // Requests are scarce, both are, tokens are.
    for tokens in [(10.0, 30.0), (20.0, 60.0), (50.0, 150.0)] {
        check(Load { tokens, ..Load::default() });
    }
}

#[test]
fn twice_the_load_uses_a_strict_bucket_without_exceeding_it() {
    let second = secs(1);
    for burst in [500.0, 60.0] {
        each_load(|load| {
            let exact = a_bucket_of(burst);
            let late = Provider { late_headers: true, ..exact };
            for provider in [exact, late, Provider { reset_step: second, ..exact }] {
                let got = worst(provider, load);
                assert!(got.used >= 0.98 && got.throttled == 0, "{provider:?} {load:?} {got:?}");
            }
        });
    }
}

#[test]
fn slow_responses_waste_little_of_a_bucket() {
    for burst in [500.0, 60.0] {
        each_load(|load| {
            let provider = Provider { took: (secs(5), secs(30)), ..a_bucket_of(burst) };
            let got = worst(provider, Load { in_flight: 400, ..load });
            // At first nothing is known, and all attempts go.
            let few = got.throttled_share() <= 0.006;
            assert!(got.used >= 0.95 && few, "{provider:?} {load:?} {got:?}");
        });
    }
}

#[test]
fn a_strict_window_is_used_without_exceeding_it() {
    let provider = Provider::of(Quota::window(500.0), Quota::window(20_000.0));
    each_load(|load| {
        for provider in [provider, Provider { late_headers: true, ..provider }] {
            let got = worst(provider, load);
            assert!(got.used >= 0.98 && got.throttled == 0, "{load:?} {got:?}");
        }
    });
}

#[test]
fn without_limit_and_reset_little_is_wasted() {
    each_load(|load| {
        let got = worst(Provider { bare: true, ..a_bucket_of(500.0) }, load);
        assert!(got.used >= 0.98 && got.throttled == 0, "{load:?} {got:?}");
    });
}

#[test]
fn a_shared_quota_is_used_with_few_rejections() {
    each_load(|load| {
        let got = worst(Provider { others: 0.3, ..a_bucket_of(500.0) }, load);
        assert!(got.used >= 0.95 && got.throttled_share() <= 0.03, "{load:?} {got:?}");
    });
}

fn any_report() -> impl Strategy<Value = QuotaReport> {
    let number = prop_oneof![
        8 => 0.0f64..1_000.0,
        1 => Just(0.0),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::MAX, 1e-300, -1.0]),
    ];
    let reset = prop_oneof![8 => 0u64..100_000, 1 => Just(0), 1 => Just(u64::MAX)];
    let limit = prop::option::weighted(0.8, number.clone());
    let reset = prop::option::weighted(0.8, reset.prop_map(Duration::from_millis));
    let kinds = vec![Refill::Bucket, Refill::Window];
    (limit, number, reset, prop::sample::select(kinds)).prop_map(
        |(limit, remaining, reset, refill)| QuotaReport { limit, remaining, reset, refill },
    )
}

proptest! {
    #[test]
    fn for_any_report_the_wait_is_exact_and_finite(
        steps in prop::collection::vec((any_report(), 0u8..4, 0u64..5_000, 0.0f64..50.0, 0usize..9), 1..60)
    ) {
        let (mut now, mut quota) = (Instant::now() + secs(100), ReportedQuota::default());
        let mut marks = Vec::new();
        for (report, action, gap, amount, which) in steps {
            now += ms(gap);
            match action {
                0 if !marks.is_empty() => {
                    quota.observe(report, marks.remove(which % marks.len()), now);
                }
                1 => quota.give_back(amount, now),
                _ => marks.push(quota.take(amount, now - ms(gap / 3))),
            }
            if let Err(wait) = quota.check(amount, now) {
                prop_assert_eq!(quota.check(amount, now + wait), Ok(()));
                prop_assert!(quota.check(amount, now + wait - Duration::from_nanos(1)).is_err());
            }
            prop_assert!(quota.share_used(now).is_none_or(|share| (0.0..=1.0).contains(&share)));
            prop_assert!(!quota.is_known(now + LONGEST_RESET * 2));
        }
    }

    #[test]
    fn no_more_goes_than_a_single_report_leaves(
        limit in 1.0f64..1_000.0,
        share in 0.0f64..1.0,
        reset_ms in 1u64..100_000,
        amounts in prop::collection::vec((0u64..2_000, 0.0f64..20.0), 1..100),
    ) {
        let t0 = Instant::now();
        let report = bucket(limit, limit * share, ms(reset_ms));
        let (mut now, mut quota, mut taken) = (t0, quota(report, t0), 0.0);
        for (gap, amount) in amounts {
            now += ms(gap);
            if amount <= limit && quota.check(amount, now).is_ok() {
                quota.take(amount, now);
                taken += amount;
            }
            let refill = (limit - report.remaining) / ms(reset_ms).as_secs_f64();
            let came = refill * (now - t0).as_secs_f64();
            prop_assert!(!quota.is_known(now) || taken <= report.remaining + came + 1e-6);
        }
    }
}
