//! Rate limit: how much may be taken now, and if not, when.

/// So much a second, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePolicy {
    /// A second; above 0.
    pub rate: f64,
    /// At once; at least 1.
    pub burst: f64,
}
