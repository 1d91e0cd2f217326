//! A ring of time buckets: the basis of every sliding window.
//!
//! Each bucket has a value of type `T`. The current bucket is still filling, so the ring covers
//! between `N - 1` and `N` bucket widths, never more. As time moves on, the oldest slots are reused
//! for new buckets: their values are reset then, or left out by a read that changes nothing.
//!
//! Buckets are numbered from the first `advance`. A `now` before the current bucket (two
//! threads read the clock, then raced for the lock) counts in the current one.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBuckets<T, const N: usize> {
    width_nanos: u64,
    /// When bucket 0 began; none before the first.
    origin: Option<Instant>,
    /// Number of the current bucket.
    head: u64,
    /// When the current bucket ends; none before the first, or if that is no time.
    head_end: Option<Instant>,
    slots: [T; N],
}

impl<T: Default, const N: usize> TimeBuckets<T, N> {
    pub fn new(width: Duration) -> Self {
        let slots = std::array::from_fn(|_| T::default());
        Self { width_nanos: nanos(width).max(1), origin: None, head: 0, head_end: None, slots }
    }

    /// Advances to `now`, and passes each value whose time is over to `expire`. Returns the
    /// current bucket.
    #[inline]
    pub fn advance(&mut self, now: Instant, expire: impl FnMut(T)) -> &mut T {
        if self.head_end.is_none_or(|end| now >= end) {
            self.advance_head(now, expire);
        }
        &mut self.slots[slot::<N>(self.head)]
    }

    fn advance_head(&mut self, now: Instant, mut expire: impl FnMut(T)) {
        let origin = *self.origin.get_or_insert(now);
        let number = self.number(now);
        for slot in slots_between::<N>(self.head, number) {
            expire(std::mem::take(&mut self.slots[slot]));
        }
        self.head = number;
        let end = Duration::from_nanos(self.width_nanos.saturating_mul(number.saturating_add(1)));
        self.head_end = origin.checked_add(end);
    }

    /// Values whose time is over at `now`.
    pub fn expired(&self, now: Instant) -> impl Iterator<Item = &T> {
        slots_between::<N>(self.head, self.number(now)).map(|slot| &self.slots[slot])
    }

    /// All other values, the oldest first.
    pub fn current(&self, now: Instant) -> impl Iterator<Item = &T> {
        let passed = (self.number(now) - self.head).min(N as u64);
        (passed + 1..=N as u64).map(|step| &self.slots[slot::<N>(self.head + step)])
    }

    /// All values, in no order.
    pub fn all(&self) -> &[T; N] {
        &self.slots
    }

    /// The newest bucket that fulfils a condition.
    pub fn newest(&mut self, fulfils: impl Fn(&T) -> bool) -> Option<&mut T> {
        let slots = (1..=N as u64).rev().map(|step| slot::<N>(self.head + step));
        let found = slots.into_iter().find(|slot| fulfils(&self.slots[*slot]))?;
        Some(&mut self.slots[found])
    }

    /// The time that the buckets cover at `now`; less while they are young.
    pub fn reach(&self, now: Instant) -> Duration {
        let Some(origin) = self.origin else { return Duration::ZERO };
        let elapsed = nanos(now.saturating_duration_since(origin));
        let whole = self.width_nanos.saturating_mul(N as u64 - 1);
        Duration::from_nanos(elapsed.min(whole.saturating_add(elapsed % self.width_nanos)))
    }

    /// Changes the width as of the current bucket, which gets the value `all`. The others are
    /// reset.
    pub fn resize(&mut self, width: Duration, all: T) {
        let passed = Duration::from_nanos(self.width_nanos.saturating_mul(self.head));
        let origin = self.origin.and_then(|origin| origin.checked_add(passed));
        *self = Self { origin, ..Self::new(width) };
        self.slots[0] = all;
    }

    fn number(&self, now: Instant) -> u64 {
        let elapsed = self.origin.map(|origin| now.saturating_duration_since(origin));
        (nanos(elapsed.unwrap_or_default()) / self.width_nanos).max(self.head)
    }
}

fn slot<const N: usize>(number: u64) -> usize {
    (number % N as u64) as usize
}

/// Slots of the buckets after `head`, up to this one.
fn slots_between<const N: usize>(head: u64, number: u64) -> impl Iterator<Item = usize> {
    (1..=(number - head).min(N as u64)).map(move |step| slot::<N>(head + step))
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTH: Duration = Duration::from_millis(100);

    /// Puts `value` into the current bucket. Returns the values that expired.
    fn put(buckets: &mut TimeBuckets<u32, 3>, value: u32, now: Instant) -> Vec<u32> {
        let mut expired = Vec::new();
        *buckets.advance(now, |value| expired.push(value)) += value;
        expired
    }

    #[test]
    fn each_bucket_reuses_the_oldest_slot() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::new(WIDTH));
        assert!(put(&mut buckets, 1, t0).is_empty());
        assert_eq!(put(&mut buckets, 2, t0 + WIDTH), [0]);
        assert_eq!(put(&mut buckets, 3, t0 + WIDTH * 3), [0, 1]);
        assert_eq!(buckets.current(t0 + WIDTH * 3).collect::<Vec<_>>(), [&2, &0, &3]);
        assert_eq!(buckets.current(t0 + WIDTH * 4).collect::<Vec<_>>(), [&0, &3]);
        assert_eq!(buckets.newest(|value| *value == 2), Some(&mut 2));
        assert_eq!(put(&mut buckets, 4, t0 + WIDTH * 1_000), [2, 0, 3]);
    }

    #[test]
    fn an_older_now_counts_in_the_current_bucket() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::new(WIDTH));
        put(&mut buckets, 1, t0);
        put(&mut buckets, 2, t0 + WIDTH * 2);
        assert!(put(&mut buckets, 3, t0).is_empty());
        assert_eq!(buckets.current(t0).collect::<Vec<_>>(), [&1, &0, &5]);
    }

    #[test]
    fn resizing_counts_from_the_current_bucket() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::new(WIDTH));
        put(&mut buckets, 1, t0);
        put(&mut buckets, 2, t0 + WIDTH * 5);
        buckets.resize(WIDTH * 2, 7);
        assert_eq!(buckets.expired(t0 + WIDTH * 6).count(), 0);
        assert_eq!(buckets.expired(t0 + WIDTH * 7).count(), 1);
        assert_eq!(buckets.current(t0 + WIDTH * 7).sum::<u32>(), 7);
        assert_eq!(buckets.current(t0 + WIDTH * 11).sum::<u32>(), 0);
    }

    #[test]
    fn any_width_works() {
        for width in [Duration::ZERO, Duration::from_nanos(3), Duration::MAX] {
            let (t0, mut buckets) = (Instant::now(), TimeBuckets::new(width));
            put(&mut buckets, 1, t0);
            put(&mut buckets, 1, t0 + Duration::from_secs(86_400));
            buckets.resize(width, 1);
            assert!(buckets.expired(t0 + Duration::from_secs(86_401)).count() <= 3);
        }
    }

    proptest! {
        #[test]
        fn unexpired_slots_cover_the_reach(
            gaps in prop::collection::vec(0u64..500, 1..100)
        ) {
            let (mut now, mut all) = (Instant::now(), Vec::new());
            let mut buckets = TimeBuckets::<Vec<Instant>, 5>::new(WIDTH);
            for (step, gap) in gaps.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                let inside = |at: &&Instant| now - **at <= buckets.reach(now);
                let expected = all.iter().filter(inside).count();
                prop_assert_eq!(buckets.current(now).flatten().count(), expected);
                prop_assert_eq!(buckets.current(now).count() + buckets.expired(now).count(), 5);
                prop_assert!(buckets.reach(now) <= WIDTH * 5);
                if step % 3 > 0 {
                    buckets.advance(now, |_| ()).push(now);
                    all.push(now);
                }
            }
        }
    }
}
