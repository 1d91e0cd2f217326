//! The waiters of one queue: bounds, displacement when it is full, and age.
//!
//! - Full: a new request displaces the newest of the lowest class, if that is lower than its
//!   own; else, in its own class, the newest of the longest flow, if that is longer than its
//!   own flow would become. So no flow can keep another out of a full queue (the longest queue
//!   drops, as in fq_codel, RFC 8290). Otherwise the new request is rejected.
//! - When the oldest waiter of a class has waited for half of `max_wait`, the newest go first
//!   until the class is empty (adaptive LIFO, as in Facebook's wangle): under lasting
//!   overload, first in first out serves only requests that are about to time out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::wait_queue::Ticket;

/// Bounds of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePolicy {
    pub max_waiting: usize,
    pub max_bytes: u64,
    pub max_wait: Duration,
    /// Of the classes, highest class first.
    pub weights: Vec<u32>,
}

/// Why a request cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFullReason {
    /// The queue has no place for this class.
    Queue,
    /// The flow already has its fair share of a full queue.
    Flow,
}

/// The waiters of one queue.
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

/// A waiting request as the queue sees it.
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

    /// Takes new bounds; current waiters stay.
    pub fn retune(&mut self, policy: QueuePolicy) {
        if self.classes.len() < policy.weights.len() {
            self.classes.resize_with(policy.weights.len(), ClassWaiters::default);
        }
        self.policy = policy;
    }

    /// A class that the policy no longer has gets the least weight.
    pub fn weight(&self, class: usize) -> u32 {
        self.policy.weights.get(class).copied().unwrap_or(1)
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of waiters in a class, and since when its oldest waits.
    pub fn of_class(&self, class: usize) -> (usize, Option<Instant>) {
        self.classes.get(class).map_or((0, None), |class| (class.waiting.len(), class.oldest()))
    }

    /// Flows of a class and their lengths, longest first.
    pub fn flows(&self, class: usize) -> impl Iterator<Item = (u64, usize)> {
        let class = self.classes.get(class);
        class
            .into_iter()
            .flat_map(|class| class.by_length.iter().rev().map(|(len, flow)| (*flow, *len)))
    }

    /// The waiters of a class that are served before one more of a flow, since flows
    /// rotate.
    pub fn turns_before(&self, class: usize, flow: u64) -> usize {
        let Some(class) = self.classes.get(class) else { return 0 };
        let own = class.flows.get(&flow).map_or(0, BTreeSet::len);
        class.waiting.len().min((own + 1) * class.flows.len())
    }

    /// The waiters to displace so that this request can join; empty if there is room.
    ///
    /// # Errors
    /// When displacing does not help.
    pub fn displaced_by(&self, request: &QueuedRequest) -> Result<Vec<Ticket>, QueueFullReason> {
        let lower = || self.classes.iter().enumerate().skip(request.class + 1).rev();
        let bytes_of_lower: u64 = lower().map(|(_, class)| class.bytes).sum();
        let most = self.policy.max_bytes.saturating_sub(request.bytes);
        if request.class >= self.classes.len()
            || request.bytes > self.policy.max_bytes
            || self.bytes - bytes_of_lower > most
        {
            return Err(QueueFullReason::Queue);
        }
        let mut over = self.bytes.saturating_sub(most);
        let mut out = (self.waiting + 1).saturating_sub(self.policy.max_waiting);
        let mut displaced = Vec::new();
        for (ticket, bytes) in lower().flat_map(|(_, class)| class.displacement_order()) {
            if over == 0 && out == 0 {
                break;
            }
            displaced.push(ticket);
            out = out.saturating_sub(1);
            over = over.saturating_sub(bytes);
        }
        match (over, out) {
            (0, 0) => Ok(displaced),
            (0, 1) => {
                displaced.push(self.classes[request.class].newest_of_longer_flow(request.flow)?);
                Ok(displaced)
            }
            _ => Err(QueueFullReason::Queue),
        }
    }

    pub fn insert(&mut self, request: &QueuedRequest, now: Instant) {
        let Some(class) = self.classes.get_mut(request.class) else { return };
        class.insert(request, now);
        self.bytes += request.bytes;
        self.waiting += 1;
    }

    pub fn remove(&mut self, request: &QueuedRequest) {
        let Some(class) = self.classes.get_mut(request.class) else { return };
        if class.remove(request) {
            self.bytes -= request.bytes;
            self.waiting -= 1;
        }
    }

    /// Whether the newest of a class go first.
    pub fn newest_first(&mut self, class: usize, now: Instant) -> bool {
        let Some(class) = self.classes.get_mut(class) else { return false };
        let half = self.policy.max_wait / 2;
        let late = |since| now.saturating_duration_since(since) >= half;
        class.newest_first |= class.oldest().is_some_and(late);
        class.newest_first
    }
}

impl ClassWaiters {
    fn oldest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, info)| info.since)
    }

    fn insert(&mut self, request: &QueuedRequest, now: Instant) {
        let info = WaiterInfo { since: now, bytes: request.bytes };
        self.waiting.insert(request.ticket, info);
        let flow = self.flows.entry(request.flow).or_default();
        self.by_length.remove(&(flow.len(), request.flow));
        flow.insert(request.ticket);
        self.by_length.insert((flow.len(), request.flow));
        self.bytes += request.bytes;
    }

    fn remove(&mut self, request: &QueuedRequest) -> bool {
        if self.waiting.remove(&request.ticket).is_none() {
            return false;
        }
        if let Some(flow) = self.flows.get_mut(&request.flow) {
            self.by_length.remove(&(flow.len(), request.flow));
            flow.remove(&request.ticket);
            match flow.len() {
                0 => drop(self.flows.remove(&request.flow)),
                len => drop(self.by_length.insert((len, request.flow))),
            }
        }
        self.bytes -= request.bytes;
        self.newest_first &= !self.waiting.is_empty();
        true
    }

    /// Waiters in the order of displacement: the newest of the longest flow first.
    fn displacement_order(&self) -> impl Iterator<Item = (Ticket, u64)> {
        let flows = self.by_length.iter().rev().filter_map(|(_, flow)| self.flows.get(flow));
        let tickets = flows.flat_map(|flow| flow.iter().rev());
        tickets.filter_map(|ticket| Some((*ticket, self.waiting.get(ticket)?.bytes)))
    }

    /// The waiter to displace for one more of `flow`.
    fn newest_of_longer_flow(&self, flow: u64) -> Result<Ticket, QueueFullReason> {
        let own = self.flows.get(&flow).map_or(0, BTreeSet::len);
        let (longest, flow_id) = self.by_length.last().copied().ok_or(QueueFullReason::Queue)?;
        let newest = self.flows.get(&flow_id).and_then(|flow| flow.last());
        match newest {
            Some(ticket) if longest > own + 1 => Ok(*ticket),
            _ if own > 0 && self.flows.len() > 1 => Err(QueueFullReason::Flow),
            _ => Err(QueueFullReason::Queue),
        }
    }
}

#[cfg(test)]
#[path = "waiters_tests.rs"]
mod tests;
