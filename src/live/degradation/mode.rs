//! Modes of degradation: which are in force, since when and why.
//!
//! The request path reads one atomic, a bit for each mode in force, and looks at nothing more where
//! none of its route's is set. A bit is a hint: where two modes have the same (one that a reload
//! took away may live on in a long request), the cell is asked.
//!
//! Whoever looks at conditions (`degradation/`) and whoever lays a hand on (`admin/`) come here; each
//! change is counted, logged, kept as an event and as an episode.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use super::episode::{ActionKind, Episode, EpisodeCause, EpisodeEnd, SignalReading};
use crate::clock;
use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::policy::sections::model::Degradation;
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::hysteresis as rule;
use crate::resilience::hysteresis::{
    State, Trigger, TriggerChange, TriggerOverride, TriggerPolicy,
};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::{Level, Metrics};
use crate::telemetry::metrics::{ModeActionLabels, ModeLabels, ModeTransitionLabels};

/// Episodes that are remembered.
pub const EPISODES: usize = 1000;

#[derive(Debug, Default)]
pub struct Modes {
    in_force: AtomicU64,
    cells: Mutex<Vec<Arc<ModeCell>>>,
    /// The newest last; each with how many came before it.
    episodes: Mutex<(u64, VecDeque<Arc<Episode>>)>,
    /// Entries and exits so far.
    changes: AtomicU64,
    woken: Notify,
}

#[derive(Debug)]
pub struct ModeCell {
    pub name: String,
    pub bit: u64,
    shadow: AtomicBool,
    in_force: AtomicBool,
    rules: Mutex<ModeState>,
    touched: [Counter; ActionKind::ALL.len()],
    gauge: Level,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
}

#[derive(Debug)]
struct ModeState {
    trigger: Trigger,
    note: AuditNote,
    /// As they were found last, and whether the condition held.
    seen: Vec<SignalReading>,
    holds: bool,
    /// While it is in force.
    episode: Option<Arc<Episode>>,
    /// The last that began, and how often it was entered or left.
    latest: Option<Arc<Episode>>,
    changes: u64,
    /// Of these, how many were told, or had nobody to be told.
    told: u64,
}

/// How a mode stands.
#[derive(Clone, Debug)]
pub struct ModeStatus {
    pub episode: Option<Arc<Episode>>,
    pub holds: bool,
    pub seen: Vec<SignalReading>,
    /// What the condition alone would have.
    pub condition_is_in: bool,
    /// How far it is on its way in or out: what passed, and of what.
    pub progress: Option<(Duration, Duration)>,
    pub manual_override: Option<ActiveOverride>,
}

// === impl Modes ===

impl Modes {
    /// A bit for each mode that is in force.
    pub fn in_force(&self) -> u64 {
        self.in_force.load(Ordering::Relaxed)
    }

    /// Something that conditions are made of changed: they are looked at.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// How often any was entered or left.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Waits for a wake.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// The cell of a mode: made, or found and retuned.
    pub fn cell(&self, policy: &Degradation, told: (&Arc<Metrics>, &Arc<Events>)) -> Arc<ModeCell> {
        let mut cells = self.cells.lock();
        let shadow = policy.mode == EnforcementMode::Shadow;
        if let Some(cell) = cells.iter().find(|cell| cell.name == policy.name) {
            cell.rules.lock().trigger.retune(lengths(policy));
            cell.shadow.store(shadow, Ordering::Relaxed);
            return Arc::clone(cell);
        }
        let taken = cells.iter().fold(0, |taken, cell| taken | cell.bit);
        let bit = 1 << (u64::trailing_ones(taken) % u64::BITS);
        let cell = Arc::new(ModeCell::new(policy, bit, told));
        cells.push(Arc::clone(&cell));
        cell
    }

    /// Lets go of those that no snapshot uses; one that is in force is left first.
    pub fn forget_unused(&self) {
        let unused = |cell: &Arc<ModeCell>| Arc::strong_count(cell) <= 1 && !cell.is_in_force();
        self.cells.lock().retain(|cell| !unused(cell));
    }

    /// Every one, whether a policy has it still or not.
    pub fn all(&self) -> Vec<Arc<ModeCell>> {
        self.cells.lock().clone()
    }

    /// A mode's condition was looked at.
    pub fn update(&self, cell: &ModeCell, holds: bool, seen: Vec<SignalReading>, now: Instant) {
        self.change(cell, now, |rules| {
            (rules.holds, rules.seen) = (holds, seen);
            rules.trigger.update(holds, now)
        });
    }

    /// Puts an operator's hand on a mode, or takes it off.
    pub fn set_override(
        &self,
        cell: &ModeCell,
        hand: Option<TriggerOverride>,
        note: AuditNote,
        now: Instant,
    ) {
        self.change(cell, now, |rules| {
            rules.note = note;
            rules.trigger.set_override(hand)
        });
    }

    /// The policy has it no longer: if it has it again, it begins anew, without a hand.
    pub fn remove(&self, cell: &ModeCell, now: Instant) {
        let mut rules = cell.rules.lock();
        rules.trigger = Trigger::new(rules.trigger.policy());
        if rules.episode.is_none() {
            return;
        }
        cell.left(&mut rules, "removed", now);
        drop(rules);
        self.settle();
    }

    /// Those that began after the first `seen` ones, and how many began in all.
    pub fn episodes_since(&self, seen: u64) -> (Vec<Arc<Episode>>, u64) {
        let episodes = self.episodes.lock();
        let (count, ring) = &*episodes;
        let new = usize::try_from(count.saturating_sub(seen)).unwrap_or(usize::MAX);
        (ring.iter().skip(ring.len().saturating_sub(new)).cloned().collect(), *count)
    }

    fn change(
        &self,
        cell: &ModeCell,
        now: Instant,
        change: impl FnOnce(&mut ModeState) -> Option<TriggerChange>,
    ) {
        let mut rules = cell.rules.lock();
        match change(&mut rules) {
            None => return,
            Some(TriggerChange::Entered(by)) => {
                let episode = cell.entered(&mut rules, by, now);
                let mut episodes = self.episodes.lock();
                episodes.0 += 1;
                if episodes.1.len() >= EPISODES {
                    episodes.1.pop_front();
                }
                episodes.1.push_back(episode);
            }
            Some(TriggerChange::Left(by)) => cell.left(&mut rules, word(by), now),
        }
        drop(rules);
        self.settle();
        self.wake();
    }

    fn settle(&self) {
        let cells = self.cells.lock();
        let bits = cells.iter().filter(|cell| cell.is_in_force()).fold(0, |all, c| all | c.bit);
        self.in_force.store(bits, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl ModeCell ===

impl ModeCell {
    fn new(
        policy: &Degradation,
        bit: u64,
        (metrics, events): (&Arc<Metrics>, &Arc<Events>),
    ) -> Self {
        let mode = &policy.name;
        let touched = ActionKind::ALL.map(|touch| {
            let labels = ModeActionLabels { mode: mode.clone(), action: touch.as_str() };
            metrics.degradation_requests.with(&labels)
        });
        let rules = ModeState {
            trigger: Trigger::new(lengths(policy)),
            note: AuditNote::default(),
            seen: Vec::new(),
            holds: false,
            episode: None,
            latest: None,
            changes: 0,
            told: 0,
        };
        ModeCell {
            name: mode.clone(),
            bit,
            shadow: AtomicBool::new(policy.mode == EnforcementMode::Shadow),
            in_force: AtomicBool::new(false),
            rules: Mutex::new(rules),
            touched,
            gauge: metrics.degradation_active.with(&ModeLabels { mode: mode.clone() }),
            metrics: Arc::clone(metrics),
            events: Arc::clone(events),
        }
    }

    pub fn is_in_force(&self) -> bool {
        self.in_force.load(Ordering::Acquire)
    }

    /// What is under way while it is in force.
    pub fn episode(&self) -> Option<Arc<Episode>> {
        self.rules.lock().episode.clone()
    }

    /// The episode that began last.
    pub fn latest(&self) -> Option<Arc<Episode>> {
        self.rules.lock().latest.clone()
    }

    /// Changes that nobody was told of.
    pub fn unreported_changes(&self) -> u64 {
        let rules = self.rules.lock();
        rules.changes - rules.told.min(rules.changes)
    }

    /// Somebody was told of all changes so far, or nobody wants to know.
    pub fn mark_reported(&self) {
        let mut rules = self.rules.lock();
        rules.told = rules.changes;
    }

    /// A request was touched; `first`: by this mode for the first time.
    pub fn record(&self, episode: &Episode, what: ActionKind, first: bool) {
        self.touched[what as usize].inc();
        episode.record(what, first);
    }

    /// When it could be left at the earliest, from now; at least a second.
    pub fn earliest_end(&self, now: Instant) -> Duration {
        self.rules.lock().trigger.earliest_end(now).max(Duration::from_secs(1))
    }

    pub fn status(&self, now: Instant) -> ModeStatus {
        let rules = self.rules.lock();
        let policy = rules.trigger.policy();
        let passed = |since: Instant| now.saturating_duration_since(since);
        let hand = rules.trigger.hand(now);
        let on_it = |hand: TriggerOverride| {
            let what = if hand.on { "entered" } else { "left" };
            ActiveOverride::new(what, hand.until, rules.note.clone(), now)
        };
        ModeStatus {
            episode: rules.episode.clone(),
            holds: rules.holds,
            seen: rules.seen.clone(),
            condition_is_in: rules.trigger.state().is_in(),
            progress: match rules.trigger.state() {
                State::Rising { since } => Some((passed(since), policy.hold)),
                State::Falling { since } => Some((passed(since), policy.recover_after)),
                State::Out | State::In => None,
            },
            manual_override: hand.map(on_it),
        }
    }

    fn entered(&self, rules: &mut ModeState, by: rule::TriggerCause, now: Instant) -> Arc<Episode> {
        let note =
            if by == rule::TriggerCause::Hand { rules.note.clone() } else { AuditNote::default() };
        let cause = EpisodeCause { by: word(by).to_owned(), signals: rules.seen.clone(), note };
        let shadow = self.shadow.load(Ordering::Relaxed);
        let why = cause.words();
        let episode = Arc::new(Episode::new(&self.name, shadow, cause, (clock::wall(), now)));
        rules.episode = Some(Arc::clone(&episode));
        rules.latest = Some(Arc::clone(&episode));
        rules.changes += 1;
        self.in_force.store(true, Ordering::Release);
        tracing::warn!(mode = self.name, by = word(by), why, shadow, "degradation: mode entered");
        self.tell(true, word(by), format!("entered: {why}"));
        episode
    }

    fn left(&self, rules: &mut ModeState, by: &'static str, now: Instant) {
        self.in_force.store(false, Ordering::Release);
        let Some(episode) = rules.episode.take() else { return };
        rules.changes += 1;
        let took = now.saturating_duration_since(episode.since);
        episode.end(EpisodeEnd { at: clock::wall(), took, by });
        let requests = episode.impact().requests;
        tracing::warn!(mode = self.name, by, ?took, requests, "degradation: mode left");
        self.tell(false, by, format!("left by {by} after {took:.1?}; {requests} requests touched"));
    }

    fn tell(&self, entered: bool, cause: &'static str, what: String) {
        self.gauge.set(i64::from(entered));
        let to = if entered { "entered" } else { "left" };
        let labels = ModeTransitionLabels { mode: self.name.clone(), to, cause };
        self.metrics.degradation_transitions.with(&labels).inc();
        self.events.push(clock::wall(), "degradation", &self.name, what);
    }
}

fn word(by: rule::TriggerCause) -> &'static str {
    match by {
        rule::TriggerCause::Condition => "condition",
        rule::TriggerCause::Hand => "hand",
    }
}

fn lengths(policy: &Degradation) -> TriggerPolicy {
    TriggerPolicy { hold: policy.hold, recover_after: policy.recover_after }
}

#[cfg(test)]
#[path = "mode_tests.rs"]
mod tests;
