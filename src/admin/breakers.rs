//! `/api/circuit-breakers`: the state of each breaker, endpoints on hold, recent events, and manual
//! overrides.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Action, Change, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::live::breaker::cell::BreakerStatus;
use crate::live::breaker::overrides::{MAX_RULES, OverrideStatus, is_under};
use crate::live::credential_cell::{HeldCredential, HoldCause};
use crate::policy::sections::model::Scope;
use crate::resilience::breaker::{ManualOverride, OverrideState};
use crate::snapshot::{Endpoint, Provider};
use crate::telemetry::events::{Event, rfc3339};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BreakerList {
    pub breakers: Vec<BreakerStatus>,
    /// Credentials, and models at them, that get no requests because the provider throttled them
    /// or rejected the credential.
    pub held: Vec<HeldEndpoint>,
    /// Manual overrides, each with the key that it covers.
    pub overrides: Vec<OverrideStatus>,
    /// The latest state changes, oldest first.
    pub events: Vec<Event>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeldEndpoint {
    /// `PROVIDER/ENDPOINT/CREDENTIAL` or `PROVIDER/ENDPOINT/CREDENTIAL/MODEL`. The model `*`
    /// stands for the models past the first 64.
    pub key: String,
    /// Time until the hold ends.
    pub remaining_ms: u64,
    /// `retry_after` (the provider named the time), `backoff` (it named none), `credential` (it
    /// rejected the credential), `slow_start` (after a hold), or `fleet` (another host began it).
    pub reason: String,
    /// The status of the response that began the hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the error in that response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// When that response came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
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
             `PROVIDER/ENDPOINT/MODEL`), those created later included. `open` rejects all attempts; a probe follows after `for`. \
             `close` admits all attempts. `shadow` counts and rejects nothing. `reset` removes the \
             override, closes the breaker with an empty history and ends the holds under the key, or the one with this key.",
            change,
        )
        .actions::<BreakerAction>("key", "A key; it may contain `/`.")
        .change()
        .errors(&[
            ApiErrorKind::UnknownBreaker,
            ApiErrorKind::TooManyOverrides,
            ApiErrorKind::NotInFleet,
            ApiErrorKind::FleetUnavailable,
        ])
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<BreakerList> {
    let now = clock::now();
    let held = admin.live.held().into_iter();
    ApiJson(BreakerList {
        breakers: admin.live.breakers().iter().map(|cell| cell.status(now)).collect(),
        held: held.map(HeldEndpoint::new).collect(),
        overrides: admin.live.override_rules.status(now),
        events: admin.live.events.all(),
    })
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name: key }: Target<BreakerAction>,
    change: Change,
) -> Result<ApiJson<BreakersChanged>, ApiError> {
    let state = action.forced_state();
    if state.is_none() {
        change.without_end("`reset` ends an override")?;
    }
    let cleared = if state.is_none() { admin.live.clear_holds(&key) } else { 0 };
    if cleared == 0 && !change.note.fleet {
        admin.check_breaker_key(&key)?;
    }
    if change.note.fleet {
        admin.override_on_fleet(&key, state, &change).await?;
    }
    let now = clock::now();
    let forced = state.map(|state| ManualOverride { state, until: change.until(now) });
    let Some(changed) = admin.live.override_breakers(&key, forced, &change.note, now) else {
        let detail = format!("there are {MAX_RULES} overrides already; reset some of them");
        return Err(ApiError::new(ApiErrorKind::TooManyOverrides, detail));
    };
    admin.audit(action.audit_name(), &key, &change);
    Ok(ApiJson(BreakersChanged { changed: changed.iter().map(|cell| cell.status(now)).collect() }))
}

impl HeldEndpoint {
    pub fn new(held: HeldCredential) -> HeldEndpoint {
        let reason = match (held.reason, &held.cause) {
            (None, _) => "slow_start",
            (Some(_), None) => "fleet",
            (Some(reason), Some(_)) => reason.as_str(),
        };
        let (status, code, at) = match held.cause {
            Some(HoldCause { status, code, at }) => {
                (Some(status), code.map(String::from), Some(at))
            }
            None => (None, None, None),
        };
        HeldEndpoint {
            key: held.key.to_string(),
            remaining_ms: held.left.as_millis() as u64,
            reason: reason.to_owned(),
            status,
            code,
            since: at.map(rfc3339),
        }
    }

    /// The response that caused it, in words.
    pub fn cause(&self) -> String {
        let status = self.status.map(|status| status.to_string());
        let parts = [status, self.code.clone(), Some(self.reason.clone())];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
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
    /// Whether the policy in force can have a breaker under this key: of a model that was not
    /// requested yet, too.
    fn check_breaker_key(&self, key: &str) -> Result<(), ApiError> {
        let known = self.live.breakers();
        let by_model = |(provider, endpoint): (&Arc<Provider>, &Arc<Endpoint>)| {
            let scope = provider.policy.breaker.as_ref().and_then(|breaker| breaker.scope);
            scope == Some(Scope::Model) && is_under(key, &endpoint.key)
        };
        let snapshot = self.current.load();
        let mut endpoints = snapshot.providers.iter().flat_map(|provider| {
            provider.endpoints.iter().map(move |endpoint| (provider, endpoint))
        });
        if known.iter().any(|cell| is_under(&cell.key().to_string(), key))
            || endpoints.any(by_model)
        {
            return Ok(());
        }
        let known = known.iter().map(|cell| cell.key().to_string());
        let detail = format!("there is no breaker under `{key}`");
        Err(ApiError::unknown(ApiErrorKind::UnknownBreaker, &detail, known))
    }

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
