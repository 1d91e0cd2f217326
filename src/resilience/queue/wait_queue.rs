//! The wait lane: who goes next where a provider has room.
//!
//! Whoever waits stands in a *line*: those of one queue that the same providers could serve, with
//! the same breakers and holds before them. Before each provider is a *gate*. Where there may be
//! room, the gate gives one waiter of its lines the *turn*: classes in stride order, lines of a
//! class in turn, flows of a line in turn, first in first out in a flow. Who has the turn looks
//! whether the provider can take it, and says what came of it:
//!
//! - it goes: `served`, and the next one has the turn;
//! - the provider's own rate forbids it for some time: it *rests* with the turn, and what the
//!   provider gets back meanwhile is kept for it, unless somebody comes who goes before it;
//! - a hold or a breaker forbids it: its line is *closed* at this gate, the turn goes on to other
//!   lines, and it keeps the time at which the line opens again;
//! - nothing was free after all: the turn ends, and the next room begins another;
//! - it cannot use this provider for reasons of its own: it steps *aside* into another line.
//!
//! So a waiter for one provider never delays one for another, a turn costs O(log n) however many
//! wait, and nobody polls. Nothing here waits or wakes: who has to look is in `take_woken`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::drain_rate::drained_after;
use super::flow_fifo::FlowFifo;
use super::gate::Gate;
use super::waiters::{QueueFull, QueuePolicy, QueueWaiters, QueuedRequest};

/// A waiter: when its request came, and a number of its own. Orders by age.
pub type Ticket = (Instant, u64);

/// Who could serve, and what stands before them: equal for all of a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    pub queue: u32,
    pub providers: Box<[u32]>,
    /// Tells breakers and holds apart.
    pub circuits: u64,
}

/// What wants to wait.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    pub line: GroupKey,
    pub class: usize,
    pub flow: u64,
    pub bytes: u64,
    /// When the request came.
    pub arrived: Instant,
    /// When its wait is of no use any more.
    pub until: Instant,
}

/// Why it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRejection {
    Full(QueueFull),
    /// It would take so long, which is too long.
    Late(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct WaiterState {
    pub(crate) line: u32,
    pub(crate) member: QueuedRequest,
    /// Gates at which it has the turn, and until when it rests there.
    pub(crate) turns: Vec<(u32, Option<Instant>)>,
    /// Gates that it closed to its line, and until when.
    pub(crate) closed: Vec<(u32, Instant)>,
}

#[derive(Clone, Debug)]
pub(crate) struct WaiterGroup {
    pub(crate) line: GroupKey,
    pub(crate) classes: Vec<FlowFifo<Ticket>>,
}

/// All that wait, in all queues.
#[derive(Clone, Debug, Default)]
pub struct WaitQueue {
    pub(crate) queues: BTreeMap<u32, QueueWaiters>,
    pub(crate) paused: BTreeSet<u32>,
    pub(crate) lines: BTreeMap<u32, WaiterGroup>,
    pub(crate) line_ids: BTreeMap<GroupKey, u32>,
    pub(crate) gates: BTreeMap<u32, Gate>,
    pub(crate) waiters: BTreeMap<Ticket, WaiterState>,
    next: u64,
    pub(crate) next_line: u32,
    pub(crate) woken: Vec<Ticket>,
}

// === impl Lane: queues ===

impl WaitQueue {
    /// Makes a queue, or gives it new bounds.
    pub fn set_queue(&mut self, queue: u32, policy: QueuePolicy) {
        match self.queues.get_mut(&queue) {
            Some(crowd) => crowd.retune(policy),
            None => drop(self.queues.insert(queue, QueueWaiters::new(policy))),
        }
    }

    /// Forgets a queue that nobody waits in.
    pub fn drop_queue(&mut self, queue: u32) {
        if self.queues.get(&queue).is_some_and(|crowd| crowd.waiting() == 0) {
            self.queues.remove(&queue);
            self.paused.remove(&queue);
        }
    }

    pub fn queue(&self, queue: u32) -> Option<&QueueWaiters> {
        self.queues.get(&queue)
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Nobody of a queue has a turn until it is resumed.
    pub fn pause(&mut self, queue: u32, paused: bool, now: Instant) {
        let changed = match paused {
            true => self.paused.insert(queue),
            false => self.paused.remove(&queue),
        };
        if !changed {
            return;
        }
        let lines = self.lines.iter().filter(|(_, line)| line.line.queue == queue);
        let lines: Vec<_> = lines.map(|(id, l)| (*id, l.line.providers.clone())).collect();
        for (line, providers) in &lines {
            for provider in providers {
                if self.is_open(*provider, *line) {
                    self.count_group(*provider, *line, !paused, now);
                }
            }
        }
        for provider in lines.iter().flat_map(|(_, providers)| providers) {
            self.capacity_available(*provider, now);
        }
    }

    pub fn is_paused(&self, queue: u32) -> bool {
        self.paused.contains(&queue)
    }

    /// Services a second that a provider gives to those who wait; nothing while that is not known.
    pub fn drain_rate(&self, provider: u32, now: Instant) -> Option<f64> {
        self.gates.get(&provider)?.drain.rate(now)
    }

    /// When those who wait for these providers now will be gone, where nobody waits for longer than
    /// `most`; nothing while nobody knows.
    pub fn backlog(&self, providers: &[u32], most: Duration, now: Instant) -> Option<Duration> {
        let of = |provider: &u32| {
            let gate = self.gates.get(provider)?;
            Some(gate.shares.total() as f64 / gate.drain.rate(now)?)
        };
        let soonest = providers.iter().filter_map(of).min_by(f64::total_cmp)?;
        let served = Duration::try_from_secs_f64(soonest).ok()?;
        // The newest of all is the last whose time is over.
        let ((newest, _), _) = self.waiters.last_key_value()?;
        Some(drained_after(served, most.saturating_sub(now.saturating_duration_since(*newest))))
    }

    /// How long one more would wait, at best; nothing while that is not known.
    fn expected_wait(&self, entry: &QueueEntry, now: Instant) -> Option<Duration> {
        let crowd = self.queues.get(&entry.line.queue)?;
        let share = (entry.line.queue, entry.class);
        let turns = crowd.turns_before(entry.class, entry.flow) as f64;
        let at = |provider: &u32| {
            let Some(gate) = self.gates.get(provider) else { return Some(0.0) };
            let rate = gate.drain.rate(now)?;
            let own = turns.min(gate.shares.waiting(share) as f64);
            let part = gate.shares.part_of(share, crowd.weight(entry.class));
            Some((own / (rate * part)).min(gate.shares.total() as f64 / rate))
        };
        let waits: Option<Vec<f64>> = entry.line.providers.iter().map(at).collect();
        let best = waits?.into_iter().min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(best).ok()
    }
}

// === impl Lane: waiters ===

impl WaitQueue {
    /// Joins a line; gives the ticket, and those whose places it took.
    ///
    /// # Errors
    /// Why it may not.
    pub fn enqueue(
        &mut self,
        entry: QueueEntry,
        now: Instant,
    ) -> Result<(Ticket, Vec<Ticket>), QueueRejection> {
        let queue = entry.line.queue;
        let expected = self.expected_wait(&entry, now);
        let crowd = self.queues.get_mut(&queue).ok_or(QueueRejection::Full(QueueFull::Queue))?;
        let QueueEntry { line, class, flow, bytes, until, arrived } = entry;
        let member = QueuedRequest { ticket: (arrived, self.next), class, flow, bytes };
        let late = expected.filter(|wait| now + *wait > until);
        if let Some(wait) = late.filter(|_| !crowd.newest_first(class, now)) {
            return Err(QueueRejection::Late(wait));
        }
        let displaced = crowd.displaced_by(&member).map_err(QueueRejection::Full)?;
        self.next += 1;
        crowd.insert(&member, now);
        displaced.iter().for_each(|victim| self.remove_waiter(*victim, now));
        let line = self.group_id(line);
        let waiter = WaiterState { line, member, turns: Vec::new(), closed: Vec::new() };
        self.waiters.insert(member.ticket, waiter);
        self.join_group(member.ticket, now);
        Ok((member.ticket, displaced))
    }

    /// It goes, to this provider, and waits no longer.
    pub fn served(&mut self, ticket: Ticket, provider: u32, now: Instant) {
        let Some((share, line, flow)) = self.position(ticket) else { return };
        if let Some(gate) = self.gates.get_mut(&provider) {
            gate.drain.served(now);
            gate.served(share, line);
        }
        if let Some(flows) = self.lines.get_mut(&line).and_then(|l| l.classes.get_mut(share.1)) {
            flows.served(flow);
        }
        self.remove(ticket, now);
    }

    /// It waits no longer, for whatever reason.
    pub fn remove_waiter(&mut self, ticket: Ticket, now: Instant) {
        self.remove(ticket, now);
    }

    /// From now on it waits for these providers.
    pub fn move_to_group(&mut self, ticket: Ticket, line: GroupKey, now: Instant) {
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        if self.lines.get(&waiter.line).is_some_and(|standing| standing.line == line) {
            return;
        }
        let free = self.leave_group(ticket, now);
        let line = self.group_id(line);
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.line = line;
        }
        self.join_group(ticket, now);
        free.into_iter().for_each(|provider| self.capacity_available(provider, now));
    }
}

#[cfg(test)]
#[path = "wait_queue_tests.rs"]
mod tests;
