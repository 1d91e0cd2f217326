//! Stride scheduling: shares of service in proportion to weights, and nobody starved.
//!
//! Each share has a *pass*. The busy one with the smallest pass is served (ties by key), then its
//! pass grows by `1 / weight`. One that becomes busy takes `max(its own pass, the current one)`:
//! nobody saves up service by being idle.
//!
//! Between two services of a share that is always busy there are at most [`bound`] others, its own
//! next one included. Waldspurger, Weihl: Stride Scheduling, 1995.

use std::collections::BTreeMap;

/// What a share of weight 1 pays for one service. Rounding stays far below what any two weights of
/// a million differ by, and the sum below `u128` for longer than anything runs.
const ONE: u128 = 1 << 64;

/// Shares by key.
#[derive(Clone, Debug)]
pub struct Stride<K> {
    shares: BTreeMap<K, StrideShare>,
    current: u128,
}

#[derive(Clone, Copy, Debug)]
struct StrideShare {
    weight: u32,
    pass: u128,
    waiting: usize,
}

/// The most services between two of share `of`, the second of them included, while `weights` are
/// all busy.
pub fn bound(weights: &[u32], of: usize) -> u64 {
    let own = u64::from(weights[of].max(1));
    let others = weights.iter().enumerate().filter(|(index, _)| *index != of);
    1 + others.map(|(_, weight)| u64::from(*weight) / own + 1).sum::<u64>()
}

impl<K> Default for Stride<K> {
    fn default() -> Self {
        Stride { shares: BTreeMap::new(), current: 0 }
    }
}

impl<K: Ord + Copy> Stride<K> {
    /// `count` more wait in a share.
    pub fn join(&mut self, key: K, weight: u32, count: usize) {
        let share = self.shares.entry(key).or_insert(StrideShare { weight, pass: 0, waiting: 0 });
        share.weight = weight.max(1);
        if share.waiting == 0 && count > 0 {
            share.pass = share.pass.max(self.current);
        }
        share.waiting += count;
    }

    /// `count` fewer wait in a share.
    pub fn part(&mut self, key: K, count: usize) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.waiting = share.waiting.saturating_sub(count);
        }
        if self.shares.values().all(|share| share.waiting == 0) {
            // Whoever is busy next is so alone: passes of before mean nothing.
            self.shares.clear();
        }
    }

    /// The busy ones, whose turn it is first.
    pub fn order(&self) -> impl Iterator<Item = K> {
        let busy = self.shares.iter().filter(|(_, share)| share.waiting > 0);
        let mut busy: Vec<_> = busy.map(|(key, share)| (share.pass, *key)).collect();
        busy.sort_unstable();
        busy.into_iter().map(|(_, key)| key)
    }

    /// One of a share was served.
    pub fn served(&mut self, key: K) {
        if let Some(share) = self.shares.get_mut(&key) {
            self.current = self.current.max(share.pass);
            share.pass += ONE / u128::from(share.weight);
        }
    }

    /// How many wait in a share.
    pub fn waiting(&self, key: K) -> usize {
        self.shares.get(&key).map_or(0, |share| share.waiting)
    }

    /// How many wait in all.
    pub fn total(&self) -> usize {
        self.shares.values().map(|share| share.waiting).sum()
    }

    /// What part of the service a share gets while those who wait now do; `key` counts as one.
    pub fn part_of(&self, key: K, weight: u32) -> f64 {
        let busy = self.shares.iter().filter(|(other, share)| **other != key && share.waiting > 0);
        let others: f64 = busy.map(|(_, share)| f64::from(share.weight)).sum();
        f64::from(weight) / (f64::from(weight) + others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn busy(weights: &[u32]) -> Stride<usize> {
        let mut stride = Stride::default();
        weights.iter().enumerate().for_each(|(key, weight)| stride.join(key, *weight, 1));
        stride
    }

    fn serve(stride: &mut Stride<usize>) -> usize {
        let key = stride.order().next().expect("somebody is busy");
        stride.served(key);
        key
    }

    #[test]
    fn shares_are_as_the_weights_over_any_cycle() {
        let mut stride = busy(&[8, 4, 2, 1]);
        let mut served = [0; 4];
        (0..150).for_each(|_| served[serve(&mut stride)] += 1);
        assert_eq!(served, [80, 40, 20, 10]);
    }

    #[test]
    fn the_bound_of_8_4_2_1_is_18_for_the_lowest() {
        assert_eq!(bound(&[8, 4, 2, 1], 3), 18);
        assert_eq!(bound(&[8, 4, 2, 1], 0), 4);
        assert_eq!(bound(&[5], 0), 1);
    }

    #[test]
    fn who_was_idle_has_saved_nothing() {
        let mut stride = busy(&[1]);
        (0..1000).for_each(|_| assert_eq!(serve(&mut stride), 0));
        stride.join(1, 1, 1);
        let turns: Vec<_> = (0..4).map(|_| serve(&mut stride)).collect();
        assert_eq!(turns, [1, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_bound(
            weights in prop::collection::vec(1u32..20, 1..6),
            steps in prop::collection::vec((0usize..8, any::<bool>()), 1..400),
        ) {
            let mut stride = Stride::default();
            let mut is_busy = vec![false; weights.len()];
            let mut since = vec![0u64; weights.len()];
            for (key, toggles) in steps {
                if toggles && key < weights.len() {
                    match is_busy[key] {
                        true => stride.part(key, 1),
                        false => stride.join(key, weights[key], 1),
                    }
                    is_busy[key] = !is_busy[key];
                    since[key] = 0;
                }
                let Some(served) = stride.order().next() else { continue };
                stride.served(served);
                for other in 0..weights.len() {
                    since[other] = if other == served { 0 } else { since[other] + 1 };
                    let waited = since[other] < bound(&weights, other);
                    prop_assert!(!is_busy[other] || waited, "{other} after {}", since[other]);
                }
            }
        }
    }
}
