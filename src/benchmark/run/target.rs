//! A target of a run: its own worker, live state and metrics, and the calls on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::load::Spans;
use super::measure::{Measured, Measurements};
use super::plan::TargetPlan;
use crate::cache::CacheRegistry;
use crate::clock;
use crate::live::Live;
use crate::policy::sections::benchmark::MOST_IN_FLIGHT;
use crate::policy::sections::model::BenchmarkRequest;
use crate::proxy::detached::{CallResult, call};
use crate::proxy::downstream::worker::{Worker, WorkerLoad, WorkerShared};
use crate::snapshot::build::SnapshotBuilder;
use crate::snapshot::{CurrentSnapshot, Route};
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::panics::Contained;
use crate::upstream::Resolver;

/// A call that starts this late or less is on time: timers have a resolution of a millisecond.
const ON_TIME: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct MeasuredTarget {
    pub label: String,
    pub currency: Option<String>,
    worker: Rc<Worker>,
    route: Arc<Route>,
    pub measurements: RefCell<Measurements>,
    in_flight: Cell<u32>,
    ended: Notify,
}

/// A call that is to be made.
#[derive(Debug)]
pub struct PlannedCall {
    pub request: BenchmarkRequest,
    pub intended: Instant,
    /// When there was a place for it.
    pub placed: Instant,
    /// `None`: it does not count.
    pub block: Option<usize>,
}

impl MeasuredTarget {
    /// # Errors
    /// When the policy cannot be used on this machine.
    pub fn new(
        plan: &TargetPlan,
        measurements: Measurements,
        log: &AccessLogSender,
    ) -> Result<Rc<MeasuredTarget>, String> {
        let metrics = Arc::new(Metrics::new());
        let caches = CacheRegistry::new(Arc::clone(&metrics)).map_err(|error| error.to_string())?;
        let live = Arc::new(Live::new(metrics, plan.policy.server.buffered, None));
        let builder = SnapshotBuilder {
            live: Arc::clone(&live),
            caches: Arc::new(caches),
            resolver: Resolver::new(Handle::current()),
        };
        let snapshot = builder.build(plan.policy.clone(), plan.hash.clone());
        let snapshot = snapshot.map_err(|error| error.to_string())?;
        let route = Arc::clone(&snapshot.routes[plan.route]);
        let shared = WorkerShared {
            current: Arc::new(CurrentSnapshot::from_pointee(snapshot)),
            live,
            log: log.clone(),
            store: None,
        };
        Ok(Rc::new(MeasuredTarget {
            label: plan.label.clone(),
            currency: plan.currency.clone(),
            worker: Worker::new(shared, Arc::new(WorkerLoad::default())),
            route,
            measurements: RefCell::new(measurements),
            in_flight: Cell::new(0),
            ended: Notify::new(),
        }))
    }

    pub fn tick(&self) {
        self.worker.tick();
    }

    /// Makes a call and records it.
    pub async fn call(self: Rc<Self>, planned: PlannedCall) {
        let PlannedCall { request, intended, placed, block } = planned;
        self.in_flight.set(self.in_flight.get() + 1);
        let started = clock::now();
        let result = Contained::new(call(&self.worker, &self.route, &request)).await;
        let result = result.unwrap_or(CallResult { outcome: "panic", ..CallResult::default() });
        let ended = clock::now();
        let delay = started.saturating_duration_since(intended);
        let late = if delay > ON_TIME { delay } else { Duration::ZERO };
        let measured = Measured {
            result,
            latency: late + ended.saturating_duration_since(started),
            late,
            lateness: started.saturating_duration_since(placed.max(intended)),
        };
        if let Some(block) = block {
            self.measurements.borrow_mut().record(block, &measured);
        }
        self.in_flight.set(self.in_flight.get() - 1);
        self.ended.notify_waiters();
        // A call that fails at once would be repeated without an end.
        if !result.succeeded && ended.saturating_duration_since(started) < ON_TIME {
            tokio::time::sleep(5 * ON_TIME).await;
        }
    }

    /// Waits until fewer calls than allowed are in flight.
    pub async fn wait_for_place(&self) {
        self.wait_for_fewer_than(MOST_IN_FLIGHT).await;
    }

    /// Waits until no call is in flight.
    pub async fn drain(&self) {
        self.wait_for_fewer_than(1).await;
    }

    async fn wait_for_fewer_than(&self, bound: u32) {
        loop {
            let ended = self.ended.notified();
            if self.in_flight.get() < bound {
                return;
            }
            ended.await;
        }
    }
}

/// Empty measurements of the first and the second target of a run. With two, the blocks of both
/// take turns.
pub fn empty(spans: &Spans, targets: usize) -> Vec<Measurements> {
    let block = spans.block_length();
    let first = |target: usize| block * target as u32;
    (0..targets).map(|at| Measurements::new(spans, first(at), block * targets as u32)).collect()
}
