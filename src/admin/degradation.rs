//! `/api/degradation`: which modes are in force and why, what they did, and entering or leaving one
//! by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shown;
use super::auth::problem;
use super::overrides::{Asked, listed};
use crate::clock;
use crate::degradation::history::EpisodeRecord;
use crate::live::degradation::episode::{Episode, EpisodeCause, EpisodeImpact, SignalReading};
use crate::live::operator_override::ActiveOverride;
use crate::resilience::hysteresis::TriggerOverride;
use crate::snapshot::{DegradationMode, Snapshot};
use crate::telemetry::events::rfc3339;

/// How long a mode is entered or left by hand where nobody says.
const USUAL: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize)]
pub struct Degradation {
    modes: Vec<Standing>,
    /// The newest first.
    episodes: Vec<EpisodeRecord>,
}

#[derive(Debug, Serialize)]
struct Changed {
    changed: Vec<Standing>,
}

#[derive(Debug, Serialize)]
struct Standing {
    name: String,
    /// `enforce` or `shadow`.
    mode: &'static str,
    in_force: bool,
    /// Routes that it is for.
    routes: Vec<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    now: Option<Now>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_hand: Option<ActiveOverride>,
    /// Whether the condition held at the last look.
    condition: bool,
    signs: Vec<Sign>,
    for_ms: u64,
    recover_after_ms: u64,
    /// On its way in or out, whatever a hand says.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    actions: Vec<String>,
}

/// Of a mode in force.
#[derive(Debug, Serialize)]
struct Now {
    /// RFC 3339.
    since: String,
    since_ms: u64,
    cause: EpisodeCause,
    impact: EpisodeImpact,
}

#[derive(Debug, Serialize)]
struct Sign {
    #[serde(flatten)]
    now: SignalReading,
    /// What it was when the mode was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_entry: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Progress {
    /// `entering` or `leaving`.
    to: &'static str,
    passed_ms: u64,
    of_ms: u64,
}

/// `GET /api/degradation`.
pub async fn overview(State(shown): State<Arc<Shown>>) -> Json<Degradation> {
    let (snapshot, now) = (shown.current.load_full(), clock::now());
    let modes = snapshot.modes.iter().map(|mode| Standing::of(&snapshot, mode, now)).collect();
    Json(Degradation { modes, episodes: shown.past.all(&shown.live.modes) })
}

/// `POST /api/degradation/{enter|leave|auto}/{name}`.
pub async fn change(
    State(shown): State<Arc<Shown>>,
    Path((action, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (done, on) = match action.as_str() {
        "enter" => ("degradation_enter", Some(true)),
        "leave" => ("degradation_leave", Some(false)),
        "auto" => ("degradation_auto", None),
        _ => {
            let detail = format!("`{action}` is no action (expected enter, leave or auto)");
            return problem(StatusCode::NOT_FOUND, "no_action", &detail);
        }
    };
    let asked = match Asked::read(&headers, &body) {
        Ok(asked) => asked.lasting(on.map(|_| USUAL)),
        Err(refusal) => return *refusal,
    };
    if asked.is_for_the_fleet() {
        let detail = "a mode is entered and left on one host (leave `fleet` out)";
        return problem(StatusCode::BAD_REQUEST, "no_fleet", detail);
    }
    let snapshot = shown.current.load_full();
    let Some(mode) = snapshot.modes.iter().find(|mode| mode.policy.name == name) else {
        let known: Vec<_> = snapshot.modes.iter().map(|mode| mode.policy.name.clone()).collect();
        let detail = format!("there is no mode `{name}` (there are: {})", listed(&known));
        return problem(StatusCode::NOT_FOUND, "no_mode", &detail);
    };
    let now = clock::now();
    let hand = on.map(|on| TriggerOverride { on, until: asked.until(now) });
    shown.live.modes.set_override(&mode.live, hand, asked.note().clone(), now);
    shown.audit(done, &name, &asked);
    Json(Changed { changed: vec![Standing::of(&snapshot, mode, now)] }).into_response()
}

impl Standing {
    fn of(snapshot: &Snapshot, mode: &DegradationMode, now: Instant) -> Standing {
        let standing = mode.live.status(now);
        let policy = &mode.policy;
        let episode = standing.episode.as_ref();
        let routes = snapshot
            .routes
            .iter()
            .filter(|route| route.modes.all.iter().any(|of| of.mode.policy.name == policy.name));
        let in_force = episode.is_some();
        let progress = standing.progress.map(|(passed, of)| Progress {
            to: if standing.condition_is_in { "leaving" } else { "entering" },
            passed_ms: millis(passed),
            of_ms: millis(of),
        });
        Standing {
            name: policy.name.clone(),
            mode: policy.mode.as_str(),
            in_force,
            routes: routes.map(|route| route.policy.name.clone()).collect(),
            now: episode.map(|episode| Now::of(episode, now)),
            by_hand: standing.by_hand,
            condition: standing.holds,
            signs: standing.seen.into_iter().map(|seen| Sign::of(seen, episode)).collect(),
            for_ms: millis(policy.hold),
            recover_after_ms: millis(policy.recover_after),
            progress,
            actions: mode.actions.clone(),
        }
    }
}

impl Now {
    fn of(episode: &Arc<Episode>, now: Instant) -> Now {
        Now {
            since: rfc3339(episode.began),
            since_ms: millis(now.saturating_duration_since(episode.since)),
            cause: episode.cause.clone(),
            impact: episode.impact(),
        }
    }
}

impl Sign {
    fn of(now: SignalReading, episode: Option<&Arc<Episode>>) -> Sign {
        let then = episode.map(|episode| episode.cause.signs.iter());
        let then = then.into_iter().flatten().find(|then| then.sign == now.sign);
        Sign { at_entry: then.and_then(|then| then.value), now }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
