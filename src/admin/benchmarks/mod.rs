//! `/api/benchmarks`: the series of calls, and the runs of benchmarks.

pub mod history;
mod points;
pub mod series;

use super::routes::ApiRoutes;

pub fn routes() -> ApiRoutes {
    series::routes().merge(points::routes()).merge(history::routes())
}
