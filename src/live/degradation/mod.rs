//! Degradation modes as the request path sees them.

pub mod episode;
pub mod mode;
pub mod outcome_window;
