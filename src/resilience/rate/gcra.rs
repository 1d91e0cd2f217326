//! Rate limit: whether an amount may be taken now, and if not, when.
//!
//! GCRA (ITU-T I.371), the token bucket kept as one instant: `full_at`, when everything taken
//! will have come back. Taking moves it on by `amount / rate`; there is room while it is at
//! most `(burst - amount) / rate` ahead of now. So over any span of `t` seconds at most
//! `rate * t + burst` is taken, and since time is counted in whole nanoseconds, the wait that a
//! rejection names is exact: a caller that waits that long succeeds, one nanosecond less and
//! it does not.
//!
//! - An amount above the burst would never fit. It is admitted when the bucket is full and
//!   leaves a debt, which is paid off before anything else is admitted.
//! - The cost of an attempt is often known only afterwards (tokens): [`Gcra::settle`] corrects
//!   the estimate, into debt if needed, and never above the burst.
//! - A clock that steps back lengthens a wait, by the step at most, and loses nothing.

use std::time::{Duration, Instant};

/// A timer may be late by this much; the burst makes up for it.
const LATE: Duration = Duration::from_millis(5);
const SLOWEST: f64 = 1e-6;
const FASTEST: f64 = 1e12;
/// Longest debt, so that every sum fits into an `Instant`.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePolicy {
    /// Per second; above 0.
    pub rate: f64,
    /// Available at once; at least 1.
    pub burst: f64,
}

/// One bucket: of requests, or of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gcra {
    policy: RatePolicy,
    /// When the whole burst is available again; none: nothing was taken yet.
    full_at: Option<Instant>,
}

impl RatePolicy {
    /// Adds slack for late timers; without it a burst of one would lose each timer's delay
    /// for good.
    pub fn with_slack(self) -> Self {
        Self { burst: self.burst + self.rate * LATE.as_secs_f64(), ..self }
    }

    /// Replaces numbers that no bucket can work with.
    pub(crate) fn sound(self) -> Self {
        let rate = if self.rate > SLOWEST { self.rate.min(FASTEST) } else { SLOWEST };
        Self { rate, burst: self.burst.max(1.0).min(rate * LONGEST.as_secs_f64()) }
    }

    /// The time in which this amount comes back.
    fn time_for(&self, amount: f64) -> Duration {
        let seconds = amount.max(0.0) / self.rate;
        Duration::try_from_secs_f64(seconds).map_or(LONGEST, |time| time.min(LONGEST))
    }
}

impl Gcra {
    /// A full bucket.
    pub fn new(policy: RatePolicy) -> Self {
        Self { policy: policy.sound(), full_at: None }
    }

    pub fn policy(&self) -> RatePolicy {
        self.policy
    }

    /// Takes another policy; what was taken stays taken.
    pub fn retune(&mut self, policy: RatePolicy, now: Instant) {
        let used = self.used(now);
        self.policy = policy.sound();
        self.full_at = Some(now + self.policy.time_for(used));
    }

    /// Whether this amount may be taken now. Nothing changes.
    ///
    /// # Errors
    /// The time until it may, if nothing else is taken.
    pub fn check(&self, amount: f64, now: Instant) -> Result<(), Duration> {
        let lead = self.policy.time_for(self.policy.burst - amount);
        match self.until_full(now).saturating_sub(lead) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Takes this amount, available or not: what is missing becomes debt.
    pub fn take(&mut self, amount: f64, now: Instant) {
        let until_full = self.until_full(now).saturating_add(self.policy.time_for(amount));
        self.full_at = Some(now + until_full.min(LONGEST));
    }

    /// Returns an amount that was taken but not used.
    pub fn give_back(&mut self, amount: f64, now: Instant) {
        let until_full = self.until_full(now).saturating_sub(self.policy.time_for(amount));
        self.full_at = Some(now + until_full);
    }

    /// Corrects an amount that was taken as `estimated` to `actual`.
    pub fn settle(&mut self, estimated: f64, actual: f64, now: Instant) {
        if actual > estimated {
            self.take(actual - estimated, now);
        } else {
            self.give_back(estimated - actual, now);
        }
    }

    /// The amount available at once; below 0 in debt.
    pub fn available(&self, now: Instant) -> f64 {
        self.policy.burst - self.used(now)
    }

    /// The used share of the burst, from 0 to 1.
    pub fn share_used(&self, now: Instant) -> f64 {
        (self.used(now) / self.policy.burst).min(1.0)
    }

    /// The amount that was taken and has not come back.
    pub fn used(&self, now: Instant) -> f64 {
        self.until_full(now).as_secs_f64() * self.policy.rate
    }

    fn until_full(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RatePolicy = RatePolicy { rate: 10.0, burst: 5.0 };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn admit(limit: &mut Gcra, amount: f64, now: Instant) -> Result<(), Duration> {
        limit.check(amount, now).map(|()| limit.take(amount, now))
    }

    #[test]
    fn the_burst_is_available_at_once_and_then_the_rate() {
        let (t0, mut limit) = (Instant::now(), Gcra::new(POLICY));
        assert!((0..5).all(|_| admit(&mut limit, 1.0, t0).is_ok()));
        assert_eq!(admit(&mut limit, 1.0, t0), Err(ms(100)));
        assert_eq!(limit.share_used(t0), 1.0);
        assert_eq!(admit(&mut limit, 1.0, t0 + ms(100)), Ok(()));
        assert_eq!(admit(&mut limit, 1.0, t0 + ms(150)), Err(ms(50)));
        assert!((0..5).all(|_| admit(&mut limit, 1.0, t0 + ms(9_000)).is_ok()));
        assert_eq!(admit(&mut limit, 1.0, t0 + ms(9_000)), Err(ms(100)));
    }

    #[test]
    fn an_amount_above_the_burst_leaves_a_debt() {
        let (t0, mut limit) = (Instant::now(), Gcra::new(POLICY));
        limit.take(1.0, t0);
        assert_eq!(limit.check(20.0, t0), Err(ms(100)));
        assert_eq!(admit(&mut limit, 20.0, t0 + ms(100)), Ok(()));
        assert_eq!(limit.available(t0 + ms(100)), -15.0);
        assert_eq!(limit.share_used(t0 + ms(100)), 1.0);
        assert_eq!(limit.check(1.0, t0 + ms(100)), Err(ms(1_600)));
    }

    #[test]
    fn settling_corrects_the_estimate_either_way() {
        let (t0, mut limit) = (Instant::now(), Gcra::new(POLICY));
        limit.take(2.0, t0);
        limit.settle(2.0, 8.0, t0);
        assert_eq!(limit.available(t0), -3.0);
        limit.settle(6.0, 1.0, t0);
        assert_eq!(limit.available(t0), 2.0);
        limit.give_back(100.0, t0);
        assert_eq!((limit.available(t0), limit.share_used(t0)), (5.0, 0.0));
    }

    #[test]
    fn a_full_bucket_keeps_nothing_extra() {
        let (t0, mut limit) = (Instant::now(), Gcra::new(POLICY));
        limit.take(5.0, t0);
        limit.give_back(5.0, t0 + ms(60_000));
        assert!((0..5).all(|_| admit(&mut limit, 1.0, t0 + ms(60_000)).is_ok()));
        assert!(admit(&mut limit, 1.0, t0 + ms(60_000)).is_err());
    }

    #[test]
    fn retuning_keeps_the_amount_taken() {
        let (t0, mut limit) = (Instant::now(), Gcra::new(POLICY));
        limit.take(4.0, t0);
        limit.retune(RatePolicy { rate: 1.0, burst: 10.0 }, t0);
        assert_eq!(limit.available(t0), 6.0);
        limit.retune(RatePolicy { rate: 1.0, burst: 1.0 }, t0);
        assert_eq!((limit.available(t0), limit.check(1.0, t0)), (-3.0, Err(ms(4_000))));
    }

    #[test]
    fn odd_numbers_neither_block_for_ever_nor_panic() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MAX, 1e-300];
        for (rate, burst) in odd.into_iter().flat_map(|rate| odd.map(|burst| (rate, burst))) {
            let (t0, mut limit) = (Instant::now(), Gcra::new(RatePolicy { rate, burst }));
            for amount in odd {
                let _ = limit.check(amount, t0);
                limit.take(amount, t0);
                limit.settle(amount, 1.0, t0 + ms(1));
                limit.retune(RatePolicy { rate, burst }, t0);
                assert!((0.0..=1.0).contains(&limit.share_used(t0)), "{rate} {burst} {amount}");
                assert!(limit.available(t0).is_finite(), "{rate} {burst} {amount}");
            }
            limit.give_back(f64::MAX, t0);
            assert_eq!(limit.check(1.0, t0), Ok(()), "{rate} {burst}");
        }
    }

    proptest! {
        #[test]
        fn no_span_takes_more_than_the_rate_and_one_burst_or_larger_amount(
            rate in 0.1f64..1_000.0,
            burst in 1.0f64..100.0,
            steps in prop::collection::vec((0u64..1_000, 0u64..300, 0.0f64..150.0), 1..200),
        ) {
            let mut now = Instant::now() + ms(100_000);
            let (mut limit, mut taken) = (Gcra::new(RatePolicy { rate, burst }), Vec::new());
            for (forth, back, amount) in steps {
                now = now + ms(forth) - ms(back);
                if admit(&mut limit, amount, now).is_ok() {
                    taken.push((now, amount));
                }
            }
            let (last, _) = *taken.last().unwrap_or(&(now, 0.0));
            let (mut sum, mut largest) = (0.0, burst);
            for (at, amount) in taken.into_iter().rev() {
                sum += amount;
                largest = amount.max(largest);
                let span = last.saturating_duration_since(at).as_secs_f64();
                prop_assert!(sum <= rate * span + largest + 1e-4);
            }
        }

        #[test]
        fn the_named_wait_is_exact(
            rate in 1e-3f64..1e7,
            burst in 1.0f64..1e6,
            steps in prop::collection::vec((0u64..2_000_000, 0.0f64..2.0), 1..100),
        ) {
            let (mut now, mut limit) = (Instant::now(), Gcra::new(RatePolicy { rate, burst }));
            for (micros, share) in steps {
                let amount = share * burst;
                if let Err(wait) = limit.check(amount, now) {
                    let nano = Duration::from_nanos(1);
                    prop_assert!(limit.check(amount, now + wait - nano).is_err());
                    prop_assert_eq!(limit.check(amount, now + wait), Ok(()));
                }
                limit.take(amount, now);
                now += Duration::from_micros(micros);
            }
        }

        #[test]
        fn settling_neither_loses_nor_creates(
            rate in 1.0f64..1_000.0,
            steps in prop::collection::vec((0u64..20, 0.0f64..50.0, 0.0f64..50.0), 1..100),
        ) {
            // Enough was taken before that the bucket never fills up.
            let before = 10.0 * rate;
            let t0 = Instant::now();
            let (mut now, mut limit) = (t0, Gcra::new(RatePolicy { rate, burst: 10.0 }));
            limit.take(before, now);
            let (mut open, mut sum) = (Vec::new(), before);
            for (gap, estimated, actual) in steps {
                now += ms(gap);
                limit.take(estimated, now);
                open.push((estimated, actual));
                sum += actual;
                if open.len() > 7 {
                    let (estimated, actual) = open.remove(3);
                    limit.settle(estimated, actual, now);
                }
            }
            open.into_iter().for_each(|(estimated, actual)| limit.settle(estimated, actual, now));
            let expected = 10.0 - sum + rate * (now - t0).as_secs_f64();
            prop_assert!((limit.available(now) - expected).abs() < 1e-3);
        }

        #[test]
        fn never_more_than_the_burst_is_available(
            steps in prop::collection::vec((0u8..5, 0u64..500, 0.0f64..20.0), 1..100)
        ) {
            let (mut now, mut limit, mut burst) = (Instant::now(), Gcra::new(POLICY), POLICY.burst);
            for (action, gap, amount) in steps {
                now += ms(gap);
                let before = limit.available(now);
                match action {
                    0 => limit.give_back(amount, now),
                    1 => limit.settle(amount, 20.0 - amount, now),
                    2 => {
                        let policy = RatePolicy { rate: 1.0 + amount, burst: 21.0 - amount };
                        limit.retune(policy, now);
                        prop_assert!((policy.burst - limit.available(now) - (burst - before)).abs() < 1e-6);
                        burst = policy.burst;
                    }
                    _ => limit.take(amount, now),
                }
                prop_assert!(limit.available(now) <= burst);
                prop_assert!((0.0..=1.0).contains(&limit.share_used(now)));
            }
        }
    }
}
