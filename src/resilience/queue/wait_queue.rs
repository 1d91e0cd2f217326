//! The wait queue: which waiter goes next when a provider has capacity.
//!
//! Waiters form *groups*: requests of one queue that the same providers could serve, behind
//! the same breakers and holds. Each provider has a *gate*. When it may have capacity, the
//! gate *offers* it to one waiter of its groups: classes in stride order, groups of a class in
//! rotation, flows of a group in rotation, first in first out within a flow. The waiter with
//! the offer checks the provider and reports the result:
//!
//! - served: it goes, and the gate makes the next offer;
//! - rate limited: the offer is deferred until a given time, and capacity that returns
//!   meanwhile is kept for this waiter, unless a waiter with precedence arrives;
//! - blocked by a hold or breaker: its group is *blocked* at this gate until a given time, and
//!   the offer goes to another group;
//! - no capacity after all: the offer ends, and the next capacity begins another;
//! - ineligible for reasons of its own: it moves to another group.
//!
//! So a waiter for one provider never delays one for another, an offer costs O(log n) however
//! many wait, and nothing polls. This type neither blocks nor wakes: `take_woken` returns the
//! waiters that have something to check.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::drain_rate::drained_after;
use super::flow_fifo::FlowFifo;
use super::gate::{ClassKey, Gate};
use super::waiters::{QueueFullReason, QueuePolicy, QueueWaiters, QueuedRequest};

/// Identifies a waiter: when its request arrived, and a unique number. Orders by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    pub arrived: Instant,
    pub number: u64,
}

/// The key of a group: what all its waiters have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    pub queue: u32,
    pub providers: Box<[u32]>,
    /// Identifies the set of breakers, holds and reported quotas.
    pub state: u64,
}

/// A request that is to wait.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    pub group: GroupKey,
    pub class: usize,
    pub flow: u64,
    pub bytes: u64,
    /// When the request arrived.
    pub arrived: Instant,
    /// When waiting longer is pointless.
    pub until: Instant,
}

/// Why a request cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRejection {
    Full(QueueFullReason),
    /// The expected wait is this long, which is too long.
    TooLong(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct WaiterState {
    pub(crate) group: u32,
    pub(crate) request: QueuedRequest,
    /// Gates that offer to it, and until when the offer is deferred.
    pub(crate) offers: Vec<(u32, Option<Instant>)>,
    /// Gates at which it blocked its group, and until when.
    pub(crate) blocked: Vec<(u32, Instant)>,
}

#[derive(Clone, Debug)]
pub(crate) struct WaiterGroup {
    pub(crate) key: GroupKey,
    pub(crate) classes: Vec<FlowFifo<Ticket>>,
}

/// All waiters of all queues.
#[derive(Clone, Debug, Default)]
pub struct WaitQueue {
    pub(crate) queues: BTreeMap<u32, QueueWaiters>,
    pub(crate) paused: BTreeSet<u32>,
    pub(crate) groups: BTreeMap<u32, WaiterGroup>,
    pub(crate) group_ids: BTreeMap<GroupKey, u32>,
    pub(crate) gates: BTreeMap<u32, Gate>,
    pub(crate) waiters: BTreeMap<Ticket, WaiterState>,
    next: u64,
    pub(crate) next_group: u32,
    pub(crate) woken: Vec<Ticket>,
}

impl WaitQueue {
    /// Creates a queue or changes its bounds.
    pub fn set_queue(&mut self, queue: u32, policy: QueuePolicy) {
        match self.queues.get_mut(&queue) {
            Some(waiters) => waiters.retune(policy),
            None => drop(self.queues.insert(queue, QueueWaiters::new(policy))),
        }
    }

    /// Removes a queue without waiters.
    pub fn drop_queue(&mut self, queue: u32) {
        if self.queues.get(&queue).is_some_and(|waiters| waiters.waiting() == 0) {
            self.queues.remove(&queue);
            self.paused.remove(&queue);
        }
    }

    pub fn queue(&self, queue: u32) -> Option<&QueueWaiters> {
        self.queues.get(&queue)
    }

    /// Waiters of a paused queue get no offers until it is resumed.
    pub fn pause(&mut self, queue: u32, paused: bool, now: Instant) {
        let changed = match paused {
            true => self.paused.insert(queue),
            false => self.paused.remove(&queue),
        };
        if !changed {
            return;
        }
        let groups = self.groups.iter().filter(|(_, group)| group.key.queue == queue);
        let groups: Vec<_> = groups.map(|(id, group)| (*id, group.key.providers.clone())).collect();
        for (group_id, providers) in &groups {
            for provider in providers {
                if self.is_open(*provider, *group_id) {
                    self.count_group(*provider, *group_id, !paused, now);
                }
            }
        }
        for provider in groups.iter().flat_map(|(_, providers)| providers) {
            self.capacity_available(*provider, now);
        }
    }

    /// Waiters served per second by a provider; none while unknown.
    pub fn drain_rate(&self, provider: u32, now: Instant) -> Option<f64> {
        self.gates.get(&provider)?.drain.rate(now)
    }

    /// The time until the current waiters for these providers are gone, if none waits for
    /// longer than `most`; none while unknown.
    pub fn backlog(&self, providers: &[u32], most: Duration, now: Instant) -> Option<Duration> {
        let time_at = |provider: &u32| {
            let gate = self.gates.get(provider)?;
            Some(gate.shares.total() as f64 / gate.drain.rate(now)?)
        };
        let soonest = providers.iter().filter_map(time_at).min_by(f64::total_cmp)?;
        let served = Duration::try_from_secs_f64(soonest).ok()?;
        // The newest waiter is the last one to time out.
        let (newest, _) = self.waiters.last_key_value()?;
        Some(drained_after(
            served,
            most.saturating_sub(now.saturating_duration_since(newest.arrived)),
        ))
    }

    /// The expected wait of one more waiter, at best; none while unknown.
    fn expected_wait(&self, entry: &QueueEntry, now: Instant) -> Option<Duration> {
        let waiters = self.queues.get(&entry.group.queue)?;
        let share = ClassKey { queue: entry.group.queue, class: entry.class };
        let turns = waiters.turns_before(entry.class, entry.flow) as f64;
        let at = |provider: &u32| {
            let Some(gate) = self.gates.get(provider) else { return Some(0.0) };
            let rate = gate.drain.rate(now)?;
            let own = turns.min(gate.shares.waiting(share) as f64);
            let part = gate.shares.fraction(share, waiters.weight(entry.class));
            Some((own / (rate * part)).min(gate.shares.total() as f64 / rate))
        };
        let waits: Option<Vec<f64>> = entry.group.providers.iter().map(at).collect();
        let best = waits?.into_iter().min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(best).ok()
    }
}

impl WaitQueue {
    /// Adds a waiter; returns its ticket and the waiters that it displaced.
    ///
    /// # Errors
    /// Why it cannot wait.
    pub fn enqueue(
        &mut self,
        entry: QueueEntry,
        now: Instant,
    ) -> Result<(Ticket, Vec<Ticket>), QueueRejection> {
        let queue = entry.group.queue;
        let expected = self.expected_wait(&entry, now);
        let waiters =
            self.queues.get_mut(&queue).ok_or(QueueRejection::Full(QueueFullReason::Queue))?;
        let QueueEntry { group: key, class, flow, bytes, until, arrived } = entry;
        let request =
            QueuedRequest { ticket: Ticket { arrived, number: self.next }, class, flow, bytes };
        let late = expected.filter(|wait| now + *wait > until);
        if let Some(wait) = late.filter(|_| !waiters.newest_first(class, now)) {
            return Err(QueueRejection::TooLong(wait));
        }
        let displaced = waiters.displaced_by(&request).map_err(QueueRejection::Full)?;
        self.next += 1;
        waiters.insert(&request, now);
        displaced.iter().for_each(|other| self.remove(*other, now));
        let group_id = self.group_id(key);
        let waiter =
            WaiterState { group: group_id, request, offers: Vec::new(), blocked: Vec::new() };
        self.waiters.insert(request.ticket, waiter);
        self.join_group(request.ticket, now);
        Ok((request.ticket, displaced))
    }

    /// The waiter is served by this provider and waits no longer.
    pub fn served(&mut self, ticket: Ticket, provider: u32, now: Instant) {
        let Some((share, group_id, flow)) = self.position(ticket) else { return };
        if let Some(gate) = self.gates.get_mut(&provider) {
            gate.drain.served(now);
            gate.served(share, group_id);
        }
        if let Some(flows) =
            self.groups.get_mut(&group_id).and_then(|group| group.classes.get_mut(share.class))
        {
            flows.served(flow);
        }
        self.remove(ticket, now);
    }

    /// Moves a waiter to the group with this key.
    pub fn move_to_group(&mut self, ticket: Ticket, key: GroupKey, now: Instant) {
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        if self.groups.get(&waiter.group).is_some_and(|group| group.key == key) {
            return;
        }
        let free = self.leave_group(ticket, now);
        let group_id = self.group_id(key);
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.group = group_id;
        }
        self.join_group(ticket, now);
        free.into_iter().for_each(|provider| self.capacity_available(provider, now));
    }
}

#[cfg(test)]
#[path = "wait_queue_tests.rs"]
mod tests;
