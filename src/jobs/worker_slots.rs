//! The workers of each queue, and the jobs that occupy them.

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

/// One worker of a pool; released on drop.
pub struct WorkerSlot {
    dispatcher: Rc<Dispatcher>,
    queue: String,
}

/// A job that seeks admission or runs; released on drop.
pub struct ActiveJob {
    pub dispatcher: Rc<Dispatcher>,
    pub partition: Partition,
    pub seq: i64,
}

/// A partition that may be served, with its class as the policy in force has it.
pub struct ServablePartition<'a> {
    pub class: usize,
    pub weight: u32,
    pub partition: &'a Partition,
    pub state: &'a PartitionState,
}

impl Dispatcher {
    /// The number of idle workers of a queue; 0 while it is paused.
    pub fn idle_workers(&self, queue: &RouteQueue) -> usize {
        if self.closed.get() || queue.live.is_paused() {
            return 0;
        }
        let name = &queue.policy.name;
        let running = self.pools.borrow().get(name).map_or(0, |pool| pool.running);
        let partitions = self.partitions.borrow();
        let of_queue = partitions.iter().filter(|(partition, _)| partition.queue == *name);
        let starting =
            of_queue.filter(|(_, state)| state.admission == AdmissionState::Starting).count();
        queue.policy.durable.workers.saturating_sub(running + starting)
    }

    /// Whether a partition has no job of this host that could start.
    pub fn has_no_own_job(&self, partition: &Partition) -> bool {
        let partitions = self.partitions.borrow();
        let state = partitions.get(partition);
        state.is_none_or(|state| !state.is_busy() && state.admission == AdmissionState::Idle)
    }

    /// A worker for a job of another host.
    pub fn borrowed_job_slot(self: &Rc<Self>, queue: &RouteQueue) -> Option<WorkerSlot> {
        if self.idle_workers(queue) == 0 {
            return None;
        }
        let queue = queue.policy.name.clone();
        self.pools.borrow_mut().entry(queue.clone()).or_default().running += 1;
        Some(WorkerSlot { dispatcher: Rc::clone(self), queue })
    }

    /// A worker for an admitted job of this host.
    pub fn worker_slot(
        self: &Rc<Self>,
        partition: &Partition,
        class: usize,
        workers: usize,
    ) -> Option<WorkerSlot> {
        let queue = partition.queue.clone();
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(queue.clone()).or_default();
        if self.closed.get() || pool.running >= workers {
            return None;
        }
        pool.running += 1;
        pool.classes.served(class);
        self.started.set(self.started.get() + 1);
        if let Some(state) = self.partitions.borrow_mut().get_mut(partition) {
            state.last_served = self.started.get();
        }
        Some(WorkerSlot { dispatcher: Rc::clone(self), queue })
    }
}

impl WorkerPool {
    /// Updates the stride's set of classes that have jobs.
    pub fn update_busy_classes(&mut self, servable: &[ServablePartition<'_>]) {
        let busy = |class| servable.iter().any(|it| it.class == class && it.state.is_busy());
        let known: Vec<usize> = self.classes.order().collect();
        known
            .iter()
            .filter(|class| !busy(**class))
            .for_each(|class| self.classes.remove(*class, 1));
        for it in servable.iter().filter(|it| it.state.is_busy()) {
            if self.classes.waiting(it.class) == 0 {
                self.classes.add(it.class, it.weight, 1);
            }
        }
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        if let Some(pool) = self.dispatcher.pools.borrow_mut().get_mut(&self.queue) {
            pool.running -= 1;
        }
        self.dispatcher.changed.notify_one();
        self.dispatcher.ownership.iter().for_each(|it| it.capacity_freed.notify_one());
    }
}

impl Drop for ActiveJob {
    fn drop(&mut self) {
        if let Some(state) = self.dispatcher.partitions.borrow_mut().get_mut(&self.partition) {
            state.active.remove(&self.seq);
        }
        self.dispatcher.changed.notify_one();
    }
}

impl ActiveJob {
    /// Releases the job and has its partition looked up again.
    pub fn look_up_again(self) {
        let (dispatcher, partition) = (Rc::clone(&self.dispatcher), self.partition.clone());
        drop(self);
        dispatcher.mark_ready([partition]);
    }
}
