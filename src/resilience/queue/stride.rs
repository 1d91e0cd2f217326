//! Stride scheduling: service in proportion to weights, without starvation.
//!
//! Each share has a *pass*. The busy share with the smallest pass is served (ties by key),
//! then its pass grows by `1 / weight`. A share that becomes busy takes `max(its own pass, the
//! current one)`: idling saves up no service.
//!
//! Between two services of a share that is always busy there are at most [`bound`] others, its
//! own next one included. Waldspurger, Weihl: Stride Scheduling, 1995.

use std::collections::BTreeMap;

/// Cost of one service for weight 1. Rounding stays far below the difference between any two
/// weights up to a million, and the sum stays within `u128` for longer than any process runs.
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

/// The most services between two of share `of`, the second one included, while all `weights`
/// are busy.
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
    /// Adds `count` waiters to a share.
    pub fn add(&mut self, key: K, weight: u32, count: usize) {
        let share = self.shares.entry(key).or_insert(StrideShare { weight, pass: 0, waiting: 0 });
        share.weight = weight.max(1);
        if share.waiting == 0 && count > 0 {
            share.pass = share.pass.max(self.current);
        }
        share.waiting += count;
    }

    /// Removes `count` waiters from a share.
    pub fn remove(&mut self, key: K, count: usize) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.waiting = share.waiting.saturating_sub(count);
        }
        if self.shares.values().all(|share| share.waiting == 0) {
            // The next busy share is alone: earlier passes do not matter.
            self.shares.clear();
        }
    }

    /// Busy shares in the order of service.
    pub fn order(&self) -> impl Iterator<Item = K> {
        let busy = self.shares.iter().filter(|(_, share)| share.waiting > 0);
        let mut busy: Vec<_> = busy.map(|(key, share)| (share.pass, *key)).collect();
        busy.sort_unstable();
        busy.into_iter().map(|(_, key)| key)
    }

    /// A waiter of a share was served.
    pub fn served(&mut self, key: K) {
        if let Some(share) = self.shares.get_mut(&key) {
            self.current = self.current.max(share.pass);
            share.pass += ONE / u128::from(share.weight);
        }
    }

    /// Waiters of a share.
    pub fn waiting(&self, key: K) -> usize {
        self.shares.get(&key).map_or(0, |share| share.waiting)
    }

    /// Waiters of all shares.
    pub fn total(&self) -> usize {
        self.shares.values().map(|share| share.waiting).sum()
    }

    /// The fraction of the service that a share gets from the current waiters; `key`
    /// counts as busy.
    pub fn fraction(&self, key: K, weight: u32) -> f64 {
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
        weights.iter().enumerate().for_each(|(key, weight)| stride.add(key, *weight, 1));
        stride
    }

    fn serve(stride: &mut Stride<usize>) -> usize {
        let key = stride.order().next().expect("a busy share");
        stride.served(key);
        key
    }

    #[test]
    fn services_are_in_proportion_to_weights() {
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
    fn an_idle_share_saves_up_no_service() {
        let mut stride = busy(&[1]);
        (0..1000).for_each(|_| assert_eq!(serve(&mut stride), 0));
        stride.add(1, 1, 1);
        let order: Vec<_> = (0..4).map(|_| serve(&mut stride)).collect();
        assert_eq!(order, [1, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn no_share_waits_longer_than_the_bound(
            weights in prop::collection::vec(1u32..20, 1..6),
            steps in prop::collection::vec((0usize..8, any::<bool>()), 1..400),
        ) {
            let mut stride = Stride::default();
            let mut is_busy = vec![false; weights.len()];
            let mut since = vec![0u64; weights.len()];
            for (key, toggles) in steps {
                if toggles && key < weights.len() {
                    match is_busy[key] {
                        true => stride.remove(key, 1),
                        false => stride.add(key, weights[key], 1),
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
