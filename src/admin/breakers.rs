//! `/api/circuit-breakers`: the state of each breaker, endpoints on hold, recent events, and manual
//! overrides.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AdminState;
use super::change::{Action, Change, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::ApiRoutes;
use crate::clock;
use crate::fleet::overrides::is_under;
use crate::live::breaker::cell::{BreakerCell, BreakerStatus};
use crate::resilience::breaker::{ManualOverride, OverrideState};
use crate::telemetry::events::Event;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakerList {
    pub breakers: Vec<BreakerStatus>,
    /// Endpoints that get no requests because of a `Retry-After` or a quota header.
    pub held: Vec<HeldEndpoint>,
    /// The latest state changes, oldest first.
    pub events: Vec<Event>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeldEndpoint {
    /// `PROVIDER/ENDPOINT` or `PROVIDER/ENDPOINT/MODEL`.
    pub key: String,
    /// Time until the hold ends.
    pub remaining_ms: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakersChanged {
    /// The breakers under the key, after the change.
    pub changed: Vec<BreakerStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerAction {
    Open,
    Close,
    Shadow,
    Reset,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get::<BreakerList, _>(
            "/api/circuit-breakers",
            "Lists circuit breakers, endpoints on hold, and recent events.",
            list,
        )
        .post::<BreakersChanged, _>(
            "/api/circuit-breakers/{action}/{*key}",
            "Overrides every breaker under a key (`PROVIDER`, `PROVIDER/ENDPOINT` or \
             `PROVIDER/ENDPOINT/MODEL`). `open` rejects all attempts; a probe follows after `for`. \
             `close` admits all attempts. `shadow` counts and rejects nothing. `reset` removes the \
             override, closes the breaker with an empty history and ends the holds under the key.",
            change,
        )
}

async fn list(State(admin): State<Arc<AdminState>>) -> Json<BreakerList> {
    let now = clock::now();
    let held = admin.live.held().into_iter();
    Json(BreakerList {
        breakers: admin.live.breakers().iter().map(|cell| cell.status(now)).collect(),
        held: held.map(|(key, remaining_ms)| HeldEndpoint { key, remaining_ms }).collect(),
        events: admin.live.events.all(),
    })
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name: key }: Target<BreakerAction>,
    change: Change,
) -> Result<Json<BreakersChanged>, ApiError> {
    let all = admin.live.breakers();
    let selected: Vec<&Arc<BreakerCell>> =
        all.iter().filter(|cell| is_under(&cell.key().to_string(), &key)).collect();
    let state = action.forced_state();
    let cleared = if state.is_none() { admin.live.clear_holds(&key) } else { 0 };
    if selected.is_empty() && cleared == 0 && !change.note.fleet {
        let known = all.iter().map(|cell| cell.key().to_string());
        let detail = format!("there is no breaker under `{key}`");
        return Err(ApiError::unknown(ApiErrorKind::UnknownBreaker, &detail, known));
    }
    if change.note.fleet {
        admin.override_on_fleet(&key, state, &change).await?;
    }
    let now = clock::now();
    let forced = state.map(|state| ManualOverride { state, until: change.until(now) });
    for cell in &selected {
        cell.set_override(forced, change.note.clone(), now);
    }
    admin.audit(action.audit_name(), &key, &change);
    Ok(Json(BreakersChanged { changed: selected.iter().map(|cell| cell.status(now)).collect() }))
}

impl Action for BreakerAction {
    const NAMES: &'static [(Self, &'static str, &'static str)] = &[
        (BreakerAction::Open, "open", "breaker_open"),
        (BreakerAction::Close, "close", "breaker_close"),
        (BreakerAction::Shadow, "shadow", "breaker_shadow"),
        (BreakerAction::Reset, "reset", "breaker_reset"),
    ];
}

impl BreakerAction {
    /// The forced state; `None` removes the override.
    fn forced_state(self) -> Option<OverrideState> {
        match self {
            BreakerAction::Open => Some(OverrideState::Open),
            BreakerAction::Close => Some(OverrideState::Closed),
            BreakerAction::Shadow => Some(OverrideState::Shadow),
            BreakerAction::Reset => None,
        }
    }
}

impl AdminState {
    async fn override_on_fleet(
        &self,
        key: &str,
        state: Option<OverrideState>,
        change: &Change,
    ) -> Result<(), ApiError> {
        let Some(fleet) = &self.fleet else {
            let detail = "this host is in no fleet (start it with --redis)";
            return Err(ApiError::new(ApiErrorKind::NotInFleet, detail));
        };
        let forced = fleet.force(key, state, change.duration, &change.note).await;
        forced.map_err(|failure| {
            let detail = format!("Redis did not respond, nothing was changed: {failure}");
            ApiError::new(ApiErrorKind::FleetUnavailable, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_covers_itself_and_everything_below_it() {
        assert!(is_under("openai/api/gpt-4o", "openai/api"));
        assert!(is_under("openai/api", "openai/api"));
        assert!(!is_under("openai-2/api", "openai") && !is_under("openai", "openai/api"));
    }
}
