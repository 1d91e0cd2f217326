//! A ring of time buckets: the basis of every sliding window.
//!
//! The caller keeps one counter for each slot. The current bucket is still filling, so the
//! ring covers between `N - 1` and `N` bucket widths, never more. As time moves on, the oldest
//! slots are reused for new buckets: their counters are reset then, or left out by a read that
//! changes nothing.
//!
//! Buckets are numbered from the first `advance`. A `now` before the current bucket (two
//! threads read the clock, then raced for the lock) counts in the current one.

use std::time::{Duration, Instant};

/// Which slots of a ring of `N` are in use, and for which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBuckets<const N: usize> {
    width_nanos: u64,
    /// When bucket 0 began; none before the first.
    origin: Option<Instant>,
    /// Number of the current bucket.
    head: u64,
}

impl<const N: usize> TimeBuckets<N> {
    pub fn new(width: Duration) -> Self {
        Self { width_nanos: nanos(width).max(1), origin: None, head: 0 }
    }

    /// The slot of the current bucket.
    pub fn head(&self) -> usize {
        slot::<N>(self.head)
    }

    /// All slots, the current one first, then back in time.
    pub fn newest_first(&self) -> impl Iterator<Item = usize> + use<N> {
        let head = self.head;
        (0..N as u64).map(move |age| slot::<N>((head % N as u64) + N as u64 - age))
    }

    /// Slots whose time is over at `now`.
    pub fn expired(&self, now: Instant) -> impl Iterator<Item = usize> + use<N> {
        self.slots_up_to(self.number(now))
    }

    /// Advances to `now`. Returns the slots of new buckets, which the caller must reset.
    pub fn advance(&mut self, now: Instant) -> impl Iterator<Item = usize> + use<N> {
        self.origin.get_or_insert(now);
        let number = self.number(now);
        let expired = self.slots_up_to(number);
        self.head = number;
        expired
    }

    /// The time that the slots cover at `now`; less while they are young.
    pub fn reach(&self, now: Instant) -> Duration {
        let Some(origin) = self.origin else { return Duration::ZERO };
        let elapsed = nanos(now.saturating_duration_since(origin));
        let whole = self.width_nanos.saturating_mul(N as u64 - 1);
        Duration::from_nanos(elapsed.min(whole.saturating_add(elapsed % self.width_nanos)))
    }

    /// Changes the width as of the current bucket, whose slot becomes the first; the
    /// caller must reset the others.
    pub fn resize(&mut self, width: Duration) {
        let passed = Duration::from_nanos(self.width_nanos.saturating_mul(self.head));
        let origin = self.origin.and_then(|origin| origin.checked_add(passed));
        *self = Self { origin, ..Self::new(width) };
    }

    /// Slots of the buckets after the current one, up to this one.
    fn slots_up_to(&self, number: u64) -> impl Iterator<Item = usize> + use<N> {
        let (head, passed) = (self.head, number - self.head);
        (1..=passed.min(N as u64)).map(move |step| slot::<N>(head + step))
    }

    fn number(&self, now: Instant) -> u64 {
        let elapsed = self.origin.map(|origin| now.saturating_duration_since(origin));
        (nanos(elapsed.unwrap_or_default()) / self.width_nanos).max(self.head)
    }
}

fn slot<const N: usize>(number: u64) -> usize {
    (number % N as u64) as usize
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTH: Duration = Duration::from_millis(100);

    fn reset_slots(buckets: &mut TimeBuckets<3>, now: Instant) -> Vec<usize> {
        buckets.advance(now).collect()
    }

    #[test]
    fn each_bucket_reuses_the_oldest_slot() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        assert!(reset_slots(&mut buckets, t0).is_empty());
        assert_eq!(reset_slots(&mut buckets, t0 + WIDTH), [1]);
        assert_eq!(reset_slots(&mut buckets, t0 + WIDTH * 3), [2, 0]);
        assert_eq!(buckets.newest_first().collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(reset_slots(&mut buckets, t0 + WIDTH * 1_000), [1, 2, 0]);
    }

    #[test]
    fn an_older_now_counts_in_the_current_bucket() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        reset_slots(&mut buckets, t0);
        reset_slots(&mut buckets, t0 + WIDTH * 2);
        assert!(reset_slots(&mut buckets, t0).is_empty());
        assert_eq!(buckets.head(), 2);
    }

    #[test]
    fn resizing_counts_from_the_current_bucket() {
        let (t0, mut buckets) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        reset_slots(&mut buckets, t0);
        reset_slots(&mut buckets, t0 + WIDTH * 5);
        buckets.resize(WIDTH * 2);
        assert_eq!(buckets.head(), 0);
        assert_eq!(buckets.expired(t0 + WIDTH * 6).count(), 0);
        assert_eq!(buckets.expired(t0 + WIDTH * 7).count(), 1);
    }

    #[test]
    fn any_width_works() {
        for width in [Duration::ZERO, Duration::from_nanos(3), Duration::MAX] {
            let (t0, mut buckets) = (Instant::now(), TimeBuckets::<3>::new(width));
            reset_slots(&mut buckets, t0);
            reset_slots(&mut buckets, t0 + Duration::from_secs(86_400));
            buckets.resize(width);
            assert!(buckets.expired(t0 + Duration::from_secs(86_401)).count() <= 3);
        }
    }

    proptest! {
        #[test]
        fn unexpired_slots_cover_the_reach(
            gaps in prop::collection::vec(0u64..500, 1..100)
        ) {
            let (mut now, mut buckets) = (Instant::now(), TimeBuckets::<5>::new(WIDTH));
            let (mut slots, mut all) = (<[Vec<Instant>; 5]>::default(), Vec::new());
            for (step, gap) in gaps.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                let expired: Vec<_> = buckets.expired(now).collect();
                let kept = (0..5).filter(|slot| !expired.contains(slot)).flat_map(|slot| &slots[slot]);
                let inside = |at: &&Instant| now - **at <= buckets.reach(now);
                prop_assert_eq!(kept.count(), all.iter().filter(inside).count());
                prop_assert!(buckets.reach(now) <= WIDTH * 5);
                if step % 3 > 0 {
                    buckets.advance(now).for_each(|slot| slots[slot].clear());
                    slots[buckets.head()].push(now);
                    all.push(now);
                }
            }
        }
    }
}
