//! Latency and load of one address, as the balancer sees them.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::resilience::balance::latency::PeakEwma;
use crate::telemetry::metrics::{EndpointLabels, Level, Metrics};

#[derive(Debug)]
pub struct AddressLive {
    /// No other address of this process has it; sessions are kept by it.
    pub id: u32,
    labels: EndpointLabels,
    pending: AtomicU32,
    gauge: Level,
    latency: Mutex<PeakEwma>,
    /// Requests that the balancer gave it, for analytics.
    picked: AtomicU64,
    metrics: Arc<Metrics>,
}

impl AddressLive {
    pub fn new(provider: &str, address: &str, id: u32, metrics: &Arc<Metrics>) -> Self {
        let labels = EndpointLabels { provider: provider.to_owned(), endpoint: address.to_owned() };
        AddressLive {
            id,
            gauge: metrics.endpoint_attempts_in_flight.get_or_create_owned(&labels),
            labels,
            pending: AtomicU32::new(0),
            latency: Mutex::new(PeakEwma::default()),
            picked: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        }
    }

    /// Attempts in flight.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    pub fn picked(&self) -> u64 {
        self.picked.load(Ordering::Relaxed)
    }

    /// Estimated time to the first byte in nanoseconds; 0 when it was never measured.
    pub fn latency(&self, now: Instant) -> f64 {
        self.latency.lock().estimate(now)
    }

    /// Time to the first byte of those that were answered; nothing before the first.
    pub fn measured(&self) -> Option<Duration> {
        self.latency.lock().measured()
    }

    /// An attempt that was answered took this long to its first byte.
    pub fn answered(&self, took: Duration, now: Instant) {
        self.latency.lock().observe(took, now);
    }

    /// An attempt failed or was throttled: it counts as slow, so that failing fast attracts nothing.
    pub fn failed(&self, took: Duration, now: Instant) {
        self.latency.lock().penalise(took, now);
    }

    /// A probe was answered: what was learned while it failed no longer counts.
    pub fn recovered(&self, took: Duration, now: Instant) {
        let mut latency = self.latency.lock();
        *latency = PeakEwma::default();
        latency.observe(took, now);
    }

    pub(super) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.picked.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
    }

    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Drop for AddressLive {
    fn drop(&mut self) {
        self.metrics.endpoint_attempts_in_flight.remove(&self.labels);
    }
}
