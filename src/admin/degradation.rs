//! `/api/degradation`: the state of each degradation mode, past episodes, and entering or leaving a
//! mode manually.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Action, Change, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::degradation::history::EpisodeRecord;
use crate::live::degradation::episode::{Episode, EpisodeCause, EpisodeImpact, SignalReading};
use crate::live::operator_override::ActiveOverride;
use crate::resilience::hysteresis::TriggerOverride;
use crate::snapshot::{DegradationMode, Snapshot};
use crate::telemetry::events::rfc3339;

/// Duration of an override when the request has none.
const DEFAULT_DURATION: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DegradationStatus {
    pub modes: Vec<DegradationModeStatus>,
    /// Current and past episodes, newest first.
    pub episodes: Vec<EpisodeRecord>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ModesChanged {
    /// The mode, after the change.
    pub changed: Vec<DegradationModeStatus>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DegradationModeStatus {
    pub name: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    pub in_force: bool,
    /// Routes that use this mode.
    pub routes: Vec<String>,
    /// The current episode, while the mode is in force.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub episode: Option<CurrentEpisode>,
    /// The operator's manual override.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub manual_override: Option<ActiveOverride>,
    /// The condition was met at the last evaluation.
    pub condition: bool,
    /// The signals of the condition.
    pub signals: Vec<SignalStatus>,
    /// The condition must be met for this long before the mode is entered.
    pub for_ms: u64,
    /// The condition must not be met for this long before the mode is left.
    pub recover_after_ms: u64,
    /// A change that the condition is about to cause, without regard to an override.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ModeProgress>,
    /// The actions, in the words of the policy.
    pub actions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CurrentEpisode {
    /// Start of the episode, RFC 3339.
    pub since: String,
    /// Duration of the episode so far.
    pub since_ms: u64,
    pub cause: EpisodeCause,
    pub impact: EpisodeImpact,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct SignalStatus {
    #[serde(flatten)]
    pub reading: SignalReading,
    /// The value when the mode was entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_entry: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ModeProgress {
    /// `entering` or `leaving`.
    pub to: String,
    pub passed_ms: u64,
    pub of_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeAction {
    Enter,
    Leave,
    Auto,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<DegradationStatus, _>(
            "/api/degradation",
            "Lists degradation modes with their signals, cause and impact, and episodes.",
            list,
        )
        .post::<ModesChanged, _>(
            "/api/degradation/{action}/{name}",
            "Overrides a mode on this host. `enter` puts it in force and `leave` keeps it out of \
             force, for one hour unless `for` is given. `auto` removes the override, and the \
             condition decides again.",
            change,
        )
        .actions::<ModeAction>("name", "The name of a degradation mode.")
        .change()
        .errors(&[ApiErrorKind::UnknownMode])
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<DegradationStatus> {
    let (snapshot, now) = (admin.current.load_full(), clock::now());
    let modes = snapshot
        .modes
        .iter()
        .map(|mode| DegradationModeStatus::new(&snapshot, mode, now))
        .collect();
    ApiJson(DegradationStatus { modes, episodes: admin.episodes.all(&admin.live.modes) })
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name }: Target<ModeAction>,
    mut change: Change,
) -> Result<ApiJson<ModesChanged>, ApiError> {
    change.on_this_host()?;
    let forced = action.forced();
    if forced.is_none() {
        change.without_end("`auto` ends an override")?;
    }
    change.duration = change.duration.or(forced.map(|_| DEFAULT_DURATION));
    let snapshot = admin.current.load_full();
    let Some(mode) = snapshot.modes.iter().find(|mode| mode.policy.name == name) else {
        let known = snapshot.modes.iter().map(|mode| mode.policy.name.clone());
        let detail = format!("there is no degradation mode `{name}`");
        return Err(ApiError::unknown(ApiErrorKind::UnknownMode, &detail, known));
    };
    let now = clock::now();
    let forced = forced.map(|active| TriggerOverride { active, until: change.until(now) });
    admin.live.modes.set_override(&mode.live, forced, change.note.clone(), now);
    admin.audit(action.audit_name(), &name, &change);
    Ok(ApiJson(ModesChanged { changed: vec![DegradationModeStatus::new(&snapshot, mode, now)] }))
}

impl Action for ModeAction {
    const NAMES: &'static [(Self, &'static str, &'static str)] = &[
        (ModeAction::Enter, "enter", "degradation_enter"),
        (ModeAction::Leave, "leave", "degradation_leave"),
        (ModeAction::Auto, "auto", "degradation_auto"),
    ];
}

impl ModeAction {
    /// Whether the mode is forced into or out of force; `None` removes the override.
    fn forced(self) -> Option<bool> {
        match self {
            ModeAction::Enter => Some(true),
            ModeAction::Leave => Some(false),
            ModeAction::Auto => None,
        }
    }
}

impl DegradationModeStatus {
    fn new(snapshot: &Snapshot, mode: &DegradationMode, now: Instant) -> DegradationModeStatus {
        let state = mode.live.status(now);
        let policy = &mode.policy;
        let episode = state.episode.as_ref();
        let routes = snapshot
            .routes
            .iter()
            .filter(|route| route.modes.all.iter().any(|of| of.mode.policy.name == policy.name));
        let to = if state.condition_is_in { "leaving" } else { "entering" };
        let progress = state.progress.map(|(passed, of)| ModeProgress {
            to: to.to_owned(),
            passed_ms: millis(passed),
            of_ms: millis(of),
        });
        DegradationModeStatus {
            name: policy.name.clone(),
            mode: policy.mode.as_str().to_owned(),
            in_force: episode.is_some(),
            routes: routes.map(|route| route.policy.name.clone()).collect(),
            episode: episode.map(|episode| CurrentEpisode::new(episode, now)),
            manual_override: state.manual_override,
            condition: state.holds,
            signals: state.seen.into_iter().map(|now| SignalStatus::new(now, episode)).collect(),
            for_ms: millis(policy.hold),
            recover_after_ms: millis(policy.recover_after),
            progress,
            actions: mode.actions.clone(),
        }
    }
}

impl CurrentEpisode {
    fn new(episode: &Arc<Episode>, now: Instant) -> CurrentEpisode {
        CurrentEpisode {
            since: rfc3339(episode.began),
            since_ms: millis(now.saturating_duration_since(episode.since)),
            cause: episode.cause.clone(),
            impact: episode.impact(),
        }
    }
}

impl SignalStatus {
    fn new(reading: SignalReading, episode: Option<&Arc<Episode>>) -> SignalStatus {
        let entry = episode.map(|episode| episode.cause.signals.iter());
        let entry = entry.into_iter().flatten().find(|entry| entry.signal == reading.signal);
        SignalStatus { at_entry: entry.and_then(|entry| entry.value), reading }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
