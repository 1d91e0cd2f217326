//! One run: its plan, its calls, its figures.

mod environment;
pub mod execution;
mod load;
mod measure;
pub mod obstacles;
pub mod plan;
mod run_id;
mod session;
mod target;
mod thresholds;
