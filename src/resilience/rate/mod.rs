//! Rate limits: GCRA, leased shares of a fleet-wide limit, quotas that a provider reports.

pub mod gcra;
pub mod leased_quota;
pub mod reported_quota;
#[cfg(test)]
pub mod strict_provider_tests;
