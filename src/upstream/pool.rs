//! A worker's idle connections, and how many it has open.
//!
//! A connection is put back the moment its response was read, last in, first out. What the worker
//! has heard of it since is asked at checkout and at each sweep; one that sat idle for 100 ms is
//! also looked at with a system call: a server that closed it, or spoke unasked, would cost the
//! request, and a reset on a reused connection proves nothing (a repeat could pay twice). It is
//! kept for less long than the server says that it keeps it (`Keep-Alive: timeout`).
//!
//! A place is held by a dial, then by the connection: room comes back when it is gone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dial::{self, DialError};
use super::dns::Name;
use super::http1::connection::{Connection, Link};
use super::target::Target;
use super::waiters::{Queue, Room};
use crate::clock;

/// Idle for less than this, a connection is used without a look.
const UNSEEN: Duration = Duration::from_millis(100);

/// One worker's. A clone is the same pools.
#[derive(Clone)]
pub struct Pools(Rc<Shelf>);

struct Shelf {
    idle_for: Duration,
    pools: RefCell<HashMap<u64, Rc<Pool>, BuildHasherDefault<Direct>>>,
}

/// The connections to targets of one id.
#[derive(Debug)]
pub(super) struct Pool {
    idle_for: Duration,
    /// When somebody last looked: close enough for how long a connection has been idle.
    now: Cell<Instant>,
    /// Of all that connecting ever took: about a round trip.
    fastest: Cell<Duration>,
    /// As the target said that was used last.
    limit: Cell<usize>,
    open: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    pub(super) queue: Queue,
}

#[derive(Debug)]
struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// One open connection, or a dial; counted from its making to its drop.
#[derive(Debug)]
pub(super) struct Place(Rc<Pool>);

/// An id is a hash already.
#[derive(Default)]
struct Direct(u64);

/// A dial under way, as a task of its own: dropped, it still ends, and its connection is kept.
#[derive(Debug)]
#[must_use = "the connection goes to the pool"]
pub struct Dialling(oneshot::Receiver<Result<Connection, DialError>>);

// === impl Pools ===

impl Pools {
    /// A connection is kept idle for `idle`, unless its server said less.
    pub fn new(idle: Duration) -> Self {
        Self(Rc::new(Shelf { idle_for: idle, pools: RefCell::default() }))
    }

    /// An idle connection that looks alive.
    pub fn idle(&self, target: &Target, now: Instant) -> Option<Connection> {
        let pool = self.pool(target);
        pool.now.set(now);
        let claims = pool.queue.claims();
        if claims > 0 && pool.free() <= claims {
            return None;
        }
        pool.checkout(&target.name, now).map(|link| Connection::new(link, true))
    }

    /// Whether another connection may be opened.
    pub fn has_room(&self, target: &Target) -> bool {
        let pool = self.pool(target);
        let claims = pool.queue.claims();
        pool.open.get() < pool.limit.get() && (claims == 0 || pool.free() > claims)
    }

    /// Whether an attempt would get a connection now, idle or new.
    pub fn has_place(&self, target: &Target) -> bool {
        let pool = self.pool(target);
        let claims = pool.queue.claims();
        (claims == 0 && pool.open.get() < pool.limit.get()) || pool.free() > claims
    }

    /// Waits until a connection came back or there is room; ask `idle` and `has_room` at once then.
    pub fn room(&self, target: &Target) -> Room {
        Room::new(self.pool(target))
    }

    /// Starts to dial. The caller has asked `has_room`. Within a `LocalSet` only.
    pub fn dial(&self, target: &Arc<Target>) -> Dialling {
        let place = Place::new(self.pool(target));
        let target = Arc::clone(target);
        let (sender, receiver) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let dialled = dial::connection(&target, place).await;
            // Refused because nobody waits: the connection is dropped, which puts it into the pool.
            drop(sender.send(dialled));
        });
        Dialling(receiver)
    }

    /// Drops connections that were idle for long enough, and pools without any.
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

    /// Open and dialling.
    pub fn open(&self, target: &Target) -> usize {
        self.0.pools.borrow().get(&target.id()).map_or(0, |pool| pool.open.get())
    }

    /// As if what is idle had been so for longer.
    #[cfg(test)]
    pub(super) fn age(&self, target: &Target, by: Duration) {
        for idle in self.pool(target).idle.borrow_mut().iter_mut() {
            idle.since -= by;
        }
    }

    fn pool(&self, target: &Target) -> Rc<Pool> {
        let mut pools = self.0.pools.borrow_mut();
        let pool = pools.entry(target.id()).or_insert_with(|| Rc::new(Pool::new(self.0.idle_for)));
        pool.limit.set(target.connections);
        Rc::clone(pool)
    }
}

impl Drop for Shelf {
    /// An idle connection and its pool hold each other.
    fn drop(&mut self) {
        for pool in self.pools.get_mut().values() {
            pool.idle.take().into_iter().for_each(|idle| idle.link.close());
        }
    }
}

// === impl Pool ===

impl Pool {
    fn new(idle_for: Duration) -> Self {
        Self {
            idle_for,
            now: Cell::new(clock::now()),
            fastest: Cell::new(Duration::MAX),
            limit: Cell::new(0),
            open: Cell::new(0),
            idle: RefCell::default(),
            queue: Queue::default(),
        }
    }

    /// Notes what connecting took; the least that it ever took.
    pub(super) fn connected(&self, took: Duration) -> Duration {
        self.fastest.set(self.fastest.get().min(took));
        self.fastest.get()
    }

    /// Places that could be taken now.
    pub(super) fn free(&self) -> usize {
        self.limit.get().saturating_sub(self.open.get()) + self.idle.borrow().len()
    }

    /// Calls those who wait, as far as there is something for them.
    pub(super) fn awaken(&self) {
        if !self.queue.is_empty() {
            self.queue.call(self.free());
        }
    }

    fn checkout(&self, name: &Name, now: Instant) -> Option<Box<Link>> {
        loop {
            let mut found = self.idle.borrow_mut().pop()?;
            if found.is_usable(name, now, self.idle_for) {
                return Some(found.link);
            }
            found.link.close();
        }
    }

    /// Takes a connection that is ready for its next request.
    pub(super) fn put_back(&self, link: Box<Link>) {
        let keep = link.keep().min(self.idle_for);
        if keep.is_zero() || self.open.get() > self.limit.get() {
            return link.close();
        }
        self.idle.borrow_mut().push(Idle { link, since: self.now.get() });
        self.awaken();
    }

    fn sweep(&self, now: Instant) {
        self.now.set(now);
        let keep = self.idle_for;
        let ended = |idle: &mut Idle| idle.is_old(now, keep) || idle.link.has_ended();
        // Closed when the borrow has ended: the connection gives its place back.
        let ended: Vec<_> = self.idle.borrow_mut().extract_if(.., ended).collect();
        ended.into_iter().for_each(|idle| idle.link.close());
    }
}

impl Idle {
    fn is_old(&self, now: Instant, most: Duration) -> bool {
        now.saturating_duration_since(self.since) >= self.link.keep().min(most)
    }

    fn is_usable(&mut self, name: &Name, now: Instant, most: Duration) -> bool {
        !self.is_old(now, most)
            && self.link.is_at(name)
            && !self.link.has_ended()
            && (now.saturating_duration_since(self.since) < UNSEEN || self.link.is_silent())
    }
}

impl Place {
    fn new(pool: Rc<Pool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        Self(pool)
    }

    pub(super) fn pool(&self) -> Rc<Pool> {
        Rc::clone(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.awaken();
    }
}

// === impl Dialling ===

impl Future for Dialling {
    type Output = Result<Connection, DialError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|dialled| dialled.unwrap_or(Err(DialError::Stopped)))
    }
}

impl Hasher for Direct {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pools({})", self.0.pools.borrow().len())
    }
}
