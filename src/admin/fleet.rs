//! `/api/fleet`: the hosts of the fleet and the state that they share.

use std::sync::Arc;

use axum::extract::State;

use super::AdminState;
use super::error::{ApiError, ApiErrorKind};
use super::routes::{ApiJson, ApiRoutes};
use crate::fleet::status::FleetStatus;

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<FleetStatus, _>(
        "/api/fleet",
        "Reports the hosts of the fleet, shared breakers, holds, limits and overrides. 404 without \
         `--redis`.",
        status,
    )
}

async fn status(State(admin): State<Arc<AdminState>>) -> Result<ApiJson<FleetStatus>, ApiError> {
    match &admin.fleet {
        Some(fleet) => Ok(ApiJson(fleet.status().await)),
        None => {
            let detail = "this host is in no fleet (start it with --redis)";
            Err(ApiError::new(ApiErrorKind::NoFleet, detail))
        }
    }
}
