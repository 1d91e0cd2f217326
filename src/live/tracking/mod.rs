//! The calls of each series, and the series that are worse than their baselines.

pub mod call_recorder;
pub mod regressions;
