//! Degradation modes: which are in force, since when and why.
//!
//! The request path reads one atomic with a bit for each mode in force, and does nothing more
//! if none of its route's bits is set. A bit is a hint: if two modes share one (a mode removed
//! by a reload may live on in a long request), the cell decides.
//!
//! Condition evaluation (`degradation/`) and manual overrides (`admin/`) come here; each
//! change is counted, logged, and kept as an event and an episode.

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
use crate::resilience::hysteresis::{
    State, Trigger, TriggerCause, TriggerChange, TriggerOverride, TriggerPolicy,
};
use crate::telemetry::events::{Events, NewEvent};
use crate::telemetry::metrics::{Level, Metrics};
use crate::telemetry::metrics::{ModeActionLabels, ModeLabels, ModeTransitionLabels};

/// Episodes that are kept.
pub const EPISODES: usize = 1000;

#[derive(Debug, Default)]
pub struct Modes {
    in_force: AtomicU64,
    cells: Mutex<Vec<Arc<ModeCell>>>,
    /// The newest last, and the number of all so far.
    episodes: Mutex<(u64, VecDeque<Arc<Episode>>)>,
    /// Entries and exits so far.
    changes: AtomicU64,
    woken: Notify,
    /// The process ends: notifications are sent at once.
    ending: AtomicBool,
    /// Notifications are being sent.
    notifying: AtomicBool,
}

#[derive(Debug)]
pub struct ModeCell {
    pub name: String,
    pub bit: u64,
    shadow: AtomicBool,
    in_force: AtomicBool,
    rules: Mutex<ModeState>,
    /// `None` for actions that are not done to requests.
    action_counts: [Option<Counter>; ActionKind::ALL.len()],
    gauge: Level,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
}

#[derive(Debug)]
struct ModeState {
    trigger: Trigger,
    note: AuditNote,
    /// The last readings, and whether the condition held.
    seen: Vec<SignalReading>,
    holds: bool,
    /// While it is in force.
    episode: Option<Arc<Episode>>,
    /// The latest episode, and how often the mode was entered or left.
    latest: Option<Arc<Episode>>,
    changes: u64,
    /// How many of these changes were reported, or needed no report.
    reported: u64,
}

/// The state of a mode, for the admin API.
#[derive(Clone, Debug)]
pub struct ModeView {
    pub episode: Option<Arc<Episode>>,
    pub holds: bool,
    pub seen: Vec<SignalReading>,
    /// Whether the condition alone would put it in force.
    pub condition_is_in: bool,
    /// Progress of entering or leaving: elapsed, and required time.
    pub progress: Option<(Duration, Duration)>,
    pub manual_override: Option<ActiveOverride>,
}

impl Modes {
    /// A bit for each mode in force.
    pub fn in_force(&self) -> u64 {
        self.in_force.load(Ordering::Relaxed)
    }

    /// An input of conditions changed: they are evaluated.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// How often any mode was entered or left.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The process ends: changes that wait for a notification are sent at once.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    pub fn set_notifying(&self, notifying: bool) {
        self.notifying.store(notifying, Ordering::Release);
    }

    /// Whether every change so far is notified, or needs no notification.
    pub fn are_notified(&self) -> bool {
        let unreported = self.cells.lock().iter().any(|cell| cell.unreported_changes() > 0);
        !unreported && !self.notifying.load(Ordering::Acquire)
    }

    /// Waits for a wake.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// The cell of a mode: new, or found and retuned.
    pub fn cell(
        &self,
        policy: &Degradation,
        metrics: &Arc<Metrics>,
        events: &Arc<Events>,
    ) -> Arc<ModeCell> {
        let mut cells = self.cells.lock();
        let shadow = policy.mode == EnforcementMode::Shadow;
        if let Some(cell) = cells.iter().find(|cell| cell.name == policy.name) {
            cell.rules.lock().trigger.retune(lengths(policy));
            cell.shadow.store(shadow, Ordering::Relaxed);
            return Arc::clone(cell);
        }
        let taken = cells.iter().fold(0, |taken, cell| taken | cell.bit);
        let bit = 1 << (u64::trailing_ones(taken) % u64::BITS);
        let cell = Arc::new(ModeCell::new(policy, bit, metrics, events));
        cells.push(Arc::clone(&cell));
        cell
    }

    /// Drops the modes that no snapshot uses; one in force is left first.
    pub fn forget_unused(&self) {
        let unused = |cell: &Arc<ModeCell>| Arc::strong_count(cell) <= 1 && !cell.is_in_force();
        self.cells.lock().retain(|cell| !unused(cell));
    }

    /// Every mode, even if no policy has it any longer.
    pub fn all(&self) -> Vec<Arc<ModeCell>> {
        self.cells.lock().clone()
    }

    /// Takes an evaluation of a mode's condition.
    pub fn update(&self, cell: &ModeCell, holds: bool, seen: Vec<SignalReading>, now: Instant) {
        self.change(cell, now, |rules| {
            (rules.holds, rules.seen) = (holds, seen);
            rules.trigger.update(holds, now)
        });
    }

    /// Sets or removes an override of a mode.
    pub fn set_override(
        &self,
        cell: &ModeCell,
        manual: Option<TriggerOverride>,
        note: AuditNote,
        now: Instant,
    ) {
        self.change(cell, now, |rules| {
            rules.note = note;
            rules.trigger.set_override(manual)
        });
    }

    /// The policy no longer has the mode: if it returns, it starts over, without an
    /// override.
    pub fn remove(&self, cell: &ModeCell, now: Instant) {
        let mut rules = cell.rules.lock();
        rules.trigger = Trigger::new(rules.trigger.policy());
        if rules.episode.is_none() {
            return;
        }
        cell.leave(&mut rules, "removed", now);
        drop(rules);
        self.settle();
    }

    /// The episodes that began after the first `seen` ones, and the number of all.
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
            Some(TriggerChange::Left(by)) => cell.leave(&mut rules, by.as_str(), now),
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

impl ModeCell {
    fn new(policy: &Degradation, bit: u64, metrics: &Arc<Metrics>, events: &Arc<Events>) -> Self {
        let mode = &policy.name;
        let counter = |touch: ActionKind| {
            let labels = ModeActionLabels { mode: mode.clone(), action: touch.as_str() };
            metrics.degradation_requests.with(&labels)
        };
        let action_counts = std::array::from_fn(|index| {
            let kind = ActionKind::ALL[index];
            kind.is_of_requests().then(|| counter(kind))
        });
        let rules = ModeState {
            trigger: Trigger::new(lengths(policy)),
            note: AuditNote::default(),
            seen: Vec::new(),
            holds: false,
            episode: None,
            latest: None,
            changes: 0,
            reported: 0,
        };
        ModeCell {
            name: mode.clone(),
            bit,
            shadow: AtomicBool::new(policy.mode == EnforcementMode::Shadow),
            in_force: AtomicBool::new(false),
            rules: Mutex::new(rules),
            action_counts,
            gauge: metrics.degradation_active.with(&ModeLabels { mode: mode.clone() }),
            metrics: Arc::clone(metrics),
            events: Arc::clone(events),
        }
    }

    pub fn is_in_force(&self) -> bool {
        self.in_force.load(Ordering::Acquire)
    }

    /// The current episode, while it is in force.
    pub fn episode(&self) -> Option<Arc<Episode>> {
        self.rules.lock().episode.clone()
    }

    /// The latest episode.
    pub fn latest(&self) -> Option<Arc<Episode>> {
        self.rules.lock().latest.clone()
    }

    /// Changes that were not reported.
    pub fn unreported_changes(&self) -> u64 {
        let rules = self.rules.lock();
        rules.changes - rules.reported.min(rules.changes)
    }

    /// All changes so far are reported, or need no report.
    pub fn mark_reported(&self) {
        let mut rules = self.rules.lock();
        rules.reported = rules.changes;
    }

    /// Counts a request; `first`: the first effect of this mode on it.
    pub fn record(&self, episode: &Episode, what: ActionKind, first: bool) {
        if let Some(counter) = &self.action_counts[what as usize] {
            counter.inc();
        }
        episode.record(what, first);
    }

    /// The least time until it could be left; at least a second.
    pub fn earliest_end(&self, now: Instant) -> Duration {
        self.rules.lock().trigger.earliest_end(now).max(Duration::from_secs(1))
    }

    pub fn status(&self, now: Instant) -> ModeView {
        let rules = self.rules.lock();
        let policy = rules.trigger.policy();
        let passed = |since: Instant| now.saturating_duration_since(since);
        let manual = rules.trigger.active_override(now);
        let active = |manual: TriggerOverride| {
            let what = if manual.active { "entered" } else { "left" };
            ActiveOverride::new(what, manual.until, rules.note.clone(), now)
        };
        ModeView {
            episode: rules.episode.clone(),
            holds: rules.holds,
            seen: rules.seen.clone(),
            condition_is_in: rules.trigger.state().is_in(),
            progress: match rules.trigger.state() {
                State::Rising { since } => Some((passed(since), policy.hold)),
                State::Falling { since } => Some((passed(since), policy.recover_after)),
                State::Out | State::In => None,
            },
            manual_override: manual.map(active),
        }
    }

    fn entered(&self, rules: &mut ModeState, by: TriggerCause, now: Instant) -> Arc<Episode> {
        let note =
            if by == TriggerCause::Override { rules.note.clone() } else { AuditNote::default() };
        let cause = EpisodeCause { by: by.as_str().to_owned(), signals: rules.seen.clone(), note };
        let shadow = self.shadow.load(Ordering::Relaxed);
        let why = cause.words();
        let episode = Arc::new(Episode::new(&self.name, shadow, cause, clock::wall(), now));
        rules.episode = Some(Arc::clone(&episode));
        rules.latest = Some(Arc::clone(&episode));
        rules.changes += 1;
        self.in_force.store(true, Ordering::Release);
        tracing::warn!(
            mode = self.name,
            by = by.as_str(),
            why,
            shadow,
            "degradation: mode entered"
        );
        self.report(true, by.as_str(), format!("entered: {why}"));
        episode
    }

    fn leave(&self, rules: &mut ModeState, by: &'static str, now: Instant) {
        self.in_force.store(false, Ordering::Release);
        let Some(episode) = rules.episode.take() else { return };
        rules.changes += 1;
        let took = now.saturating_duration_since(episode.since);
        episode.end(EpisodeEnd { at: clock::wall(), took, by });
        let requests = episode.impact().requests;
        tracing::warn!(
            mode = self.name,
            by,
            took = format_args!("{took:.1?}"),
            requests,
            "degradation: mode left"
        );
        self.report(
            false,
            by,
            format!("left by {by} after {took:.1?}; {requests} requests affected"),
        );
    }

    fn report(&self, entered: bool, cause: &'static str, what: String) {
        self.gauge.set(i64::from(entered));
        let to = if entered { "entered" } else { "left" };
        let labels = ModeTransitionLabels { mode: self.name.clone(), to, cause };
        self.metrics.degradation_transitions.with(&labels).inc();
        let event = NewEvent::new("degradation", &self.name, what).state(to).cause(cause);
        self.events.push(clock::wall(), event);
    }
}

fn lengths(policy: &Degradation) -> TriggerPolicy {
    TriggerPolicy { hold: policy.hold, recover_after: policy.recover_after }
}

#[cfg(test)]
#[path = "mode_tests.rs"]
mod tests;
