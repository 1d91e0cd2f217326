//! Who works on a queue, and what is being worked on.

use std::rc::Rc;

use super::dispatcher::Dispatcher;
use super::partition::{AdmissionState, PartitionState};
use crate::resilience::queue::stride::Stride;
use crate::snapshot::RouteQueue;
use crate::store::Partition;

/// The workers of a queue.
#[derive(Default)]
pub struct WorkerPool {
    pub running: usize,
    pub classes: Stride<usize>,
}

/// One place in a pool; given back when it is dropped.
pub struct WorkerSlot(Rc<Dispatcher>, String);

/// A job that is neither coming nor done; let go when this is dropped.
pub struct ActiveJob(pub Rc<Dispatcher>, pub Partition, pub i64);

impl Dispatcher {
    /// Workers of a queue that have nothing to do; none while it is paused.
    pub fn idle(&self, queue: &RouteQueue) -> usize {
        if self.closed.get() || queue.live.is_paused() {
            return 0;
        }
        let name = &queue.policy.name;
        let running = self.pools.borrow().get(name).map_or(0, |pool| pool.running);
        let lines = self.lines.borrow();
        let of_queue = lines.iter().filter(|(line, _)| line.queue == *name);
        let seeking = of_queue.filter(|(_, state)| state.seeks == AdmissionState::OnItsWay).count();
        queue.policy.durable.workers.saturating_sub(running + seeking)
    }

    /// Whether a line has nothing of its own that could be begun.
    pub fn has_nothing(&self, line: &Partition) -> bool {
        let lines = self.lines.borrow();
        lines
            .get(line)
            .is_none_or(|state| !state.is_busy() && state.seeks == AdmissionState::Nobody)
    }

    /// A worker for a job of another host.
    pub fn lend(self: &Rc<Self>, queue: &RouteQueue) -> Option<WorkerSlot> {
        if self.idle(queue) == 0 {
            return None;
        }
        let name = queue.policy.name.clone();
        self.pools.borrow_mut().entry(name.clone()).or_default().running += 1;
        Some(WorkerSlot(Rc::clone(self), name))
    }

    /// A worker for a job that is admitted.
    pub fn slot(
        self: &Rc<Self>,
        line: &Partition,
        class: usize,
        workers: usize,
    ) -> Option<WorkerSlot> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(line.queue.clone()).or_default();
        if self.closed.get() || pool.running >= workers {
            return None;
        }
        pool.running += 1;
        pool.classes.served(class);
        self.begun.set(self.begun.get() + 1);
        if let Some(state) = self.lines.borrow_mut().get_mut(line) {
            state.served = self.begun.get();
        }
        Some(WorkerSlot(Rc::clone(self), line.queue.clone()))
    }
}

impl WorkerPool {
    /// Tells the stride which classes have something to do.
    pub fn busy(&mut self, placed: &[(usize, u32, &Partition, &PartitionState)]) {
        let busy = |class| placed.iter().any(|(of, _, _, s)| *of == class && s.is_busy());
        let known: Vec<usize> = self.classes.order().collect();
        known
            .iter()
            .filter(|class| !busy(**class))
            .for_each(|class| self.classes.remove(*class, 1));
        for (class, weight, ..) in placed.iter().filter(|(.., state)| state.is_busy()) {
            if self.classes.waiting(*class) == 0 {
                self.classes.add(*class, *weight, 1);
            }
        }
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        if let Some(pool) = self.0.pools.borrow_mut().get_mut(&self.1) {
            pool.running -= 1;
        }
        self.0.changed.notify_one();
        self.0.share.iter().for_each(|share| share.room.notify_one());
    }
}

impl Drop for ActiveJob {
    fn drop(&mut self) {
        if let Some(state) = self.0.lines.borrow_mut().get_mut(&self.1) {
            state.in_hand.remove(&self.2);
        }
        self.0.changed.notify_one();
    }
}

impl ActiveJob {
    /// It is looked for again.
    pub fn let_go(self) {
        let (desk, line) = (Rc::clone(&self.0), self.1.clone());
        drop(self);
        desk.news([line]);
    }
}
