//! Fair queueing of flows: flows rotate, and each flow is first in first out.
//!
//! Every flow has its own FIFO while it has waiters, and one service in each round: a tenant
//! with a thousand requests delays another's first request by one. Hashing flows into a few
//! shared queues (stochastic fairness) would save nothing: a FIFO is as large as its waiters.
//!
//! Round robin as in Nagle, RFC 970; a new flow joins at the end of the round.

use std::collections::{BTreeMap, BTreeSet};

/// Waiters by flow. `T` identifies a waiter and orders by age, oldest first.
#[derive(Clone, Debug)]
pub struct FlowFifo<T> {
    flows: BTreeMap<u64, FlowWaiters<T>>,
    /// Flows by their position in the round.
    round: BTreeMap<u64, u64>,
    next_position: u64,
    len: usize,
}

#[derive(Clone, Debug)]
struct FlowWaiters<T> {
    position: u64,
    waiters: BTreeSet<T>,
}

impl<T> Default for FlowFifo<T> {
    fn default() -> Self {
        FlowFifo { flows: BTreeMap::new(), round: BTreeMap::new(), next_position: 0, len: 0 }
    }
}

impl<T: Ord + Copy> FlowFifo<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, flow: u64, waiter: T) {
        let position = &mut self.next_position;
        let round = &mut self.round;
        let entry = self.flows.entry(flow).or_insert_with(|| {
            *position += 1;
            round.insert(*position, flow);
            FlowWaiters { position: *position, waiters: BTreeSet::new() }
        });
        self.len += usize::from(entry.waiters.insert(waiter));
    }

    pub fn remove(&mut self, flow: u64, waiter: T) {
        let Some(entry) = self.flows.get_mut(&flow) else { return };
        self.len -= usize::from(entry.waiters.remove(&waiter));
        if entry.waiters.is_empty() {
            self.round.remove(&entry.position);
            self.flows.remove(&flow);
        }
    }

    /// The next waiter: the oldest, or the newest, of the next flow.
    pub fn first(&self, newest: bool) -> Option<T> {
        let (_, flow) = self.round.first_key_value()?;
        let waiters = &self.flows.get(flow)?.waiters;
        if newest { waiters.last().copied() } else { waiters.first().copied() }
    }

    /// A flow was served: it moves to the end of the round.
    pub fn served(&mut self, flow: u64) {
        let Some(entry) = self.flows.get_mut(&flow) else { return };
        self.round.remove(&entry.position);
        self.next_position += 1;
        entry.position = self.next_position;
        self.round.insert(entry.position, flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flows_rotate_and_each_is_first_in_first_out() {
        let mut flows = FlowFifo::default();
        for (flow, waiter) in [(7, 1), (7, 2), (7, 3), (8, 4), (9, 5)] {
            flows.insert(flow, waiter);
        }
        let of = |waiter: u64| if waiter < 4 { 7 } else { waiter + 4 };
        let mut order = Vec::new();
        while let Some(waiter) = flows.first(false) {
            flows.served(of(waiter));
            flows.remove(of(waiter), waiter);
            order.push(waiter);
        }
        assert_eq!(order, [1, 4, 5, 2, 3]);
    }

    #[test]
    fn the_newest_of_the_next_flow_can_go_first() {
        let mut flows = FlowFifo::default();
        for (flow, waiter) in [(7, 1), (7, 2), (8, 3)] {
            flows.insert(flow, waiter);
        }
        assert_eq!((flows.first(true), flows.first(false)), (Some(2), Some(1)));
    }

    proptest! {
        #[test]
        fn a_waiting_flow_is_served_once_in_each_round(
            steps in prop::collection::vec((0u64..6, any::<bool>()), 1..300)
        ) {
            let mut flows = FlowFifo::default();
            let (mut waiting, mut passed) = ([0usize; 6], [0usize; 6]);
            for (waiter, (flow, comes)) in steps.into_iter().enumerate() {
                if comes {
                    flows.insert(flow, (waiter, flow));
                    if waiting[flow as usize] == 0 {
                        passed[flow as usize] = 0;
                    }
                    waiting[flow as usize] += 1;
                } else if let Some((waiter, flow)) = flows.first(false) {
                    flows.served(flow);
                    flows.remove(flow, (waiter, flow));
                    waiting[flow as usize] -= 1;
                    passed.iter_mut().for_each(|passed| *passed += 1);
                    passed[flow as usize] = 0;
                }
                prop_assert_eq!(flows.len(), waiting.iter().sum::<usize>());
                for flow in 0..6 {
                    prop_assert!(waiting[flow] == 0 || passed[flow] < 6);
                }
            }
        }
    }
}
