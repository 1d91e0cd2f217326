//! Retries: backoff, budgets, hedging.

pub mod backoff;
pub mod budget;
pub mod cost_budget;
pub mod hedge;
