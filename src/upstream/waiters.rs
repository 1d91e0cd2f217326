//! Waiters for a connection, in order of arrival.
//!
//! A waiter that is *granted* has a claim on one free slot until it takes it. While claims are
//! outstanding, a newcomer cannot take a slot that was freed for an earlier waiter. A waiter that
//! is dropped with its claim passes it on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::pool::ConnectionPool;

#[derive(Default)]
pub(super) struct WaiterQueue {
    waiting: RefCell<VecDeque<Rc<PoolWaiter>>>,
    claims: Cell<usize>,
}

struct PoolWaiter {
    granted: Cell<bool>,
    waker: RefCell<Waker>,
}

impl WaiterQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    pub(super) fn claims(&self) -> usize {
        self.claims.get()
    }

    /// Grants claims to waiters until all `free` slots are claimed.
    pub(super) fn grant(&self, free: usize) {
        while self.claims.get() < free {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else { return };
            self.claims.set(self.claims.get() + 1);
            waiter.granted.set(true);
            waiter.waker.borrow().wake_by_ref();
        }
    }

    fn join(&self, waker: &Waker) -> Rc<PoolWaiter> {
        let waiter =
            Rc::new(PoolWaiter { granted: Cell::new(false), waker: RefCell::new(waker.clone()) });
        self.waiting.borrow_mut().push_back(Rc::clone(&waiter));
        waiter
    }

    fn release(&self) {
        self.claims.set(self.claims.get().saturating_sub(1));
    }
}

impl fmt::Debug for WaiterQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaiterQueue({} waiting)", self.waiting.borrow().len())
    }
}

/// Completes when an idle connection or a free slot can be taken.
#[must_use = "waits only when polled"]
pub struct PoolWait {
    pool: Rc<ConnectionPool>,
    waiter: Option<Rc<PoolWaiter>>,
}

impl PoolWait {
    pub(super) fn new(pool: Rc<ConnectionPool>) -> Self {
        Self { pool, waiter: None }
    }
}

impl Future for PoolWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let wait = self.get_mut();
        let waiters = &wait.pool.waiters;
        match &wait.waiter {
            None if waiters.is_empty() && wait.pool.free_slots() > waiters.claims() => {
                return Poll::Ready(());
            }
            None => wait.waiter = Some(waiters.join(cx.waker())),
            Some(waiter) if waiter.granted.get() => {
                waiters.release();
                wait.waiter = None;
                return Poll::Ready(());
            }
            Some(waiter) => waiter.waker.borrow_mut().clone_from(cx.waker()),
        }
        Poll::Pending
    }
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if waiter.granted.get() {
            self.pool.waiters.release();
            self.pool.wake_waiters();
        } else {
            self.pool.waiters.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &waiter));
        }
    }
}

impl fmt::Debug for PoolWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolWait").field("waiting", &self.waiter.is_some()).finish()
    }
}
