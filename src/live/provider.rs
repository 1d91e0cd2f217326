//! Room at a provider: how many attempts may be in flight, and who waits for one to end.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::by_hand::{Note, OnIt};
use super::lock;
use crate::clock;
use crate::telemetry::metrics::{Level, Metrics, ProviderLabels};

/// An end of `drained` that only a hand sets.
const FOR_EVER: u64 = u64::MAX;

#[derive(Debug)]
pub struct ProviderLive {
    labels: ProviderLabels,
    in_flight: AtomicU32,
    limit: AtomicU32,
    waiting: AtomicU32,
    /// Taken out by hand until so many milliseconds after `born`; 0: it is not.
    drained: AtomicU64,
    note: Mutex<Note>,
    born: Instant,
    room: Notify,
    in_flight_gauge: Level,
    waiting_gauge: Level,
    drained_gauge: Level,
    metrics: Arc<Metrics>,
}

impl ProviderLive {
    pub fn new(name: &str, limit: u32, metrics: &Arc<Metrics>) -> Self {
        let labels = ProviderLabels { provider: name.to_owned() };
        ProviderLive {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            waiting: AtomicU32::new(0),
            drained: AtomicU64::new(0),
            note: Mutex::default(),
            born: clock::now(),
            room: Notify::new(),
            in_flight_gauge: metrics.in_flight.get_or_create_owned(&labels),
            waiting_gauge: metrics.waiting.get_or_create_owned(&labels),
            drained_gauge: metrics.drained.get_or_create_owned(&labels),
            labels,
            metrics: Arc::clone(metrics),
        }
    }

    pub fn retune(&self, limit: u32) {
        let before = self.limit.swap(limit, Ordering::AcqRel);
        for _ in before..limit.min(before.saturating_add(self.waiting.load(Ordering::Acquire))) {
            self.room.notify_one();
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes the provider out of every choice until then, or until `undrain`. Attempts that are out
    /// go on to their end.
    pub fn drain(&self, until: Option<Instant>, note: Note) {
        *lock(&self.note) = note;
        let end = until.map_or(FOR_EVER, |until| self.millis(until).max(1));
        self.drained.store(end, Ordering::Release);
        self.drained_gauge.set(1);
    }

    /// Lets the provider be chosen again.
    pub fn undrain(&self) {
        self.drained.store(0, Ordering::Release);
        self.drained_gauge.set(0);
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

    pub fn by_hand(&self, now: Instant) -> Option<OnIt> {
        let end = Some(self.drained.load(Ordering::Acquire)).filter(|_| self.is_drained(now))?;
        let until = (end != FOR_EVER).then(|| self.born + Duration::from_millis(end));
        Some(OnIt::new("drained", until, lock(&self.note).clone(), now))
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(FOR_EVER - 1)
    }

    pub fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) < self.limit.load(Ordering::Acquire)
    }

    /// Takes a place, if there is one.
    pub fn enter(&self) -> bool {
        let limit = self.limit.load(Ordering::Acquire);
        let taken = self
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1));
        if taken.is_ok() {
            self.in_flight_gauge.inc();
        }
        taken.is_ok()
    }

    /// Gives a place back; who has waited longest is woken.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.in_flight_gauge.dec();
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.room.notify_one();
        }
    }

    /// Stands in line for room: make it, look again whether there is room, then await it.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.waiting_gauge.inc();
        Waiting { provider: self }
    }
}

/// A place in line; left when it is dropped.
#[derive(Debug)]
pub struct Waiting<'a> {
    provider: &'a ProviderLive,
}

impl Waiting<'_> {
    /// Completes when a place has become free (somebody else may still be quicker).
    pub fn notified(&self) -> Notified<'_> {
        self.provider.room.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.provider.waiting.fetch_sub(1, Ordering::AcqRel);
        self.provider.waiting_gauge.dec();
    }
}

impl Drop for ProviderLive {
    fn drop(&mut self) {
        self.metrics.in_flight.remove(&self.labels);
        self.metrics.waiting.remove(&self.labels);
        self.metrics.drained.remove(&self.labels);
    }
}
