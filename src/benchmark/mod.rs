//! Benchmarks: calls that the sidecar makes itself, to learn how fast a route or a provider is.
//!
//! A run has a policy snapshot, live state and metrics of its own, so that it changes no breaker, no
//! budget and no baseline of the application's calls.
//!
//! `run/thresholds.rs` decides whether the thresholds of a run hold. The verdict of a comparison with
//! another run or with the baseline is from `resilience/comparison.rs`.

pub mod history;
pub mod local;
pub mod report;
pub mod run;
pub mod runner;
pub mod schedule;
