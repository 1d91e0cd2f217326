//! Connection pools of a worker: idle connections, and a limit on open ones.
//!
//! A connection returns to its pool as soon as its response was read, and the most recently used
//! one is taken first. Checkout and each sweep consult the readiness that the runtime already
//! knows; after 100 ms of idling, checkout also peeks at the socket. A connection that the server
//! closed, or sent unsolicited bytes on, would fail the request, and after a reset on a reused
//! connection nothing is known about the request (a retry could be billed twice). Connections are
//! kept for less time than the server grants (`Keep-Alive: timeout`).
//!
//! A slot is held first by the dial, then by the connection, and is released on drop.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::BuildHasherDefault;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connection::{Connection, ConnectionInner};
use super::dial::{self, DialError};
use super::dns::DnsEntry;
use super::target::DialTarget;
use super::waiters::{PoolWait, WaiterQueue};
use crate::clock;
use crate::resilience::balance::affinity::IdentityHasher;
use crate::telemetry::panics::Contained;

/// A connection that idled for less than this is used without a peek.
const PEEK_AFTER: Duration = Duration::from_millis(100);

/// The pools of one worker. Clones share them.
#[derive(Clone)]
pub struct Pools(Rc<PoolsInner>);

struct PoolsInner {
    idle_for: Duration,
    pools: RefCell<HashMap<u64, Rc<ConnectionPool>, BuildHasherDefault<IdentityHasher>>>,
}

/// The connections to the targets with one id.
#[derive(Debug)]
pub(super) struct ConnectionPool {
    idle_for: Duration,
    /// The time of the last call, precise enough to measure idle time.
    now: Cell<Instant>,
    /// The fastest connect so far: about one round trip.
    fastest_connect: Cell<Duration>,
    /// The limit of the target that was used last.
    limit: Cell<usize>,
    open: Cell<usize>,
    idle: RefCell<Vec<IdleConnection>>,
    pub(super) waiters: WaiterQueue,
}

#[derive(Debug)]
struct IdleConnection {
    connection: Box<ConnectionInner>,
    since: Instant,
}

/// The right to one open connection or dial; released on drop.
#[derive(Debug)]
pub(super) struct PoolSlot(Rc<ConnectionPool>);

/// A dial that runs as its own task. If this is dropped, the dial still completes and its
/// connection goes to the pool.
#[derive(Debug)]
#[must_use = "the connection goes to the pool"]
pub struct PendingDial(oneshot::Receiver<Result<Connection, DialError>>);

impl Pools {
    /// Idle connections are kept for `idle`, or for less if the server grants less.
    pub fn new(idle: Duration) -> Self {
        Self(Rc::new(PoolsInner { idle_for: idle, pools: RefCell::default() }))
    }

    /// Takes an idle connection that appears to be alive.
    pub fn idle(&self, target: &DialTarget, now: Instant) -> Option<Connection> {
        let pool = self.pool(target);
        pool.now.set(now);
        let claims = pool.waiters.claims();
        if claims > 0 && pool.free_slots() <= claims {
            return None;
        }
        pool.checkout(&target.dns, now).map(|connection| Connection::new(connection, true))
    }

    /// Whether another connection may be opened.
    #[cfg(test)]
    pub(super) fn may_dial(&self, target: &DialTarget) -> bool {
        let pool = self.pool(target);
        let claims = pool.waiters.claims();
        pool.open.get() < pool.limit.get() && (claims == 0 || pool.free_slots() > claims)
    }

    /// Whether an attempt would get a connection now, be it idle or new.
    pub fn has_capacity(&self, target: &DialTarget) -> bool {
        let pool = self.pool(target);
        let claims = pool.waiters.claims();
        (claims == 0 && pool.open.get() < pool.limit.get()) || pool.free_slots() > claims
    }

    /// Waits for an idle connection or a free slot. Call `idle` and `has_capacity` without
    /// awaiting anything else in between.
    pub fn wait_for_capacity(&self, target: &DialTarget) -> PoolWait {
        PoolWait::new(self.pool(target))
    }

    /// Starts to dial. The caller has checked `has_capacity`, and runs within a `LocalSet`.
    pub fn dial(&self, target: &Arc<DialTarget>) -> PendingDial {
        let slot = PoolSlot::new(self.pool(target));
        let target = Arc::clone(target);
        let (sender, receiver) = oneshot::channel();
        tokio::task::spawn_local(Contained::new(async move {
            let result = dial::connection(&target, slot).await;
            // If the receiver is gone, the connection is dropped, which puts it into the pool.
            drop(sender.send(result));
        }));
        PendingDial(receiver)
    }

    /// Closes connections that idled for too long, and removes empty pools.
    pub fn sweep(&self, now: Instant) {
        let pools: Vec<_> = self.0.pools.borrow().values().cloned().collect();
        for pool in pools {
            pool.sweep(now);
        }
        self.0
            .pools
            .borrow_mut()
            .retain(|_, pool| pool.open.get() > 0 || Rc::strong_count(pool) > 1);
    }

    /// The number of open connections and dials.
    #[cfg(test)]
    pub(super) fn open_connections(&self, target: &DialTarget) -> usize {
        self.0.pools.borrow().get(&target.id()).map_or(0, |pool| pool.open.get())
    }

    /// Makes idle connections appear to have idled for longer.
    #[cfg(test)]
    pub(super) fn age(&self, target: &DialTarget, by: Duration) {
        for idle in self.pool(target).idle.borrow_mut().iter_mut() {
            idle.since -= by;
        }
    }

    fn pool(&self, target: &DialTarget) -> Rc<ConnectionPool> {
        let mut pools = self.0.pools.borrow_mut();
        let pool = pools
            .entry(target.id())
            .or_insert_with(|| Rc::new(ConnectionPool::new(self.0.idle_for)));
        pool.limit.set(target.max_connections);
        Rc::clone(pool)
    }
}

impl Drop for PoolsInner {
    /// Breaks the reference cycle between an idle connection and its pool.
    fn drop(&mut self) {
        for pool in self.pools.get_mut().values() {
            pool.idle.take().into_iter().for_each(|idle| idle.connection.close());
        }
    }
}

impl ConnectionPool {
    fn new(idle_for: Duration) -> Self {
        Self {
            idle_for,
            now: Cell::new(clock::now()),
            fastest_connect: Cell::new(Duration::MAX),
            limit: Cell::new(0),
            open: Cell::new(0),
            idle: RefCell::default(),
            waiters: WaiterQueue::default(),
        }
    }

    /// Records how long a connect took. Returns the fastest so far.
    pub(super) fn record_connect_time(&self, took: Duration) -> Duration {
        self.fastest_connect.set(self.fastest_connect.get().min(took));
        self.fastest_connect.get()
    }

    /// Idle connections and slots that could be taken now.
    pub(super) fn free_slots(&self) -> usize {
        self.limit.get().saturating_sub(self.open.get()) + self.idle.borrow().len()
    }

    /// Wakes as many waiters as can be served.
    pub(super) fn wake_waiters(&self) {
        if !self.waiters.is_empty() {
            self.waiters.grant(self.free_slots());
        }
    }

    fn checkout(&self, dns: &DnsEntry, now: Instant) -> Option<Box<ConnectionInner>> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.is_usable(dns, now, self.idle_for) {
                return Some(idle.connection);
            }
            idle.connection.close();
        }
    }

    /// Stores a connection that is ready for its next request.
    pub(super) fn put_back(&self, connection: Box<ConnectionInner>) {
        let keep = connection.keep_alive().min(self.idle_for);
        if keep.is_zero() || self.open.get() > self.limit.get() {
            return connection.close();
        }
        self.idle.borrow_mut().push(IdleConnection { connection, since: self.now.get() });
        self.wake_waiters();
    }

    fn sweep(&self, now: Instant) {
        self.now.set(now);
        let keep = self.idle_for;
        let is_stale = |idle: &mut IdleConnection| {
            let unused = now.saturating_duration_since(idle.since);
            idle.is_old(unused, keep) || idle.connection.has_input()
        };
        // Closed after the borrow has ended, because a connection releases its slot.
        let stale: Vec<_> = self.idle.borrow_mut().extract_if(.., is_stale).collect();
        stale.into_iter().for_each(|idle| idle.connection.close());
    }
}

impl IdleConnection {
    /// Whether it was `unused` for too long.
    fn is_old(&self, unused: Duration, most: Duration) -> bool {
        unused >= self.connection.keep_alive().min(most)
    }

    fn is_usable(&mut self, dns: &DnsEntry, now: Instant, most: Duration) -> bool {
        let unused = now.saturating_duration_since(self.since);
        !self.is_old(unused, most)
            && self.connection.still_resolves(dns)
            && !self.connection.has_input()
            && (unused < PEEK_AFTER || self.connection.is_quiet())
    }
}

impl PoolSlot {
    fn new(pool: Rc<ConnectionPool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        Self(pool)
    }

    pub(super) fn pool(&self) -> Rc<ConnectionPool> {
        Rc::clone(&self.0)
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.wake_waiters();
    }
}

impl Future for PendingDial {
    type Output = Result<Connection, DialError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|result| result.unwrap_or(Err(DialError::Stopped)))
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pools({})", self.0.pools.borrow().len())
    }
}
