//! Quotas and rate limits behind locks.

pub mod provider_quota;
pub mod sync;
pub mod usage_meter;
