//! What repeats may cost.

use std::time::Duration;

/// Bounds are checked by `policy::validate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpendPolicy {
    /// In the currency of the prices; above 0.
    pub limit: f64,
    pub window: Duration,
}
