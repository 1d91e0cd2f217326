//! `/api/policies`: the policy in force and the result of the last load.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::AdminState;
use super::routes::ApiRoutes;
use crate::snapshot::loader::PolicyStatus;

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<PolicyStatus, _>(
        "/api/policies",
        "Reports the policy in force and the result of the last load, with every problem and change.",
        status,
    )
}

async fn status(State(admin): State<Arc<AdminState>>) -> Json<PolicyStatus> {
    Json(admin.loader.status())
}
