//! When a request that takes long is sent a second time, elsewhere.

use std::time::Duration;

/// Bounds are checked by `policy::validate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgePolicy {
    /// Hedges for each request; above 0, at most 1.
    pub extra_load: f64,
    /// `None`: after the percentile `1 - extra_load` of the route's own latency.
    pub after: Option<Duration>,
}
