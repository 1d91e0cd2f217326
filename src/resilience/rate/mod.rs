//! Rate limits: GCRA, chunks of a fleet-wide limit, quotas that a provider reports.

pub mod gcra;
pub mod reported_quota;
pub mod shared_quota;
#[cfg(test)]
pub mod strict_provider_tests;
