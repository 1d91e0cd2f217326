//! One breaker of the running process: the pure rules behind a lock, with an atomic in front.
//!
//! Comparing candidates reads `restrains`: a closed breaker at full traffic, which is nearly
//! always the case, costs one load. Everything else takes the lock for a few instructions.
//! Transitions are counted, logged and kept as events here, so that the rules themselves do no
//! reporting.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::combined::CombinedBreaker;
use crate::clock;
use crate::live::degradation::mode::Modes;
use crate::live::fleet::FleetView;
use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::resilience::breaker::replica::{BreakerReplica, FleetLease};
use crate::resilience::breaker::{
    AttemptLatency, BreakerPermit, BreakerPolicy, BreakerTransition, EnforcementMode, LocalBreaker,
    ManualOverride, RejectReason, Rejection, StateKind,
};
use crate::resilience::outcome::Outcome;
use crate::telemetry::events::{Events, NewEvent};
use crate::telemetry::metrics::{BreakerLabels, Level, Metrics, TransitionLabels};

/// The subject of a breaker: an endpoint, or one model at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BreakerKey {
    pub provider: String,
    pub endpoint: String,
    /// Empty: the whole endpoint.
    pub model: String,
}

impl std::fmt::Display for BreakerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.endpoint)?;
        if self.model.is_empty() { Ok(()) } else { write!(f, "/{}", self.model) }
    }
}

/// A breaker with its metrics and events.
#[derive(Debug)]
pub struct BreakerCell {
    pub(crate) key: BreakerKey,
    pub(crate) rules: Mutex<CombinedBreaker>,
    /// The note of the active override.
    pub(crate) note: Mutex<AuditNote>,
    /// False while everything is admitted, so that a check takes no lock.
    pub(crate) restrains: AtomicBool,
    /// Time of the last admission, in seconds since `born`.
    used: AtomicU64,
    born: Instant,
    pub(crate) state: Level,
    rejections: Counter,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    modes: Arc<Modes>,
    pub(crate) fleet: Option<Arc<FleetView>>,
}

/// Permission to make one attempt; returned with an outcome.
#[derive(Debug)]
#[must_use = "a permit is returned with an outcome"]
pub enum CellPermit {
    /// By the local breaker.
    Local(BreakerPermit),
    /// By the fleet, for a probe.
    Lease(FleetLease),
}

/// The state of one breaker, as the admin API reports it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakerStatus {
    pub provider: String,
    pub endpoint: String,
    /// Absent when the breaker covers all models of the endpoint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// `closed`, `open` or `half_open`.
    pub state: Cow<'static, str>,
    /// Consecutive trips without a recovery.
    pub trips: u32,
    /// Counts state changes.
    pub epoch: u64,
    /// Time until an open breaker probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// Share of traffic that is sent, below 1 during the slow start after a recovery.
    pub traffic_share: f64,
    /// `enforce` or `shadow`.
    pub mode: Cow<'static, str>,
    /// The hosts of the fleet decide together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fleet: bool,
    /// The operator's manual override.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub manual_override: Option<ActiveOverride>,
}

impl CellPermit {
    pub fn is_probe(&self) -> bool {
        match self {
            CellPermit::Local(permit) => permit.is_probe(),
            CellPermit::Lease(_) => true,
        }
    }
}

impl BreakerCell {
    pub fn new(
        key: BreakerKey,
        policy: BreakerPolicy,
        metrics: &Arc<Metrics>,
        events: &Arc<Events>,
        modes: &Arc<Modes>,
        fleet: Option<&Arc<FleetView>>,
    ) -> Self {
        let labels = labels(&key);
        let cell = BreakerCell {
            state: metrics.breaker_state.get_or_create_owned(&labels),
            rejections: metrics.breaker_rejections.get_or_create_owned(&labels),
            key,
            rules: Mutex::new(CombinedBreaker { local: LocalBreaker::new(policy), replica: None }),
            note: Mutex::default(),
            restrains: AtomicBool::new(false),
            used: AtomicU64::new(0),
            born: clock::now(),
            metrics: Arc::clone(metrics),
            events: Arc::clone(events),
            modes: Arc::clone(modes),
            fleet: fleet.cloned(),
        };
        cell.join(&mut cell.rules.lock(), clock::now());
        cell
    }

    pub fn key(&self) -> &BreakerKey {
        &self.key
    }

    /// Takes another policy; the state is kept.
    pub fn retune(&self, policy: BreakerPolicy) {
        let mut rules = self.rules.lock();
        if *rules.local.policy() != policy {
            let now = clock::now();
            rules.local.retune(policy);
            self.join(&mut rules, now);
            self.settle(&rules, now);
        }
    }

    /// Whether an attempt would be admitted. Nothing changes.
    ///
    /// # Errors
    /// Why not, and when to try again.
    pub fn check(&self, now: Instant) -> Result<(), Rejection> {
        if !self.restrains.load(Ordering::Acquire) {
            return Ok(());
        }
        let checked = self.rules.lock().check(now);
        if checked.is_err_and(|rejection| rejection.reason == RejectReason::Lease) {
            self.fleet.iter().for_each(|fleet| fleet.wake());
        }
        checked
    }

    /// Whether it is open; also for a moment after it could be probed.
    pub fn is_shut(&self, now: Instant) -> bool {
        self.restrains.load(Ordering::Acquire) && self.rules.lock().is_shut(now)
    }

    /// The share of its weight that it should get: below 1 during slow start.
    pub fn slow_start(&self, now: Instant) -> f64 {
        if !self.restrains.load(Ordering::Acquire) {
            return 1.0;
        }
        self.rules.lock().local.slow_start(now)
    }

    /// Whether a probe is due: it goes before others, because the balancer, which
    /// remembers the failures, would avoid it for long.
    pub fn wants_probe(&self, now: Instant) -> bool {
        if !self.restrains.load(Ordering::Acquire) {
            return false;
        }
        let mut rules = self.rules.lock();
        if rules.replica(now).is_some_and(|replica| replica.is_fleet_tripped()) {
            return rules.replica(now).is_some_and(|replica| replica.has_lease(now));
        }
        let local = &rules.local;
        let enforced = local.mode(now) == EnforcementMode::Enforce;
        enforced && local.kind() != StateKind::Closed && local.would_admit(now).is_ok()
    }

    /// Counts a selection from which the breaker excluded its endpoint.
    pub fn count_rejection(&self) {
        self.rejections.inc();
    }

    /// Admits one attempt.
    ///
    /// # Errors
    /// Why not, and when to try again.
    pub fn admit(&self, now: Instant) -> Result<CellPermit, Rejection> {
        let (admitted, transition) = self.with(now, |rules| rules.admit(now));
        self.used.store(now.saturating_duration_since(self.born).as_secs(), Ordering::Relaxed);
        self.report(transition);
        match &admitted {
            Ok(CellPermit::Local(permit)) if permit.would_reject() => {
                self.rejections.inc();
            }
            Err(_) => {
                self.rejections.inc();
            }
            Ok(_) => {}
        }
        admitted
    }

    /// Returns a permit with the outcome of its attempt.
    pub fn observe(
        &self,
        permit: CellPermit,
        outcome: Outcome,
        latency: impl Into<AttemptLatency>,
        now: Instant,
    ) {
        match permit {
            CellPermit::Local(permit) => {
                let draw = clock::draw();
                let transition = self.with(now, |rules| {
                    let transition = rules.local.observe(permit, outcome, latency, now, draw);
                    if let (Some(StateKind::Closed), Some(m)) =
                        (transition.map(|m| m.to), &mut rules.replica)
                    {
                        m.closed_locally();
                    }
                    transition
                });
                self.report(transition);
            }
            CellPermit::Lease(lease) => {
                self.with(now, |rules| {
                    rules
                        .replica
                        .iter_mut()
                        .for_each(|replica| replica.probe_finished(lease, outcome));
                });
                self.fleet.iter().for_each(|fleet| fleet.wake());
            }
        }
    }

    /// A stream was interrupted after its permit was returned: counts one more failure.
    pub fn observe_interruption(&self, epoch: u64, now: Instant) {
        let draw = clock::draw();
        let transition = self.with(now, |rules| rules.local.observe_interruption(epoch, now, draw));
        self.report(transition);
    }

    /// Sets an override or, with `None`, removes it and resets the breaker.
    pub fn set_override(&self, manual: Option<ManualOverride>, note: AuditNote, now: Instant) {
        let transition = self.with(now, |rules| match manual {
            Some(manual) => rules.local.set_override(manual, now),
            None => Some(rules.local.reset()),
        });
        let text = note.text();
        *self.note.lock() = note;
        if let Some(transition) = transition.filter(|t| t.from != t.to) {
            self.report_with_reason(transition, &text);
            self.fleet.iter().for_each(|fleet| fleet.wake());
        }
    }

    /// Runs `change` on the rules and updates the atomic.
    pub(crate) fn with<T>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut CombinedBreaker) -> T,
    ) -> T {
        let mut rules = self.rules.lock();
        let done = change(&mut rules);
        self.settle(&rules, now);
        done
    }

    /// The time since its last use, if it is closed and can be dropped without losing
    /// state.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.restrains.load(Ordering::Acquire)
            || self.rules.lock().local.active_override(now).is_some()
        {
            return None;
        }
        Some(self.unused_for(now))
    }

    /// The time since its last admission, or since it was created.
    pub fn unused_for(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.born);
        age.saturating_sub(Duration::from_secs(self.used.load(Ordering::Relaxed)))
    }

    pub fn status(&self, now: Instant) -> BreakerStatus {
        let rules = self.rules.lock();
        let rule = &rules.local;
        let manual = rule.active_override(now);
        let active = |manual: ManualOverride| {
            ActiveOverride::new(manual.state.as_str(), manual.until, self.note.lock().clone(), now)
        };
        BreakerStatus {
            provider: self.key.provider.clone(),
            endpoint: self.key.endpoint.clone(),
            model: self.key.model.clone(),
            state: rules.kind(now).as_str().into(),
            fleet: rules.replica.as_ref().is_some_and(BreakerReplica::is_attached),
            trips: rule.trips(),
            epoch: rule.epoch(),
            retry_in_ms: rule
                .retry_at()
                .filter(|_| manual.is_none_or(|manual| manual.until.is_some()))
                .map(|at| at.saturating_duration_since(now).as_millis() as u64),
            traffic_share: rule.slow_start(now),
            mode: rule.mode(now).as_str().into(),
            manual_override: manual.map(active),
        }
    }

    fn settle(&self, rules: &CombinedBreaker, now: Instant) {
        let restrains = rules.restrains(now);
        if self.restrains.load(Ordering::Relaxed) != restrains {
            self.restrains.store(restrains, Ordering::Release);
        }
    }

    /// Reports a local change; the sync task learns of a trip.
    fn report(&self, transition: Option<BreakerTransition>) {
        let Some(transition) = transition else { return };
        self.report_with_reason(transition, "");
        self.fleet.iter().for_each(|fleet| fleet.wake());
    }

    /// `note`: which host of the fleet or operator, and why.
    pub(crate) fn report_with_reason(&self, transition: BreakerTransition, note: &str) {
        let (from, to, cause) =
            (transition.from.as_str(), transition.to.as_str(), transition.cause.as_str());
        self.state.set(gauge(transition.to));
        self.metrics
            .breaker_transitions
            .with(&TransitionLabels {
                provider: self.key.provider.clone(),
                endpoint: self.key.endpoint.clone(),
                to,
                cause,
            })
            .inc();
        tracing::warn!(breaker = %self.key, from, to, cause, note, "breaker changed");
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        let what = format!("{from} -> {to}: {cause}{note}");
        let key = self.key.to_string();
        let event = NewEvent::new("breaker", &key, what).state(to).cause(cause);
        self.events.push(clock::wall(), event);
        self.modes.wake();
    }
}

impl Drop for BreakerCell {
    fn drop(&mut self) {
        let labels = labels(&self.key);
        self.metrics.breaker_state.remove(&labels);
        self.metrics.breaker_rejections.remove(&labels);
    }
}

fn labels(key: &BreakerKey) -> BreakerLabels {
    BreakerLabels {
        provider: key.provider.clone(),
        endpoint: key.endpoint.clone(),
        model: key.model.clone(),
    }
}

pub(crate) fn gauge(kind: StateKind) -> i64 {
    match kind {
        StateKind::Closed => 0,
        StateKind::HalfOpen => 1,
        StateKind::Open => 2,
    }
}
