//! Quotas and rate limits as the request path sees them.

pub mod provider_quota;
pub mod rate_limit;
pub mod sync;
pub mod usage_meter;
