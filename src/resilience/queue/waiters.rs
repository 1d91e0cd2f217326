//! Who waits in one queue: bounds, who has to go when it is full, and who has waited longest.
//!
//! - Full: whoever comes displaces the newest of the lowest class, if that is lower than its own;
//!   else, among its own class, the newest of the flow with the most members, if that has more than
//!   its own flow then would. So no flow can keep another out of a full queue (the longest queue is
//!   dropped from, as in fq_codel, RFC 8290). Else it is refused.
//! - When the oldest of a class has waited for half of `max_wait`, its newest go first until the
//!   class is empty (adaptive LIFO, as Facebook's wangle): under an overload that lasts, first in
//!   first out serves only those who are about to give up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::wait_queue::Ticket;

/// Bounds of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePolicy {
    pub max_waiting: usize,
    pub max_bytes: u64,
    pub max_wait: Duration,
    /// Of the classes, the highest first.
    pub weights: Vec<u32>,
}

/// Why nobody may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// The queue has no place for this class.
    Queue,
    /// The flow has as many places as any other, and others want them.
    Flow,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueWaiters {
    policy: QueuePolicy,
    classes: Vec<ClassWaiters>,
    bytes: u64,
    waiting: usize,
}

#[derive(Clone, Debug, Default)]
struct ClassWaiters {
    /// By age.
    waiting: BTreeMap<Ticket, WaiterInfo>,
    flows: BTreeMap<u64, BTreeSet<Ticket>>,
    by_length: BTreeSet<(usize, u64)>,
    bytes: u64,
    newest_first: bool,
}

#[derive(Clone, Copy, Debug)]
struct WaiterInfo {
    /// When it began to wait here.
    since: Instant,
    bytes: u64,
}

/// A member as the queue sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedRequest {
    pub ticket: Ticket,
    pub class: usize,
    pub flow: u64,
    pub bytes: u64,
}

impl QueueWaiters {
    pub fn new(policy: QueuePolicy) -> Self {
        let classes = policy.weights.iter().map(|_| ClassWaiters::default()).collect();
        QueueWaiters { policy, classes, bytes: 0, waiting: 0 }
    }

    /// Who waits goes on waiting, whatever the new bounds are.
    pub fn retune(&mut self, policy: QueuePolicy) {
        if self.classes.len() < policy.weights.len() {
            self.classes.resize_with(policy.weights.len(), ClassWaiters::default);
        }
        self.policy = policy;
    }

    pub fn policy(&self) -> &QueuePolicy {
        &self.policy
    }

    /// A class that the policy no longer has has the least weight.
    pub fn weight(&self, class: usize) -> u32 {
        self.policy.weights.get(class).copied().unwrap_or(1)
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many wait in a class, and since when its oldest does.
    pub fn of_class(&self, class: usize) -> (usize, Option<Instant>) {
        self.classes.get(class).map_or((0, None), |class| (class.waiting.len(), class.oldest()))
    }

    /// Flows of a class with the most members first.
    pub fn flows(&self, class: usize) -> impl Iterator<Item = (u64, usize)> {
        let class = self.classes.get(class);
        class
            .into_iter()
            .flat_map(|class| class.by_length.iter().rev().map(|(len, flow)| (*flow, *len)))
    }

    /// Those of a class that are served before one more of a flow: flows take turns.
    pub fn turns_before(&self, class: usize, flow: u64) -> usize {
        let Some(class) = self.classes.get(class) else { return 0 };
        let own = class.flows.get(&flow).map_or(0, BTreeSet::len);
        class.waiting.len().min((own + 1) * class.flows.len())
    }

    /// Who has to go so that this one may join; nobody where there is room.
    ///
    /// # Errors
    /// When nobody has to go for it.
    pub fn displaced_by(&self, member: &QueuedRequest) -> Result<Vec<Ticket>, QueueFull> {
        let lower = || self.classes.iter().enumerate().skip(member.class + 1).rev();
        let bytes_of_lower: u64 = lower().map(|(_, class)| class.bytes).sum();
        let most = self.policy.max_bytes.saturating_sub(member.bytes);
        if member.class >= self.classes.len()
            || member.bytes > self.policy.max_bytes
            || self.bytes - bytes_of_lower > most
        {
            return Err(QueueFull::Queue);
        }
        let mut over = self.bytes.saturating_sub(most);
        let mut out = (self.waiting + 1).saturating_sub(self.policy.max_waiting);
        let mut victims = Vec::new();
        for (ticket, bytes) in lower().flat_map(|(_, class)| class.first_to_go()) {
            if over == 0 && out == 0 {
                break;
            }
            victims.push(ticket);
            out = out.saturating_sub(1);
            over = over.saturating_sub(bytes);
        }
        match (over, out) {
            (0, 0) => Ok(victims),
            (0, 1) => {
                victims.push(self.classes[member.class].of_a_longer_flow(member.flow)?);
                Ok(victims)
            }
            _ => Err(QueueFull::Queue),
        }
    }

    pub fn insert(&mut self, member: &QueuedRequest, now: Instant) {
        let Some(class) = self.classes.get_mut(member.class) else { return };
        class.insert(member, now);
        self.bytes += member.bytes;
        self.waiting += 1;
    }

    pub fn remove(&mut self, member: &QueuedRequest) {
        let Some(class) = self.classes.get_mut(member.class) else { return };
        if class.remove(member) {
            self.bytes -= member.bytes;
            self.waiting -= 1;
        }
    }

    /// Do the newest of a class go first?
    pub fn newest_first(&mut self, class: usize, now: Instant) -> bool {
        let Some(class) = self.classes.get_mut(class) else { return false };
        let half = self.policy.max_wait / 2;
        let late = |since| now.saturating_duration_since(since) >= half;
        class.newest_first |= class.oldest().is_some_and(late);
        class.newest_first
    }
}

// === impl Class ===

impl ClassWaiters {
    fn oldest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, standing)| standing.since)
    }

    fn insert(&mut self, member: &QueuedRequest, now: Instant) {
        let standing = WaiterInfo { since: now, bytes: member.bytes };
        self.waiting.insert(member.ticket, standing);
        let flow = self.flows.entry(member.flow).or_default();
        self.by_length.remove(&(flow.len(), member.flow));
        flow.insert(member.ticket);
        self.by_length.insert((flow.len(), member.flow));
        self.bytes += member.bytes;
    }

    fn remove(&mut self, member: &QueuedRequest) -> bool {
        if self.waiting.remove(&member.ticket).is_none() {
            return false;
        }
        if let Some(flow) = self.flows.get_mut(&member.flow) {
            self.by_length.remove(&(flow.len(), member.flow));
            flow.remove(&member.ticket);
            match flow.len() {
                0 => drop(self.flows.remove(&member.flow)),
                len => drop(self.by_length.insert((len, member.flow))),
            }
        }
        self.bytes -= member.bytes;
        self.newest_first &= !self.waiting.is_empty();
        true
    }

    /// Of the longest flow the newest first.
    fn first_to_go(&self) -> impl Iterator<Item = (Ticket, u64)> {
        let flows = self.by_length.iter().rev().filter_map(|(_, flow)| self.flows.get(flow));
        let tickets = flows.flat_map(|flow| flow.iter().rev());
        tickets.filter_map(|ticket| Some((*ticket, self.waiting.get(ticket)?.bytes)))
    }

    /// Who makes way for one more of `flow`.
    fn of_a_longer_flow(&self, flow: u64) -> Result<Ticket, QueueFull> {
        let own = self.flows.get(&flow).map_or(0, BTreeSet::len);
        let (longest, whose) = self.by_length.last().copied().ok_or(QueueFull::Queue)?;
        let newest = self.flows.get(&whose).and_then(|flow| flow.last());
        match newest {
            Some(ticket) if longest > own + 1 => Ok(*ticket),
            _ if own > 0 && self.flows.len() > 1 => Err(QueueFull::Flow),
            _ => Err(QueueFull::Queue),
        }
    }
}

#[cfg(test)]
#[path = "waiters_tests.rs"]
mod tests;
