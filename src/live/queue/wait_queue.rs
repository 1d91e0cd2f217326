//! The wait lane as all workers share it: one order, one short lock, nobody polls.
//!
//! A request that has to wait takes a [`WaitTicket`]. It sleeps until the lane gives it a turn, tells it
//! that somebody else has its place, or its own time comes; what it saw when it looked it tells the
//! lane (`resilience/queue/wait_queue.rs` has the rules). Dropping the place leaves the lane, and whoever is
//! next has the turn. While nobody waits for a provider, a look at `queued` is all that this costs.

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

/// How many wait for a provider, and the number by which the lane knows it.
#[derive(Debug)]
pub struct ProviderQueue {
    pub id: u32,
    count: AtomicU32,
    gauge: Level,
}

#[derive(Debug, Default)]
pub struct WaitQueueCell {
    inner: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    lane: WaitQueue,
    waiting: BTreeMap<Ticket, WaitingTask>,
    queued: HashMap<u32, Arc<ProviderQueue>>,
    /// To be woken.
    displaced: Vec<Ticket>,
    next_id: u32,
}

#[derive(Debug)]
struct WaitingTask {
    waker: Option<Waker>,
    /// Another one has its place.
    displaced: bool,
    providers: Box<[u32]>,
}

/// What a waiter hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// Look whether you can go.
    Check,
    /// A higher class, or a shorter flow, took your place.
    Displaced,
}

/// What one with the turn at a provider saw there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchResult {
    /// No place is free.
    Full,
    /// Its rates allow nothing until then.
    RateLimited(Instant),
    /// Breakers or holds let nobody of this line through until then.
    Blocked(Instant),
    /// Nothing for this request, whatever there is for others.
    Ineligible,
}

/// A request's place in the lane; left when it is dropped.
#[derive(Debug)]
pub struct WaitTicket {
    lanes: Arc<WaitQueueCell>,
    queue: Arc<QueueLive>,
    ticket: Ticket,
    class: usize,
    line: GroupKey,
    /// When it was entered.
    pub since: Instant,
}

impl ProviderQueue {
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

// === impl Lanes ===

impl WaitQueueCell {
    /// A number for a provider; the gauge tells how many wait for it.
    pub fn register(&self, gauge: Level) -> Arc<ProviderQueue> {
        let mut inner = self.inner.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        let queued = Arc::new(ProviderQueue { id, count: AtomicU32::new(0), gauge });
        inner.queued.insert(id, Arc::clone(&queued));
        queued
    }

    /// Its provider is no more.
    pub fn forget(&self, provider: u32) {
        self.inner.lock().queued.remove(&provider);
    }

    /// A number for a queue.
    pub fn add_queue(&self, policy: QueuePolicy) -> u32 {
        let mut inner = self.inner.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        inner.lane.set_queue(id, policy);
        id
    }

    pub fn set_queue(&self, queue: u32, policy: QueuePolicy) {
        self.inner.lock().lane.set_queue(queue, policy);
    }

    pub fn drop_queue(&self, queue: u32) {
        self.inner.lock().lane.drop_queue(queue);
    }

    pub fn pause(&self, queue: u32, paused: bool) {
        self.with(|inner| inner.lane.pause(queue, paused, clock::now()));
    }

    /// There may be room at a provider.
    pub fn capacity_available(&self, provider: u32) {
        self.with(|inner| inner.lane.capacity_available(provider, clock::now()));
    }

    /// What stands before a provider may have changed.
    pub fn conditions_changed(&self, provider: u32) {
        self.with(|inner| inner.lane.conditions_changed(provider, clock::now()));
    }

    /// When those who wait for these providers now will be gone.
    pub fn backlog(&self, providers: &[u32], most: Duration) -> Option<Duration> {
        self.inner.lock().lane.backlog(providers, most, clock::now())
    }

    /// Services a second, to those who wait.
    pub fn drain_rate(&self, provider: u32) -> Option<f64> {
        self.inner.lock().lane.drain_rate(provider, clock::now())
    }

    /// Of a class of a queue: how many wait, since when the oldest does, and the longest flows.
    pub fn class(&self, queue: u32, class: usize) -> (usize, Option<Instant>, Vec<usize>) {
        let inner = self.inner.lock();
        let Some(crowd) = inner.lane.queue(queue) else { return (0, None, Vec::new()) };
        let (count, oldest) = crowd.of_class(class);
        (count, oldest, crowd.flows(class).map(|(_, len)| len).take(16).collect())
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Why there is none.
    pub fn enqueue(
        self: &Arc<Self>,
        queue: &Arc<QueueLive>,
        entry: QueueEntry,
        now: Instant,
    ) -> Result<WaitTicket, QueueRejection> {
        let (line, class) = (entry.line.clone(), entry.class);
        let entered = self.with(|inner| {
            let (ticket, displaced) = inner.lane.enqueue(entry, now)?;
            let providers = line.providers.clone();
            inner.count(&providers, 1);
            inner.waiting.insert(ticket, WaitingTask { waker: None, displaced: false, providers });
            for victim in &displaced {
                inner.displace(*victim);
            }
            Ok(ticket)
        });
        let ticket = entered?;
        queue.entered(class);
        let (lanes, queue) = (Arc::clone(self), Arc::clone(queue));
        Ok(WaitTicket { lanes, queue, ticket, class, line, since: now })
    }

    /// Does something under the lock, and wakes whom that concerns after it.
    fn with<R>(&self, act: impl FnOnce(&mut QueueState) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = act(&mut inner);
        let mut woken = inner.lane.take_woken();
        woken.append(&mut inner.displaced);
        let waker = |ticket| inner.waiting.get_mut(&ticket).and_then(|w| w.waker.take());
        let wakers: Vec<Waker> = woken.into_iter().filter_map(waker).collect();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

// === impl Inner ===

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

    /// It is in the lane no longer; its place is not dropped yet.
    fn displace(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.displaced = true;
        let providers = std::mem::take(&mut waiting.providers);
        self.count(&providers, -1);
        self.displaced.push(ticket);
    }

    /// From now on it waits for these providers.
    fn aside(&mut self, ticket: Ticket, line: GroupKey, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        if waiting.displaced || waiting.providers == line.providers {
            return;
        }
        let before = std::mem::replace(&mut waiting.providers, line.providers.clone());
        self.count(&before, -1);
        self.count(&line.providers, 1);
        self.lane.move_to_group(ticket, line, now);
    }
}

// === impl Place ===

impl WaitTicket {
    /// Providers at which it is its turn.
    pub fn offers(&self) -> Vec<u32> {
        self.lanes.inner.lock().lane.offers(self.ticket)
    }

    /// It looked, and goes nowhere yet; `saw` is of the providers at which it had the turn.
    pub fn report(&self, saw: &[(u32, DispatchResult)], now: Instant) {
        self.lanes.with(|inner| {
            for (provider, saw) in saw {
                match saw {
                    DispatchResult::Full => inner.lane.decline(self.ticket, *provider, now),
                    DispatchResult::RateLimited(until) => {
                        inner.lane.defer(self.ticket, *provider, *until, now)
                    }
                    DispatchResult::Blocked(until) => {
                        inner.lane.block_group(self.ticket, *provider, *until, now)
                    }
                    DispatchResult::Ineligible => {
                        let providers = inner.waiting.get(&self.ticket).map(|w| &w.providers);
                        let others = providers.into_iter().flatten().filter(|p| *p != provider);
                        let line =
                            GroupKey { providers: others.copied().collect(), ..self.line.clone() };
                        inner.aside(self.ticket, line, now);
                    }
                }
            }
        });
    }

    /// What it was not for before may be for it now; what rested or was closed is looked at again.
    pub fn due(&self, now: Instant) {
        self.lanes.with(|inner| {
            inner.aside(self.ticket, self.line.clone(), now);
            inner.lane.expire_timers(self.ticket, now);
        });
    }

    /// When it has to look again by itself.
    pub fn next_check(&self) -> Option<Instant> {
        self.lanes.inner.lock().lane.next_check(self.ticket)
    }

    /// Waits to be called.
    pub fn poll_wake(&self, cx: &Context<'_>) -> Poll<WakeReason> {
        let mut inner = self.lanes.inner.lock();
        let looks = inner.lane.has_new_offer(self.ticket);
        let Some(waiting) = inner.waiting.get_mut(&self.ticket) else {
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

    /// It goes, to this provider.
    pub fn served(self, provider: u32, now: Instant) {
        self.lanes.with(|inner| {
            if inner.waiting.get(&self.ticket).is_some_and(|waiting| !waiting.displaced) {
                inner.lane.served(self.ticket, provider, now);
            }
        });
        self.queue.served(self.class, now.saturating_duration_since(self.since));
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        let now = clock::now();
        self.lanes.with(|inner| {
            let Some(waiting) = inner.waiting.remove(&self.ticket) else { return };
            inner.lane.remove_waiter(self.ticket, now);
            if !waiting.displaced {
                inner.count(&waiting.providers, -1);
            }
        });
        self.queue.left(self.class);
    }
}
