//! The gate of one provider: which waiter may check whether the provider has capacity.
//!
//! It knows groups by number, and how many waiters of each class are in the unblocked ones;
//! the wait queue knows the waiters. It offers to one waiter at a time. A request that may not
//! even wait is rejected in `waiters.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::drain_rate::DrainRate;
use super::stride::Stride;
use super::wait_queue::Ticket;

/// A class of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    pub(crate) queue: u32,
    pub(crate) class: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    pub(crate) shares: Stride<ClassKey>,
    groups: BTreeMap<u32, GateGroup>,
    /// The group that was served last, by class.
    last: BTreeMap<ClassKey, u32>,
    pub(crate) offer: Option<Offer>,
    pub(crate) drain: DrainRate,
}

#[derive(Clone, Copy, Debug)]
struct GateGroup {
    queue: u32,
    open: bool,
}

/// The offer to one waiter, from which the waiter's check decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) waiter: Ticket,
    pub(crate) deferred: bool,
    /// Capacity came back during the check: the waiter checks once more before the offer ends.
    pub(crate) recheck: bool,
    /// Breakers or holds changed during the check: its result may be outdated.
    pub(crate) changed: bool,
}

impl Gate {
    /// Adds a group, unblocked if it is new.
    pub(crate) fn add_group(&mut self, group_id: u32, queue: u32) {
        self.groups.entry(group_id).or_insert(GateGroup { queue, open: true });
    }

    /// Removes a group without waiters.
    pub(crate) fn remove_group(&mut self, group_id: u32) {
        self.groups.remove(&group_id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn is_open(&self, group_id: u32) -> bool {
        self.groups.get(&group_id).is_some_and(|group| group.open)
    }

    /// Blocks or unblocks a group; whether that changed anything.
    pub(crate) fn set_open(&mut self, group_id: u32, open: bool) -> bool {
        let group = self.groups.get_mut(&group_id);
        group.is_some_and(|group| std::mem::replace(&mut group.open, open) != open)
    }

    pub(crate) fn blocked_groups(&self) -> Vec<u32> {
        self.groups.iter().filter(|(_, group)| !group.open).map(|(group_id, _)| *group_id).collect()
    }

    pub(crate) fn join(&mut self, share: ClassKey, weight: u32, count: usize, now: Instant) {
        if count > 0 && self.shares.total() == 0 {
            self.drain.begin(now);
        }
        self.shares.add(share, weight, count);
    }

    /// Unblocked groups in the order to serve them, with the class to serve.
    pub(crate) fn order(&self) -> impl Iterator<Item = (ClassKey, u32)> {
        self.shares.order().flat_map(move |share| {
            let last = self.last.get(&share).copied();
            let after = last.map_or(0, |last| last.saturating_add(1));
            let groups = self.groups.range(after..).chain(self.groups.range(..after));
            let open = groups.filter(move |(_, s)| s.open && s.queue == share.queue);
            open.map(move |(group_id, _)| (share, *group_id))
        })
    }

    pub(crate) fn served(&mut self, share: ClassKey, group_id: u32) {
        self.shares.served(share);
        self.last.insert(share, group_id);
    }

    // === the offer ===

    pub(crate) fn offer_to(&mut self, waiter: Ticket) {
        self.offer = Some(Offer { waiter, deferred: false, recheck: false, changed: false });
    }

    pub(crate) fn offered_to(&self) -> Option<Ticket> {
        self.offer.map(|offer| offer.waiter)
    }
}
