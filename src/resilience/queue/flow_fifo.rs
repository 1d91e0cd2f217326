//! Flows: those who wait, by whom they wait for; flows take turns, a flow is first in first out.
//!
//! Every flow has a line of its own, for as long as somebody stands in it, and one turn in each
//! round: a tenant with a thousand requests delays another's first by one. Hashing flows to a few
//! shared lines (stochastic fairness) would save nothing: a line is as large as who stands in it.
//!
//! Round robin as in Nagle, RFC 970; a flow that comes joins at the end of the round.

use std::collections::{BTreeMap, BTreeSet};

/// Members by flow. `T` tells members apart and orders them by age, the oldest first.
#[derive(Clone, Debug)]
pub struct FlowFifo<T> {
    flows: BTreeMap<u64, Flow<T>>,
    /// Flows by their place in the round.
    round: BTreeMap<u64, u64>,
    next_place: u64,
    len: usize,
}

#[derive(Clone, Debug)]
struct Flow<T> {
    place: u64,
    members: BTreeSet<T>,
}

impl<T> Default for FlowFifo<T> {
    fn default() -> Self {
        FlowFifo { flows: BTreeMap::new(), round: BTreeMap::new(), next_place: 0, len: 0 }
    }
}

impl<T: Ord + Copy> FlowFifo<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, flow: u64, member: T) {
        let place = &mut self.next_place;
        let round = &mut self.round;
        let entry = self.flows.entry(flow).or_insert_with(|| {
            *place += 1;
            round.insert(*place, flow);
            Flow { place: *place, members: BTreeSet::new() }
        });
        self.len += usize::from(entry.members.insert(member));
    }

    pub fn remove(&mut self, flow: u64, member: T) {
        let Some(entry) = self.flows.get_mut(&flow) else { return };
        self.len -= usize::from(entry.members.remove(&member));
        if entry.members.is_empty() {
            self.round.remove(&entry.place);
            self.flows.remove(&flow);
        }
    }

    /// Whose turn it is: of the flow whose turn it is the oldest, or the newest.
    pub fn first(&self, newest: bool) -> Option<T> {
        let (_, flow) = self.round.first_key_value()?;
        let members = &self.flows.get(flow)?.members;
        if newest { members.last().copied() } else { members.first().copied() }
    }

    /// A flow had its turn.
    pub fn served(&mut self, flow: u64) {
        let Some(entry) = self.flows.get_mut(&flow) else { return };
        self.round.remove(&entry.place);
        self.next_place += 1;
        entry.place = self.next_place;
        self.round.insert(entry.place, flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flows_take_turns_and_each_is_first_in_first_out() {
        let mut flows = FlowFifo::default();
        for (flow, member) in [(7, 1), (7, 2), (7, 3), (8, 4), (9, 5)] {
            flows.insert(flow, member);
        }
        let of = |member: u64| if member < 4 { 7 } else { member + 4 };
        let mut order = Vec::new();
        while let Some(member) = flows.first(false) {
            flows.served(of(member));
            flows.remove(of(member), member);
            order.push(member);
        }
        assert_eq!(order, [1, 4, 5, 2, 3]);
    }

    #[test]
    fn the_newest_of_the_flow_whose_turn_it_is_comes_first_where_that_is_asked() {
        let mut flows = FlowFifo::default();
        for (flow, member) in [(7, 1), (7, 2), (8, 3)] {
            flows.insert(flow, member);
        }
        assert_eq!((flows.first(true), flows.first(false)), (Some(2), Some(1)));
    }

    proptest! {
        #[test]
        fn a_flow_that_waits_is_served_once_in_each_round(
            steps in prop::collection::vec((0u64..6, any::<bool>()), 1..300)
        ) {
            let mut flows = FlowFifo::default();
            let (mut waiting, mut passed) = ([0usize; 6], [0usize; 6]);
            for (member, (flow, comes)) in steps.into_iter().enumerate() {
                if comes {
                    flows.insert(flow, (member, flow));
                    if waiting[flow as usize] == 0 {
                        passed[flow as usize] = 0;
                    }
                    waiting[flow as usize] += 1;
                } else if let Some((member, flow)) = flows.first(false) {
                    flows.served(flow);
                    flows.remove(flow, (member, flow));
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
