//! One breaker of the running process: the pure rule behind a lock, an atomic in front of it.
//!
//! Choosing among candidates reads `restrains`: a closed breaker at full traffic, which is
//! nearly always so, costs one load. Everything else takes the lock for a few instructions.
//! Transitions are counted, logged and kept as events here, so that the rule itself stays silent.

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
    Breaker, BreakerPermit, BreakerPolicy, BreakerTransition, EnforcementMode, ManualOverride,
    RejectReason, Rejection, StateKind,
};
use crate::resilience::outcome::Outcome;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::{BreakerLabels, Level, Metrics, TransitionLabels};

/// What a breaker watches: an address, or one model at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BreakerKey {
    pub provider: String,
    pub address: String,
    /// Empty: the address as a whole.
    pub model: String,
}

impl std::fmt::Display for BreakerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.address)?;
        if self.model.is_empty() { Ok(()) } else { write!(f, "/{}", self.model) }
    }
}

/// A breaker and what tells of it.
#[derive(Debug)]
pub struct BreakerCell {
    pub(crate) key: BreakerKey,
    pub(crate) rules: Mutex<CombinedBreaker>,
    /// Of the hand that is on it.
    pub(crate) note: Mutex<AuditNote>,
    /// False while everything is admitted, so that a look need not lock.
    pub(crate) restrains: AtomicBool,
    /// Seconds since `born`, of the last admission.
    used: AtomicU64,
    born: Instant,
    pub(crate) state: Level,
    rejections: Counter,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    modes: Arc<Modes>,
    pub(crate) fleet: Option<Arc<FleetView>>,
}

/// Leave to make one attempt; returned with an outcome.
#[derive(Debug)]
#[must_use = "leave is returned with an outcome"]
pub enum CellPermit {
    /// Of the host's own breaker.
    Own(BreakerPermit),
    /// Of the fleet, to probe.
    Lease(FleetLease),
}

/// The state of one breaker, as the admin API reports it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakerStatus {
    pub provider: String,
    pub address: String,
    /// Absent when the breaker covers all models of the address.
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
            CellPermit::Own(permit) => permit.is_probe(),
            CellPermit::Lease(_) => true,
        }
    }
}

impl BreakerCell {
    pub fn new(
        key: BreakerKey,
        policy: BreakerPolicy,
        (metrics, events, modes): (&Arc<Metrics>, &Arc<Events>, &Arc<Modes>),
        fleet: Option<&Arc<FleetView>>,
    ) -> Self {
        let labels = labels(&key);
        let cell = BreakerCell {
            state: metrics.breaker_state.get_or_create_owned(&labels),
            rejections: metrics.breaker_rejections.get_or_create_owned(&labels),
            key,
            rules: Mutex::new(CombinedBreaker { own: Breaker::new(policy), member: None }),
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

    /// Takes another policy; the state stays.
    pub fn retune(&self, policy: BreakerPolicy) {
        let mut rules = self.rules.lock();
        if *rules.own.policy() != policy {
            let now = clock::now();
            rules.own.retune(policy);
            self.join(&mut rules, now);
            self.settle(&rules, now);
        }
    }

    /// Would an attempt be admitted? Nothing changes.
    ///
    /// # Errors
    /// Why not, and when to ask again.
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

    /// Open, or half-open with its probes out; for a moment after it could be asked again, too.
    pub fn is_shut(&self, now: Instant) -> bool {
        self.restrains.load(Ordering::Acquire) && self.rules.lock().is_shut(now)
    }

    /// The share of its weight that this one should get: below 1 after a recovery.
    pub fn slow_start(&self, now: Instant) -> f64 {
        if !self.restrains.load(Ordering::Acquire) {
            return 1.0;
        }
        self.rules.lock().own.slow_start(now)
    }

    /// Open for long enough, and a probe may go: that one is made first, because the balancer,
    /// which remembers the failures, would pass it over for long.
    pub fn wants_probe(&self, now: Instant) -> bool {
        if !self.restrains.load(Ordering::Acquire) {
            return false;
        }
        let mut rules = self.rules.lock();
        if rules.member(now).is_some_and(|member| member.is_fleet_tripped()) {
            return rules.member(now).is_some_and(|member| member.has_lease(now));
        }
        let own = &rules.own;
        let enforced = own.mode(now) == EnforcementMode::Enforce;
        enforced && own.kind() != StateKind::Closed && own.would_admit(now).is_ok()
    }

    /// Leave to make one attempt.
    ///
    /// # Errors
    /// Why not, and when to ask again.
    pub fn admit(&self, now: Instant) -> Result<CellPermit, Rejection> {
        let (admitted, moved) = self.with(now, |rules| rules.admit(now));
        self.used.store(now.saturating_duration_since(self.born).as_secs(), Ordering::Relaxed);
        self.report(moved);
        match &admitted {
            Ok(CellPermit::Own(permit)) if permit.would_reject() => {
                self.rejections.inc();
            }
            Err(_) => {
                self.rejections.inc();
            }
            Ok(_) => {}
        }
        admitted
    }

    /// Takes back a permit with what the attempt taught.
    pub fn observe(&self, leave: CellPermit, outcome: Outcome, took: Duration, now: Instant) {
        match leave {
            CellPermit::Own(permit) => {
                let draw = clock::draw();
                let moved = self.with(now, |rules| {
                    let moved = rules.own.observe(permit, outcome, took, now, draw);
                    if let (Some(StateKind::Closed), Some(m)) =
                        (moved.map(|m| m.to), &mut rules.member)
                    {
                        m.closed_locally();
                    }
                    moved
                });
                self.report(moved);
            }
            CellPermit::Lease(lease) => {
                self.with(now, |rules| {
                    rules
                        .member
                        .iter_mut()
                        .for_each(|member| member.probe_finished(lease, outcome));
                });
                self.fleet.iter().for_each(|fleet| fleet.wake());
            }
        }
    }

    /// A stream that was cut after its permit was returned: one more failure in the window.
    pub fn observe_interruption(&self, epoch: u64, now: Instant) {
        let draw = clock::draw();
        let moved = self.with(now, |rules| rules.own.observe_interruption(epoch, now, draw));
        self.report(moved);
    }

    /// Puts an operator's hand on it, or, with `None`, takes it off and begins anew.
    pub fn set_override(&self, hand: Option<ManualOverride>, note: AuditNote, now: Instant) {
        let moved = self.with(now, |rules| match hand {
            Some(hand) => rules.own.set_override(hand, now),
            None => Some(rules.own.reset()),
        });
        *self.note.lock() = note;
        self.report(moved.filter(|t| t.from != t.to));
    }

    /// Does something with the rules, and sets what tells of them.
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

    pub fn epoch(&self) -> u64 {
        self.rules.lock().own.epoch()
    }

    /// Closed and unused for so long that forgetting it loses nothing.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.restrains.load(Ordering::Acquire) || self.rules.lock().own.hand(now).is_some() {
            return None;
        }
        Some(self.unused_for(now))
    }

    /// Since its last admission, or since it was made.
    pub fn unused_for(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.born);
        age.saturating_sub(Duration::from_secs(self.used.load(Ordering::Relaxed)))
    }

    pub fn status(&self, now: Instant) -> BreakerStatus {
        let rules = self.rules.lock();
        let rule = &rules.own;
        let hand = rule.hand(now);
        let on_it = |hand: ManualOverride| {
            ActiveOverride::new(hand.state.as_str(), hand.until, self.note.lock().clone(), now)
        };
        BreakerStatus {
            provider: self.key.provider.clone(),
            address: self.key.address.clone(),
            model: self.key.model.clone(),
            state: rules.kind(now).as_str().into(),
            fleet: rules.member.as_ref().is_some_and(BreakerReplica::is_attached),
            trips: rule.trips(),
            epoch: rule.epoch(),
            retry_in_ms: rule
                .retry_at()
                .filter(|_| hand.is_none_or(|hand| hand.until.is_some()))
                .map(|at| at.saturating_duration_since(now).as_millis() as u64),
            traffic_share: rule.slow_start(now),
            mode: rule.mode(now).as_str().into(),
            manual_override: hand.map(on_it),
        }
    }

    fn settle(&self, rules: &CombinedBreaker, now: Instant) {
        let restrains = rules.restrains(now);
        if self.restrains.load(Ordering::Relaxed) != restrains {
            self.restrains.store(restrains, Ordering::Release);
        }
    }

    /// A change of the host's own: the fleet's task hears of a trip.
    fn report(&self, transition: Option<BreakerTransition>) {
        let Some(transition) = transition else { return };
        self.report_with_reason(transition, "");
        self.fleet.iter().for_each(|fleet| fleet.wake());
    }

    /// `by`: who of the fleet, and why.
    pub(crate) fn report_with_reason(&self, transition: BreakerTransition, by: &str) {
        let (from, to, cause) =
            (transition.from.as_str(), transition.to.as_str(), transition.cause.as_str());
        self.state.set(gauge(transition.to));
        self.metrics
            .breaker_transitions
            .with(&TransitionLabels {
                provider: self.key.provider.clone(),
                endpoint: self.key.address.clone(),
                to,
                cause,
            })
            .inc();
        tracing::warn!(breaker = %self.key, from, to, cause, by, "breaker changed");
        let by = if by.is_empty() { String::new() } else { format!(" ({by})") };
        let what = format!("{from} -> {to}: {cause}{by}");
        self.events.push(clock::wall(), "breaker", &self.key.to_string(), what);
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
        endpoint: key.address.clone(),
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
