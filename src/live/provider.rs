//! Capacity of a provider: its limit of attempts in flight, its rate limits, and the requests
//! that wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fleet::FleetView;
use super::operator_override::{ActiveOverride, AuditNote};
use super::optional::Optional;
use super::queue::wait_queue::{ProviderQueue, WaitQueueCell};
use super::quota::provider_quota::{ProviderQuota, QuotaCharge};
use super::quota::sync::QuotaUnit;
use crate::clock;
use crate::policy::sections::model::Capacity;
use crate::resilience::limits::concurrency_limit::{ConcurrencyLimit, LatencySample};
use crate::resilience::rate::shared_quota::ChunkGrant;
use crate::telemetry::metrics::{Level, Metrics, ProviderLabels};

/// Value of `drained` without an end: until undrained.
const UNTIL_UNDRAINED: u64 = u64::MAX;

#[derive(Debug)]
pub struct ProviderLive {
    labels: ProviderLabels,
    in_flight: AtomicU32,
    limit: AtomicU32,
    quota: ProviderQuota,
    /// Moves `limit` below the policy's `concurrency`.
    adaptive: Optional<ConcurrencyLimit>,
    wait_queue: Arc<WaitQueueCell>,
    queued: Arc<ProviderQueue>,
    /// Drained until this many milliseconds after `born`; 0: not drained.
    drained: AtomicU64,
    note: Mutex<AuditNote>,
    born: Instant,
    in_flight_gauge: Level,
    drained_gauge: Level,
    metrics: Arc<Metrics>,
}

/// The capacity that a provider lacks for one more attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCapacity {
    /// The limit of attempts in flight is reached.
    Concurrency,
    /// Its rate limits allow none for this long.
    Rate(Duration),
}

/// The slot and the charge of one attempt at its provider.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProviderSlot {
    pub charge: QuotaCharge,
    /// Attempts in flight when it began, itself included.
    in_flight: u32,
    /// Epoch of the adaptive limit, if there is one.
    epoch: Option<u64>,
}

impl ProviderLive {
    pub fn new(
        name: &str,
        capacity: &Capacity,
        wait_queue: &Arc<WaitQueueCell>,
        metrics: &Arc<Metrics>,
        fleet: Option<&Arc<FleetView>>,
    ) -> Self {
        let labels = ProviderLabels { provider: name.to_owned() };
        ProviderLive {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(first_limit(capacity)),
            adaptive: Optional::new(clamp(capacity).map(ConcurrencyLimit::new)),
            quota: ProviderQuota::new(capacity, fleet),
            queued: wait_queue.register(metrics.waiting_requests.get_or_create_owned(&labels)),
            wait_queue: Arc::clone(wait_queue),
            drained: AtomicU64::new(0),
            note: Mutex::default(),
            born: clock::now(),
            in_flight_gauge: metrics.attempts_in_flight.get_or_create_owned(&labels),
            drained_gauge: metrics.provider_drained.get_or_create_owned(&labels),
            labels,
            metrics: Arc::clone(metrics),
        }
    }

    pub fn retune(&self, capacity: &Capacity) {
        self.adaptive.retune(clamp(capacity), ConcurrencyLimit::new, ConcurrencyLimit::retune);
        let limit = self.adaptive.with(|adaptive| adaptive.limit()).unwrap_or(capacity.concurrency);
        self.limit.store(limit, Ordering::SeqCst);
        self.quota.retune(capacity, clock::now());
        self.recheck_waiters();
    }

    pub fn name(&self) -> &str {
        &self.labels.provider
    }

    pub fn quota(&self) -> &ProviderQuota {
        &self.quota
    }

    /// Its id in the wait queue.
    pub fn id(&self) -> u32 {
        self.queued.id
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> u32 {
        self.queued.count()
    }

    /// Excludes the provider from selection until this time, or until `undrain`. Attempts in
    /// flight continue.
    pub fn drain(&self, until: Option<Instant>, note: AuditNote) {
        *self.note.lock() = note;
        let end = until.map_or(UNTIL_UNDRAINED, |until| self.millis(until).max(1));
        self.drained.store(end, Ordering::Release);
        self.drained_gauge.set(1);
    }

    /// Allows selection again.
    pub fn undrain(&self) {
        self.drained.store(0, Ordering::Release);
        self.drained_gauge.set(0);
        self.recheck_waiters();
    }

    /// Breakers, holds or quotas may have changed: waiters check again.
    pub fn recheck_waiters(&self) {
        if self.queued.count() > 0 {
            self.wait_queue.conditions_changed(self.queued.id);
        }
    }

    /// Whether it is drained.
    pub fn is_drained(&self, now: Instant) -> bool {
        let end = self.drained.load(Ordering::Relaxed);
        if end == 0 || end == UNTIL_UNDRAINED {
            return end != 0;
        }
        let over = self.millis(now) >= end;
        if over
            && self.drained.compare_exchange(end, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.drained_gauge.set(0);
        }
        !over
    }

    pub fn active_override(&self, now: Instant) -> Option<ActiveOverride> {
        let end = Some(self.drained.load(Ordering::Acquire)).filter(|_| self.is_drained(now))?;
        let until = (end != UNTIL_UNDRAINED).then(|| self.born + Duration::from_millis(end));
        Some(ActiveOverride::new("drained", until, self.note.lock().clone(), now))
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis())
            .unwrap_or(UNTIL_UNDRAINED - 1)
    }

    /// Whether an attempt of this many tokens could begin now. Nothing changes.
    ///
    /// # Errors
    /// The capacity that it lacks.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), NoCapacity> {
        if self.in_flight.load(Ordering::SeqCst) >= self.limit.load(Ordering::SeqCst) {
            return Err(NoCapacity::Concurrency);
        }
        self.quota.check(tokens, now).map_err(NoCapacity::Rate)
    }

    /// Takes a slot, and charges the quotas, for one attempt of this many tokens.
    ///
    /// # Errors
    /// The capacity that it lacks.
    pub fn enter(&self, tokens: f64, now: Instant) -> Result<ProviderSlot, NoCapacity> {
        let limit = self.limit.load(Ordering::SeqCst);
        let one_more = |n| (n < limit).then_some(n + 1);
        let before = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .map_err(|_| NoCapacity::Concurrency)?;
        self.in_flight_gauge.inc();
        let charge = self.quota.take(tokens, now).map_err(|wait| {
            self.leave();
            NoCapacity::Rate(wait)
        })?;
        let epoch = self.adaptive.with(|adaptive| adaptive.epoch());
        Ok(ProviderSlot { charge, in_flight: before + 1, epoch })
    }

    /// An attempt got its first byte after `took`, or failed.
    pub fn observe(&self, entered: ProviderSlot, took: Duration, dropped: bool) {
        let ProviderSlot { in_flight, epoch: Some(epoch), .. } = entered else { return };
        let sample = LatencySample { took, in_flight, epoch, dropped };
        let limit = self.adaptive.with(|adaptive| {
            adaptive.observe(sample);
            adaptive.limit()
        });
        let Some(limit) = limit else { return };
        let before = self.limit.swap(limit, Ordering::SeqCst);
        if limit > before && self.queued.count() > 0 {
            self.wait_queue.capacity_available(self.queued.id);
        }
    }

    /// Releases a slot; the next waiter checks.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.in_flight_gauge.dec();
        if self.queued.count() > 0 {
            self.wait_queue.capacity_available(self.queued.id);
        }
    }

    /// Returns the charge of an attempt of which nothing reached the provider.
    pub fn give_back(&self, charge: QuotaCharge) {
        if self.quota.give_back(charge, clock::now()) {
            self.recheck_waiters();
        }
    }

    /// Settles a charge at `actual` tokens.
    pub fn settle(&self, charge: QuotaCharge, actual: f64) {
        if self.quota.settle(charge, actual, clock::now()) {
            self.recheck_waiters();
        }
    }

    /// The reply to a request for a chunk, or none arrived: waiters check again.
    pub fn chunk_received(
        &self,
        unit: QuotaUnit,
        sent_at: Instant,
        grant: Option<ChunkGrant>,
        now: Instant,
    ) {
        self.quota.chunk_received(unit, sent_at, grant, now);
        self.recheck_waiters();
    }

    /// The used share of its slots.
    pub fn slots_used(&self) -> f64 {
        f64::from(self.in_flight()) / f64::from(self.limit().max(1))
    }
}

/// The upper bound of the adaptive limit, if it is enabled.
fn clamp(capacity: &Capacity) -> Option<u32> {
    capacity.adaptive.then_some(capacity.concurrency)
}

fn first_limit(capacity: &Capacity) -> u32 {
    clamp(capacity).map_or(capacity.concurrency, |clamp| ConcurrencyLimit::new(clamp).limit())
}

impl Drop for ProviderLive {
    fn drop(&mut self) {
        self.wait_queue.forget(self.queued.id);
        self.metrics.attempts_in_flight.remove(&self.labels);
        self.metrics.waiting_requests.remove(&self.labels);
        self.metrics.provider_drained.remove(&self.labels);
    }
}
