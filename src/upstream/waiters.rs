//! Who waits for a connection, in the order in which they came.
//!
//! A waiter that is *called* has a claim on one free place until it looks for it; while claims
//! are out, a newcomer finds nothing that was freed for those before it. A waiter that leaves
//! with its claim hands it on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::pool::Pool;

#[derive(Default)]
pub(super) struct Queue {
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    claims: Cell<usize>,
}

struct Waiter {
    called: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    pub(super) fn claims(&self) -> usize {
        self.claims.get()
    }

    /// Calls waiters until all of `free` places are claimed.
    pub(super) fn call(&self, free: usize) {
        while self.claims.get() < free {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else { return };
            self.claims.set(self.claims.get() + 1);
            waiter.called.set(true);
            waiter.waker.borrow().wake_by_ref();
        }
    }

    fn join(&self, waker: &Waker) -> Rc<Waiter> {
        let waiter =
            Rc::new(Waiter { called: Cell::new(false), waker: RefCell::new(waker.clone()) });
        self.waiting.borrow_mut().push_back(Rc::clone(&waiter));
        waiter
    }

    fn release(&self) {
        self.claims.set(self.claims.get().saturating_sub(1));
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} waiting)", self.waiting.borrow().len())
    }
}

/// Ready when it is worth looking for a connection, or room for one, again.
#[must_use = "waits only when polled"]
pub struct Room {
    pool: Rc<Pool>,
    waiter: Option<Rc<Waiter>>,
}

impl Room {
    pub(super) fn new(pool: Rc<Pool>) -> Self {
        Self { pool, waiter: None }
    }
}

impl Future for Room {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.get_mut();
        let queue = &room.pool.queue;
        match &room.waiter {
            None if queue.is_empty() && room.pool.free() > queue.claims() => return Poll::Ready(()),
            None => room.waiter = Some(queue.join(cx.waker())),
            Some(waiter) if waiter.called.get() => {
                queue.release();
                room.waiter = None;
                return Poll::Ready(());
            }
            Some(waiter) => waiter.waker.borrow_mut().clone_from(cx.waker()),
        }
        Poll::Pending
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if waiter.called.get() {
            self.pool.queue.release();
            self.pool.awaken();
        } else {
            self.pool.queue.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &waiter));
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("waiting", &self.waiter.is_some()).finish()
    }
}
