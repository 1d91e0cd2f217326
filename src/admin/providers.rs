//! `/api/providers`: draining a provider, and using it again.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Action, Change, Target};
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;
use crate::clock;
use crate::live::operator_override::ActiveOverride;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProviderChanged {
    pub provider: String,
    /// Absent when the provider is in use.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub manual_override: Option<ActiveOverride>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderAction {
    Drain,
    Undrain,
}

pub fn routes() -> ApiRoutes {
    let routes = ApiRoutes::default().post::<ProviderChanged, _>(
        "/api/providers/{action}/{name}",
        "`drain` sends no new attempts to a provider; attempts in flight finish. `undrain` uses it \
         again.",
        change,
    );
    routes
        .actions::<ProviderAction>("name", "The name of a provider.")
        .change()
        .errors(&[ApiErrorKind::UnknownProvider])
}

async fn change(
    State(admin): State<Arc<AdminState>>,
    Target { action, name }: Target<ProviderAction>,
    change: Change,
) -> Result<ApiJson<ProviderChanged>, ApiError> {
    let snapshot = admin.current.load_full();
    let Some(provider) = snapshot.providers.iter().find(|p| p.policy.name == name) else {
        let known = snapshot.providers.iter().map(|provider| provider.policy.name.clone());
        let detail = format!("there is no provider `{name}`");
        return Err(ApiError::unknown(ApiErrorKind::UnknownProvider, &detail, known));
    };
    change.on_this_host()?;
    if action == ProviderAction::Undrain {
        change.without_end("it ends a drain")?;
    }
    let now = clock::now();
    match action {
        ProviderAction::Drain => admin.live.drain(&provider.live, change.until(now), &change.note),
        ProviderAction::Undrain => admin.live.undrain(&provider.live),
    }
    admin.audit(action.audit_name(), &name, &change);
    let manual_override = provider.live.active_override(now);
    Ok(ApiJson(ProviderChanged { provider: name, manual_override }))
}

impl Action for ProviderAction {
    const NAMES: &'static [(Self, &'static str, &'static str)] = &[
        (ProviderAction::Drain, "drain", "drain"),
        (ProviderAction::Undrain, "undrain", "undrain"),
    ];
}
