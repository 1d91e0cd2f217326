//! `/api/benchmarks`: the series of calls, and the runs of benchmarks.

pub mod history;
mod points;
pub mod runner;
pub mod series;

use super::routes::ApiRoutes;

pub fn routes() -> ApiRoutes {
    let series = series::routes().merge(points::routes());
    runner::routes().merge(series).merge(history::routes())
}
