//! Latency and load of one endpoint, as input to the balancer.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::resilience::balance::latency::PeakEwma;
use crate::telemetry::metrics::{EndpointLabels, Level, Metrics};

/// Most attempts at one endpoint that go on after their requests have moved on.
const MAX_OBSERVED: u32 = 8;

/// The place of an attempt that goes on in the background.
#[derive(Debug)]
pub struct Observation(Arc<EndpointLive>);

#[derive(Debug)]
pub struct EndpointLive {
    /// Unique in this process; sessions refer to it.
    pub id: u32,
    labels: EndpointLabels,
    pending: AtomicU32,
    gauge: Level,
    latency: Mutex<PeakEwma>,
    /// Attempts that go on in the background.
    observed: AtomicU32,
    /// Attempts sent here by the balancer, for analytics.
    selections: AtomicU64,
    metrics: Arc<Metrics>,
}

impl EndpointLive {
    pub fn new(provider: &str, endpoint: &str, id: u32, metrics: &Arc<Metrics>) -> Self {
        let labels =
            EndpointLabels { provider: provider.to_owned(), endpoint: endpoint.to_owned() };
        EndpointLive {
            id,
            gauge: metrics.endpoint_attempts_in_flight.get_or_create_owned(&labels),
            labels,
            pending: AtomicU32::new(0),
            observed: AtomicU32::new(0),
            latency: Mutex::new(PeakEwma::default()),
            selections: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        }
    }

    /// Attempts in flight.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    pub fn selections(&self) -> u64 {
        self.selections.load(Ordering::Relaxed)
    }

    /// Estimated time to the first byte in nanoseconds; 0 if never measured.
    pub fn latency(&self, now: Instant) -> f64 {
        self.latency.lock().estimate(now)
    }

    /// Time to the first byte of successful attempts; none before the first.
    pub fn measured(&self) -> Option<Duration> {
        self.latency.lock().measured()
    }

    /// An attempt got its first byte after `took`.
    pub fn responded(&self, took: Duration, now: Instant) {
        self.latency.lock().observe(took, now);
    }

    /// An attempt failed: it counts as slow, so that failing fast attracts no traffic.
    pub fn failed(&self, took: Duration, now: Instant) {
        self.latency.lock().penalise(took, now);
    }

    /// An attempt that was cancelled had no first byte after `took`, so it would have taken longer.
    pub fn took_longer(&self, took: Duration, now: Instant) {
        let mut latency = self.latency.lock();
        if took.as_nanos() as f64 > latency.estimate(now) {
            latency.observe(took, now);
        }
    }

    /// A place for an attempt that goes on in the background; there are few.
    pub fn observe(self: &Arc<Self>) -> Option<Observation> {
        let one_more = |n| (n < MAX_OBSERVED).then_some(n + 1);
        let taken = self.observed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Observation(Arc::clone(self)))
    }

    /// A probe succeeded: measurements from before no longer count.
    pub fn recovered(&self, took: Duration, now: Instant) {
        let mut latency = self.latency.lock();
        *latency = PeakEwma::default();
        latency.observe(took, now);
    }

    pub(super) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.selections.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
    }

    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.0.observed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for EndpointLive {
    fn drop(&mut self) {
        self.metrics.endpoint_attempts_in_flight.remove(&self.labels);
    }
}
