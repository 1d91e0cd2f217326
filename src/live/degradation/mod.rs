//! Degradation modes behind locks, with their metrics and episodes.

pub mod episode;
pub mod mode;
pub mod outcome_window;
