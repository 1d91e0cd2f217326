//! Time cut into slices, the newest few of them in a ring: how everything here slides.
//!
//! Whoever counts over time keeps one tally for each slot. The slice under way is still filling,
//! so what is kept reaches back between `N - 1` slices and `N`, never further. As time moves on the
//! oldest slots are taken for new slices: their tallies are emptied then, or, by a look that
//! changes nothing, left out.
//!
//! Slices are counted from the first `advance`. A `now` older than the slice under way (two threads
//! read the clock, then raced for the lock) falls into the one under way.

use std::time::{Duration, Instant};

/// Which slots of a ring of `N` are in use, and for when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBuckets<const N: usize> {
    width_nanos: u64,
    /// When slice 0 began; none before the first.
    origin: Option<Instant>,
    /// Number of the slice under way.
    head: u64,
}

impl<const N: usize> TimeBuckets<N> {
    pub fn new(width: Duration) -> Self {
        Self { width_nanos: nanos(width).max(1), origin: None, head: 0 }
    }

    /// The slot of the slice under way.
    pub fn head(&self) -> usize {
        slot::<N>(self.head)
    }

    /// All slots, that of the slice under way first, then back in time.
    pub fn newest_first(&self) -> impl Iterator<Item = usize> + use<N> {
        let head = self.head;
        (0..N as u64).map(move |age| slot::<N>((head % N as u64) + N as u64 - age))
    }

    /// Slots whose time is over at `now`.
    pub fn gone(&self, now: Instant) -> impl Iterator<Item = usize> + use<N> {
        self.taken_by(self.number(now))
    }

    /// Moves on to `now`. Gives the slots that begin anew, which are the caller's to empty.
    pub fn advance(&mut self, now: Instant) -> impl Iterator<Item = usize> + use<N> {
        self.origin.get_or_insert(now);
        let number = self.number(now);
        let gone = self.taken_by(number);
        self.head = number;
        gone
    }

    /// How far back the slots reach at `now`; less while they are young.
    pub fn reach(&self, now: Instant) -> Duration {
        let Some(origin) = self.origin else { return Duration::ZERO };
        let elapsed = nanos(now.saturating_duration_since(origin));
        let whole = self.width_nanos.saturating_mul(N as u64 - 1);
        Duration::from_nanos(elapsed.min(whole.saturating_add(elapsed % self.width_nanos)))
    }

    /// Another width, from the slice under way on: its slot is the first now, the others are
    /// the caller's to empty.
    pub fn recut(&mut self, width: Duration) {
        let passed = Duration::from_nanos(self.width_nanos.saturating_mul(self.head));
        let origin = self.origin.and_then(|origin| origin.checked_add(passed));
        *self = Self { origin, ..Self::new(width) };
    }

    /// Slots of the slices from the one under way, exclusive, to this one.
    fn taken_by(&self, number: u64) -> impl Iterator<Item = usize> + use<N> {
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

    fn emptied(slices: &mut TimeBuckets<3>, now: Instant) -> Vec<usize> {
        slices.advance(now).collect()
    }

    #[test]
    fn each_slice_takes_the_slot_of_the_oldest() {
        let (t0, mut slices) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        assert!(emptied(&mut slices, t0).is_empty());
        assert_eq!(emptied(&mut slices, t0 + WIDTH), [1]);
        assert_eq!(emptied(&mut slices, t0 + WIDTH * 3), [2, 0]);
        assert_eq!(slices.newest_first().collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(emptied(&mut slices, t0 + WIDTH * 1_000), [1, 2, 0]);
    }

    #[test]
    fn an_older_now_falls_into_the_slice_under_way() {
        let (t0, mut slices) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        emptied(&mut slices, t0);
        emptied(&mut slices, t0 + WIDTH * 2);
        assert!(emptied(&mut slices, t0).is_empty());
        assert_eq!(slices.head(), 2);
    }

    #[test]
    fn another_width_counts_from_the_slice_under_way() {
        let (t0, mut slices) = (Instant::now(), TimeBuckets::<3>::new(WIDTH));
        emptied(&mut slices, t0);
        emptied(&mut slices, t0 + WIDTH * 5);
        slices.recut(WIDTH * 2);
        assert_eq!(slices.head(), 0);
        assert_eq!(slices.gone(t0 + WIDTH * 6).count(), 0);
        assert_eq!(slices.gone(t0 + WIDTH * 7).count(), 1);
    }

    #[test]
    fn no_width_is_too_odd() {
        for width in [Duration::ZERO, Duration::from_nanos(3), Duration::MAX] {
            let (t0, mut slices) = (Instant::now(), TimeBuckets::<3>::new(width));
            emptied(&mut slices, t0);
            emptied(&mut slices, t0 + Duration::from_secs(86_400));
            slices.recut(width);
            assert!(slices.gone(t0 + Duration::from_secs(86_401)).count() <= 3);
        }
    }

    proptest! {
        #[test]
        fn what_is_not_gone_is_what_the_reach_spans(
            gaps in prop::collection::vec(0u64..500, 1..100)
        ) {
            let (mut now, mut slices) = (Instant::now(), TimeBuckets::<5>::new(WIDTH));
            let (mut slots, mut all) = (<[Vec<Instant>; 5]>::default(), Vec::new());
            for (step, gap) in gaps.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                let gone: Vec<_> = slices.gone(now).collect();
                let kept = (0..5).filter(|slot| !gone.contains(slot)).flat_map(|slot| &slots[slot]);
                let inside = |at: &&Instant| now - **at <= slices.reach(now);
                prop_assert_eq!(kept.count(), all.iter().filter(inside).count());
                prop_assert!(slices.reach(now) <= WIDTH * 5);
                if step % 3 > 0 {
                    slices.advance(now).for_each(|slot| slots[slot].clear());
                    slots[slices.head()].push(now);
                    all.push(now);
                }
            }
        }
    }
}
