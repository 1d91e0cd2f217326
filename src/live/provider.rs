//! Room at a provider: how many attempts may be in flight, at which rate they may begin, and how
//! many wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fleet::FleetView;
use super::operator_override::{ActiveOverride, AuditNote};
use super::optional::Optional;
use super::queue::wait_queue::{ProviderQueue, WaitQueueCell};
use super::quota::provider_quota::{ProviderQuota, QuotaCharge};
use crate::clock;
use crate::policy::sections::model::Capacity;
use crate::resilience::limits::concurrency_limit::{ConcurrencyLimit, LatencySample};
use crate::resilience::rate::reported_quota::QuotaReport;
use crate::telemetry::metrics::{Level, Metrics, ProviderLabels};

/// An end of `drained` that only a hand sets.
const FOR_EVER: u64 = u64::MAX;

#[derive(Debug)]
pub struct ProviderLive {
    labels: ProviderLabels,
    in_flight: AtomicU32,
    limit: AtomicU32,
    pace: ProviderQuota,
    /// Moves `limit` below the policy's `concurrency`.
    adaptive: Optional<ConcurrencyLimit>,
    lanes: Arc<WaitQueueCell>,
    queued: Arc<ProviderQueue>,
    /// Taken out by hand until so many milliseconds after `born`; 0: it is not.
    drained: AtomicU64,
    note: Mutex<AuditNote>,
    born: Instant,
    in_flight_gauge: Level,
    drained_gauge: Level,
    metrics: Arc<Metrics>,
}

/// What a provider lacks for one more attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCapacity {
    /// As many are in flight as may be.
    Concurrency,
    /// Its rates allow none for so long.
    Rate(Duration),
}

/// What an attempt took as it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProviderSlot {
    pub charge: QuotaCharge,
    /// Attempts in flight then, itself included.
    in_flight: u32,
    /// Of the adaptive limit, where there is one.
    epoch: Option<u64>,
}

impl ProviderLive {
    pub fn new(
        name: &str,
        capacity: &Capacity,
        lanes: &Arc<WaitQueueCell>,
        metrics: &Arc<Metrics>,
        fleet: Option<&Arc<FleetView>>,
    ) -> Self {
        let labels = ProviderLabels { provider: name.to_owned() };
        ProviderLive {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(first_limit(capacity)),
            adaptive: Optional::new(clamp(capacity).map(ConcurrencyLimit::new)),
            pace: ProviderQuota::new(capacity, fleet),
            queued: lanes.register(metrics.waiting_requests.get_or_create_owned(&labels)),
            lanes: Arc::clone(lanes),
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
        self.pace.retune(capacity, clock::now());
        self.recheck_waiters();
    }

    pub fn name(&self) -> &str {
        &self.labels.provider
    }

    pub(super) fn quota(&self) -> &ProviderQuota {
        &self.pace
    }

    /// By which the lane knows it.
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

    /// Takes the provider out of every choice until then, or until `undrain`. Attempts that are out
    /// go on to their end.
    pub fn drain(&self, until: Option<Instant>, note: AuditNote) {
        *self.note.lock() = note;
        let end = until.map_or(FOR_EVER, |until| self.millis(until).max(1));
        self.drained.store(end, Ordering::Release);
        self.drained_gauge.set(1);
    }

    /// Lets the provider be chosen again.
    pub fn undrain(&self) {
        self.drained.store(0, Ordering::Release);
        self.drained_gauge.set(0);
        self.recheck_waiters();
    }

    /// What stands before it may have changed: those who wait look.
    pub fn recheck_waiters(&self) {
        if self.queued.count() > 0 {
            self.lanes.conditions_changed(self.queued.id);
        }
    }

    /// Whether it is taken out, and for how long yet.
    pub fn is_drained(&self, now: Instant) -> bool {
        let end = self.drained.load(Ordering::Relaxed);
        if end == 0 || end == FOR_EVER {
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
        let until = (end != FOR_EVER).then(|| self.born + Duration::from_millis(end));
        Some(ActiveOverride::new("drained", until, self.note.lock().clone(), now))
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(FOR_EVER - 1)
    }

    /// Could an attempt of so many tokens begin now? Nothing changes.
    ///
    /// # Errors
    /// What it lacks.
    pub fn check(&self, tokens: f64, now: Instant) -> Result<(), NoCapacity> {
        if self.in_flight.load(Ordering::SeqCst) >= self.limit.load(Ordering::SeqCst) {
            return Err(NoCapacity::Concurrency);
        }
        self.pace.check(tokens, now).map_err(NoCapacity::Rate)
    }

    /// Takes a place, and leave for one attempt of so many tokens; says what it was charged, and how
    /// many are there now.
    ///
    /// # Errors
    /// What it lacks.
    pub fn enter(&self, tokens: f64, now: Instant) -> Result<ProviderSlot, NoCapacity> {
        let limit = self.limit.load(Ordering::SeqCst);
        let one_more = |n| (n < limit).then_some(n + 1);
        let before = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .map_err(|_| NoCapacity::Concurrency)?;
        self.in_flight_gauge.inc();
        let charge = self.pace.take(tokens, now).map_err(|wait| {
            self.leave();
            NoCapacity::Rate(wait)
        })?;
        let epoch = self.adaptive.with(|adaptive| adaptive.epoch());
        Ok(ProviderSlot { charge, in_flight: before + 1, epoch })
    }

    /// An attempt brought its first byte after `took`, or failed.
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
            self.lanes.capacity_available(self.queued.id);
        }
    }

    /// Gives a place back; whoever is next in the lane looks.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.in_flight_gauge.dec();
        if self.queued.count() > 0 {
            self.lanes.capacity_available(self.queued.id);
        }
    }

    /// An attempt that was charged this never reached it.
    pub fn give_back(&self, charge: QuotaCharge) {
        if self.pace.give_back(charge, clock::now()) {
            self.recheck_waiters();
        }
    }

    /// What was charged came to `actual` tokens.
    pub fn settle(&self, charge: QuotaCharge, actual: f64) {
        if self.pace.settle(charge, actual, clock::now()) {
            self.recheck_waiters();
        }
    }

    /// An answer told what is left of requests, of tokens.
    pub fn observe_quota(&self, charge: QuotaCharge, left: [Option<QuotaReport>; 2]) {
        self.pace.observe_reports(charge, left, clock::now());
        self.recheck_waiters();
    }

    /// The largest share of what it allows that is used: places, requests, tokens.
    pub fn used(&self) -> f64 {
        let places = f64::from(self.in_flight()) / f64::from(self.limit().max(1));
        self.rates_used().into_iter().flatten().fold(places, f64::max)
    }

    /// What of its bursts of requests and tokens is used; nothing where it has no such rate.
    pub fn rates_used(&self) -> [Option<f64>; 2] {
        self.pace.used(clock::now())
    }
}

/// The highest limit of one that adapts.
fn clamp(capacity: &Capacity) -> Option<u32> {
    capacity.adaptive.then_some(capacity.concurrency)
}

fn first_limit(capacity: &Capacity) -> u32 {
    clamp(capacity).map_or(capacity.concurrency, |clamp| ConcurrencyLimit::new(clamp).limit())
}

impl Drop for ProviderLive {
    fn drop(&mut self) {
        self.lanes.forget(self.queued.id);
        self.metrics.attempts_in_flight.remove(&self.labels);
        self.metrics.waiting_requests.remove(&self.labels);
        self.metrics.provider_drained.remove(&self.labels);
    }
}
