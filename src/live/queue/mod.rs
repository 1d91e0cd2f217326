//! A queue of the policy: its bounds in the wait queue, and the metrics of its classes. The rules that
//! reject a request are in `resilience/queue/waiters.rs`.

pub mod wait_queue;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock;
use crate::live::queue::wait_queue::WaitQueueCell;
use crate::policy::sections::model::Queue;
use crate::resilience::queue::waiters::QueuePolicy;
use crate::telemetry::metrics::{ClassLabels, Level, Metrics, ShedLabels};
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Debug)]
pub struct QueueLive {
    pub name: String,
    /// Its id in the wait queue.
    pub id: u32,
    wait_queue: Arc<WaitQueueCell>,
    paused: AtomicBool,
    /// Hashes flow values.
    hashing: RandomState,
    classes: Mutex<Vec<ClassMetrics>>,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Debug)]
struct ClassMetrics {
    labels: ClassLabels,
    waiting: Level,
    seconds: Histogram,
}

impl QueueLive {
    pub fn new(queue: &Queue, wait_queue: &Arc<WaitQueueCell>, metrics: &Arc<Metrics>) -> Self {
        let live = QueueLive {
            name: queue.name.clone(),
            id: wait_queue.add_queue(bounds(queue)),
            wait_queue: Arc::clone(wait_queue),
            paused: AtomicBool::new(false),
            hashing: clock::hashing(),
            classes: Mutex::default(),
            metrics: Arc::clone(metrics),
        };
        live.name_classes(queue);
        live
    }

    pub fn retune(&self, queue: &Queue) {
        self.wait_queue.set_queue(self.id, bounds(queue));
        self.name_classes(queue);
    }

    /// A class keeps its position and its gauge across reloads.
    fn name_classes(&self, queue: &Queue) {
        let mut classes = self.classes.lock();
        for (place, class) in queue.classes.iter().enumerate() {
            let labels = ClassLabels { queue: self.name.clone(), class: class.name.clone() };
            match classes.get(place) {
                Some(known) if known.labels == labels => continue,
                Some(known) => drop(self.metrics.queue_waiting_requests.remove(&known.labels)),
                None => {}
            }
            let made = ClassMetrics {
                waiting: self.metrics.queue_waiting_requests.get_or_create_owned(&labels),
                seconds: self.metrics.queue_wait_seconds.with(&labels),
                labels,
            };
            match classes.get_mut(place) {
                Some(known) => {
                    made.waiting.set(known.waiting.get());
                    *known = made;
                }
                None => classes.push(made),
            }
        }
    }

    /// While paused, waiters get no offers and new requests wait.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        self.wait_queue.pause(self.id, paused);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The id of a flow.
    pub fn flow(&self, value: &[u8]) -> u64 {
        self.hashing.hash_one(value)
    }

    fn class(&self, class: usize) -> Option<ClassMetrics> {
        self.classes.lock().get(class).cloned()
    }

    pub(crate) fn entered(&self, class: usize) {
        self.class(class).into_iter().for_each(|class| {
            class.waiting.inc();
        });
    }

    pub(crate) fn record_departure(&self, class: usize) {
        self.class(class).into_iter().for_each(|class| {
            class.waiting.dec();
        });
    }

    pub(crate) fn served(&self, class: usize, waited: Duration) {
        self.class(class).into_iter().for_each(|class| class.seconds.observe(waited.as_secs_f64()));
    }

    /// Waiting requests of all classes.
    pub fn waiting(&self) -> u64 {
        self.classes.lock().iter().map(|class| class.waiting.get().max(0).unsigned_abs()).sum()
    }

    /// Counts a request that was shed.
    pub fn shed(&self, class: usize, reason: &'static str) {
        let Some(class) = self.class(class) else { return };
        let ClassLabels { queue, class } = class.labels;
        self.metrics.queue_sheds.with(&ShedLabels { queue, class, reason }).inc();
    }
}

impl Drop for QueueLive {
    fn drop(&mut self) {
        self.wait_queue.drop_queue(self.id);
        for class in self.classes.lock().iter() {
            self.metrics.queue_waiting_requests.remove(&class.labels);
        }
    }
}

fn bounds(queue: &Queue) -> QueuePolicy {
    QueuePolicy {
        max_waiting: queue.max_waiting,
        max_bytes: queue.max_bytes,
        max_wait: queue.max_wait,
        weights: queue.classes.iter().map(|class| class.weight).collect(),
    }
}
