//! One breaker of the running process: the pure rule behind a lock, an atomic in front of it.
//!
//! Choosing among candidates reads `restrains`: a closed breaker at full traffic, which is
//! nearly always so, costs one load. Everything else takes the lock for a few instructions.
//! Transitions are counted, logged and kept as events here, so that the rule itself stays silent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::by_hand::{Note, OnIt};
use super::lock;
use crate::clock;
use crate::resilience::breaker::{
    Admission, Breaker, BreakerPolicy, Hand, Kind, Mode, Permit, Rejection, Transition,
};
use crate::resilience::outcome::Outcome;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::{BreakerLabels, Level, Metrics, TransitionLabels};

/// What a breaker watches: an address, or one model at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub provider: String,
    pub address: String,
    /// Empty: the address as a whole.
    pub model: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.address)?;
        if self.model.is_empty() { Ok(()) } else { write!(f, "/{}", self.model) }
    }
}

/// A breaker and what tells of it.
#[derive(Debug)]
pub struct BreakerCell {
    key: Key,
    rule: Mutex<Breaker>,
    /// Of the hand that is on it.
    note: Mutex<Note>,
    /// False while everything is admitted, so that a look need not lock.
    restrains: AtomicBool,
    /// Seconds since `born`, of the last admission.
    used: AtomicU64,
    born: Instant,
    state: Level,
    rejections: Counter,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
}

/// How a breaker stands, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Standing {
    pub provider: String,
    pub address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    pub state: &'static str,
    /// Trips in a row.
    pub trips: u32,
    pub epoch: u64,
    /// Until it asks again, when it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// Below 1 while traffic ramps up after a recovery.
    pub ramp: f64,
    pub mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<OnIt>,
}

impl BreakerCell {
    pub fn new(
        key: Key,
        policy: BreakerPolicy,
        metrics: &Arc<Metrics>,
        events: &Arc<Events>,
    ) -> Self {
        let labels = labels(&key);
        BreakerCell {
            state: metrics.breaker_state.get_or_create_owned(&labels),
            rejections: metrics.breaker_rejections.get_or_create_owned(&labels),
            key,
            rule: Mutex::new(Breaker::new(policy)),
            note: Mutex::default(),
            restrains: AtomicBool::new(false),
            used: AtomicU64::new(0),
            born: clock::now(),
            metrics: Arc::clone(metrics),
            events: Arc::clone(events),
        }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes another policy; the state stays.
    pub fn retune(&self, policy: BreakerPolicy) {
        let mut rule = lock(&self.rule);
        if *rule.policy() != policy {
            rule.retune(policy);
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
        lock(&self.rule).would_admit(now)
    }

    /// The share of its weight that this one should get: below 1 after a recovery.
    pub fn slow_start(&self, now: Instant) -> f64 {
        if !self.restrains.load(Ordering::Acquire) {
            return 1.0;
        }
        lock(&self.rule).slow_start(now)
    }

    /// Open for long enough, and a probe may go: that one is made first, because the balancer,
    /// which remembers the failures, would pass it over for long.
    pub fn wants_probe(&self, now: Instant) -> bool {
        if !self.restrains.load(Ordering::Acquire) {
            return false;
        }
        let rule = lock(&self.rule);
        let enforced = rule.mode(now) == Mode::Enforce;
        enforced && rule.kind() != Kind::Closed && rule.would_admit(now).is_ok()
    }

    /// Leave to make one attempt.
    ///
    /// # Errors
    /// Why not, and when to ask again.
    pub fn admit(&self, now: Instant) -> Result<Permit, Rejection> {
        let mut rule = lock(&self.rule);
        let (admission, transition) = rule.admit(now);
        self.settle(&rule, now);
        drop(rule);
        self.used.store(now.saturating_duration_since(self.born).as_secs(), Ordering::Relaxed);
        self.tell(transition);
        match admission {
            Admission::Admit(permit) => {
                if permit.would_reject() {
                    self.rejections.inc();
                }
                Ok(permit)
            }
            Admission::Reject(rejection) => {
                self.rejections.inc();
                Err(rejection)
            }
        }
    }

    /// Takes back a permit with what the attempt taught.
    pub fn observe(&self, permit: Permit, outcome: Outcome, took: Duration, now: Instant) {
        let mut rule = lock(&self.rule);
        let transition = rule.observe(permit, outcome, took, now, clock::draw());
        self.settle(&rule, now);
        drop(rule);
        self.tell(transition);
    }

    /// A stream that was cut after its permit was returned: one more failure in the window.
    pub fn cut(&self, epoch: u64, now: Instant) {
        let mut rule = lock(&self.rule);
        let transition = rule.cut(epoch, now, clock::draw());
        self.settle(&rule, now);
        drop(rule);
        self.tell(transition);
    }

    /// Puts an operator's hand on it, or, with `None`, takes it off and begins anew.
    pub fn by_hand(&self, hand: Option<Hand>, note: Note, now: Instant) {
        let mut rule = lock(&self.rule);
        let transition = match hand {
            Some(hand) => rule.by_hand(hand, now),
            None => Some(rule.reset()),
        };
        self.settle(&rule, now);
        drop(rule);
        *lock(&self.note) = note;
        self.tell(transition.filter(|t| t.from != t.to));
    }

    pub fn epoch(&self) -> u64 {
        lock(&self.rule).epoch()
    }

    /// Closed and unused for so long that forgetting it loses nothing.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.restrains.load(Ordering::Acquire) || lock(&self.rule).hand(now).is_some() {
            return None;
        }
        let age = now.saturating_duration_since(self.born);
        Some(age.saturating_sub(Duration::from_secs(self.used.load(Ordering::Relaxed))))
    }

    pub fn standing(&self, now: Instant) -> Standing {
        let rule = lock(&self.rule);
        let hand = rule.hand(now);
        let on_it =
            |hand: Hand| OnIt::new(hand.wish.as_str(), hand.until, lock(&self.note).clone(), now);
        Standing {
            provider: self.key.provider.clone(),
            address: self.key.address.clone(),
            model: self.key.model.clone(),
            state: rule.kind().as_str(),
            trips: rule.trips(),
            epoch: rule.epoch(),
            retry_in_ms: rule
                .retry_at()
                .filter(|_| hand.is_none_or(|hand| hand.until.is_some()))
                .map(|at| at.saturating_duration_since(now).as_millis() as u64),
            ramp: rule.slow_start(now),
            mode: rule.mode(now).as_str(),
            by_hand: hand.map(on_it),
        }
    }

    fn settle(&self, rule: &Breaker, now: Instant) {
        let restrains = rule.kind() != Kind::Closed || rule.slow_start(now) < 1.0;
        if self.restrains.load(Ordering::Relaxed) != restrains {
            self.restrains.store(restrains, Ordering::Release);
        }
    }

    fn tell(&self, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        let (from, to, cause) =
            (transition.from.as_str(), transition.to.as_str(), transition.cause.as_str());
        self.state.set(gauge(transition.to));
        self.metrics
            .breaker_transitions
            .with(&TransitionLabels {
                provider: self.key.provider.clone(),
                address: self.key.address.clone(),
                to,
                cause,
            })
            .inc();
        tracing::warn!(breaker = %self.key, from, to, cause, "breaker changed");
        let what = format!("{from} -> {to}: {cause}");
        self.events.push(clock::wall(), "breaker", &self.key.to_string(), what);
    }
}

impl Drop for BreakerCell {
    fn drop(&mut self) {
        let labels = labels(&self.key);
        self.metrics.breaker_state.remove(&labels);
        self.metrics.breaker_rejections.remove(&labels);
    }
}

fn labels(key: &Key) -> BreakerLabels {
    BreakerLabels {
        provider: key.provider.clone(),
        address: key.address.clone(),
        model: key.model.clone(),
    }
}

fn gauge(kind: Kind) -> i64 {
    match kind {
        Kind::Closed => 0,
        Kind::HalfOpen => 1,
        Kind::Open => 2,
    }
}
