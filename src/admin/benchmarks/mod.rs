//! `/api/benchmarks`: the series of calls, and the runs of benchmarks.

pub mod history;
pub mod series;

use super::routes::ApiRoutes;

pub fn routes() -> ApiRoutes {
    series::routes().merge(history::routes())
}
