//! `/api/retry` and `/api/load-balancing`: the policy in force of each route, and the figures of the
//! last hour.

pub mod figures;
pub mod load_balancing;
pub mod retry;

use super::routes::ApiRoutes;

pub fn routes() -> ApiRoutes {
    retry::routes().merge(load_balancing::routes())
}
