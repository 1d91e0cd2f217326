//! The wait queue as all workers share it: one order, one short lock, no polling.
//!
//! A request that must wait takes a [`WaitTicket`]. It sleeps until the queue offers capacity,
//! until it is displaced, or until its own time ends; after a check it reports the result to
//! the queue (`resilience/queue/wait_queue.rs` has the rules). Dropping the ticket leaves the
//! queue, and the next waiter gets the offer. While no request waits for a provider, this
//! costs one load of `ProviderQueue::count`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::QueueLive;
use crate::clock;
use crate::resilience::queue::wait_queue::{
    GroupKey, QueueEntry, QueueRejection, Ticket, WaitQueue,
};
use crate::resilience::queue::waiters::QueuePolicy;
use crate::telemetry::metrics::Level;

/// The number of waiters for a provider, and its id in the wait queue.
#[derive(Debug)]
pub struct ProviderQueue {
    pub id: u32,
    count: AtomicU32,
    gauge: Level,
}

#[derive(Debug, Default)]
pub struct WaitQueueCell {
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    queue_rules: WaitQueue,
    waiting: BTreeMap<Ticket, WaitingTask>,
    queued: HashMap<u32, Arc<ProviderQueue>>,
    /// Displaced waiters to be woken.
    displaced: Vec<Ticket>,
    next_id: u32,
}

#[derive(Debug)]
struct WaitingTask {
    waker: Option<Waker>,
    /// Another request took its place.
    displaced: bool,
    providers: Box<[u32]>,
}

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// It has an offer to check.
    Check,
    /// A request of a higher class or a shorter flow took its place.
    Displaced,
}

/// The result of checking an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchResult {
    /// No capacity is free.
    Full,
    /// Rate limits allow nothing until then.
    RateLimited(Instant),
    /// Breakers or holds block its whole group until then.
    Blocked(Instant),
    /// This request cannot use the provider, whatever other requests can.
    Ineligible,
}

/// A request's place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct WaitTicket {
    wait_queue: Arc<WaitQueueCell>,
    queue: Arc<QueueLive>,
    ticket: Ticket,
    class: usize,
    group: GroupKey,
    /// When it joined the queue.
    pub since: Instant,
}

impl ProviderQueue {
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

impl WaitQueueCell {
    /// Registers a provider; the gauge shows its waiters.
    pub fn register(&self, gauge: Level) -> Arc<ProviderQueue> {
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        let queued = Arc::new(ProviderQueue { id, count: AtomicU32::new(0), gauge });
        state.queued.insert(id, Arc::clone(&queued));
        queued
    }

    /// Removes a provider.
    pub fn forget(&self, provider: u32) {
        self.state.lock().queued.remove(&provider);
    }

    /// Adds a queue; returns its id.
    pub fn add_queue(&self, policy: QueuePolicy) -> u32 {
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.queue_rules.set_queue(id, policy);
        id
    }

    pub fn set_queue(&self, queue: u32, policy: QueuePolicy) {
        self.state.lock().queue_rules.set_queue(queue, policy);
    }

    pub fn drop_queue(&self, queue: u32) {
        self.state.lock().queue_rules.drop_queue(queue);
    }

    pub fn pause(&self, queue: u32, paused: bool) {
        self.locked(|state| state.queue_rules.pause(queue, paused, clock::now()));
    }

    /// A provider may have capacity.
    pub fn capacity_available(&self, provider: u32) {
        self.locked(|state| state.queue_rules.capacity_available(provider, clock::now()));
    }

    /// Breakers or holds of a provider may have changed.
    pub fn conditions_changed(&self, provider: u32) {
        self.locked(|state| state.queue_rules.conditions_changed(provider, clock::now()));
    }

    /// The time until the current waiters for these providers are gone.
    pub fn backlog(&self, providers: &[u32], most: Duration) -> Option<Duration> {
        self.state.lock().queue_rules.backlog(providers, most, clock::now())
    }

    /// Waiters served per second.
    pub fn drain_rate(&self, provider: u32) -> Option<f64> {
        self.state.lock().queue_rules.drain_rate(provider, clock::now())
    }

    /// The waiters of a class: their number, since when the oldest waits, and the longest
    /// flows.
    pub fn class(&self, queue: u32, class: usize) -> (usize, Option<Instant>, Vec<usize>) {
        let state = self.state.lock();
        let Some(waiters) = state.queue_rules.queue(queue) else { return (0, None, Vec::new()) };
        let (count, oldest) = waiters.of_class(class);
        (count, oldest, waiters.flows(class).map(|(_, len)| len).take(16).collect())
    }

    /// Joins the queue.
    ///
    /// # Errors
    /// Why the request cannot wait.
    pub fn enqueue(
        self: &Arc<Self>,
        queue: &Arc<QueueLive>,
        entry: QueueEntry,
        now: Instant,
    ) -> Result<WaitTicket, QueueRejection> {
        let (group, class) = (entry.group.clone(), entry.class);
        let entered = self.locked(|state| {
            let (ticket, displaced) = state.queue_rules.enqueue(entry, now)?;
            let providers = group.providers.clone();
            state.count(&providers, 1);
            state.waiting.insert(ticket, WaitingTask { waker: None, displaced: false, providers });
            for displaced_ticket in &displaced {
                state.displace(*displaced_ticket);
            }
            Ok(ticket)
        });
        let ticket = entered?;
        queue.entered(class);
        let (wait_queue, queue) = (Arc::clone(self), Arc::clone(queue));
        Ok(WaitTicket { wait_queue, queue, ticket, class, group, since: now })
    }

    /// Runs `act` under the lock, then wakes the waiters it concerns.
    fn locked<R>(&self, act: impl FnOnce(&mut QueueState) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state);
        let mut woken = state.queue_rules.take_woken();
        woken.append(&mut state.displaced);
        let waker = |ticket| state.waiting.get_mut(&ticket).and_then(|w| w.waker.take());
        let wakers: Vec<Waker> = woken.into_iter().filter_map(waker).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl QueueState {
    fn count(&self, providers: &[u32], change: i32) {
        for queued in providers.iter().filter_map(|provider| self.queued.get(provider)) {
            if change > 0 {
                queued.count.fetch_add(1, Ordering::SeqCst);
                queued.gauge.inc();
            } else {
                queued.count.fetch_sub(1, Ordering::SeqCst);
                queued.gauge.dec();
            }
        }
    }

    /// It has left the queue, but its ticket is not dropped yet.
    fn displace(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.displaced = true;
        let providers = std::mem::take(&mut waiting.providers);
        self.count(&providers, -1);
        self.displaced.push(ticket);
    }

    /// Moves a waiter to the group with this key.
    fn move_to_group(&mut self, ticket: Ticket, group: GroupKey, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        if waiting.displaced || waiting.providers == group.providers {
            return;
        }
        let before = std::mem::replace(&mut waiting.providers, group.providers.clone());
        self.count(&before, -1);
        self.count(&group.providers, 1);
        self.queue_rules.move_to_group(ticket, group, now);
    }
}

impl WaitTicket {
    /// Providers that offer capacity to it.
    pub fn offers(&self) -> Vec<u32> {
        self.wait_queue.state.lock().queue_rules.offers(self.ticket)
    }

    /// Moves to the group whose breakers, holds and quotas have this key.
    pub fn set_state(&mut self, key: u64, now: Instant) {
        if self.group.state == key {
            return;
        }
        self.group.state = key;
        self.wait_queue.locked(|state| {
            let Some(waiting) = state.waiting.get(&self.ticket) else { return };
            let group = GroupKey { providers: waiting.providers.clone(), ..self.group.clone() };
            state.queue_rules.move_to_group(self.ticket, group, now);
        });
    }

    /// Reports the results of checking its offers, when none could be used.
    pub fn report(&self, result: &[(u32, DispatchResult)], now: Instant) {
        self.wait_queue.locked(|state| {
            for (provider, result) in result {
                match result {
                    DispatchResult::Full => state.queue_rules.decline(self.ticket, *provider, now),
                    DispatchResult::RateLimited(until) => {
                        state.queue_rules.defer(self.ticket, *provider, *until, now)
                    }
                    DispatchResult::Blocked(until) => {
                        state.queue_rules.block_group(self.ticket, *provider, *until, now)
                    }
                    DispatchResult::Ineligible => {
                        let providers = state.waiting.get(&self.ticket).map(|w| &w.providers);
                        let others = providers.into_iter().flatten().filter(|p| *p != provider);
                        let group =
                            GroupKey { providers: others.copied().collect(), ..self.group.clone() };
                        state.move_to_group(self.ticket, group, now);
                    }
                }
            }
        });
    }

    /// Timers expired: providers it was ineligible for, deferred offers and blocked groups
    /// are checked again.
    pub fn due(&self, now: Instant) {
        self.wait_queue.locked(|state| {
            state.move_to_group(self.ticket, self.group.clone(), now);
            state.queue_rules.expire_timers(self.ticket, now);
        });
    }

    /// When it must check again without an offer.
    pub fn next_check(&self) -> Option<Instant> {
        self.wait_queue.state.lock().queue_rules.next_check(self.ticket)
    }

    /// Waits for an offer or displacement.
    pub fn poll_wake(&self, cx: &Context<'_>) -> Poll<WakeReason> {
        let mut state = self.wait_queue.state.lock();
        let looks = state.queue_rules.has_new_offer(self.ticket);
        let Some(waiting) = state.waiting.get_mut(&self.ticket) else {
            return Poll::Ready(WakeReason::Displaced);
        };
        if waiting.displaced {
            return Poll::Ready(WakeReason::Displaced);
        }
        if looks {
            return Poll::Ready(WakeReason::Check);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// It is served by this provider.
    pub fn served(self, provider: u32, now: Instant) {
        self.wait_queue.locked(|state| {
            if state.waiting.get(&self.ticket).is_some_and(|waiting| !waiting.displaced) {
                state.queue_rules.served(self.ticket, provider, now);
            }
        });
        self.queue.served(self.class, now.saturating_duration_since(self.since));
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        let now = clock::now();
        self.wait_queue.locked(|state| {
            let Some(waiting) = state.waiting.remove(&self.ticket) else { return };
            state.queue_rules.remove(self.ticket, now);
            if !waiting.displaced {
                state.count(&waiting.providers, -1);
            }
        });
        self.queue.record_departure(self.class);
    }
}
