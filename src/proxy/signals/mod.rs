//! The parts of a response that speak about its provider: its class, its quota, when to come back.

pub mod classify;
pub mod disguised_errors;
pub mod quota_headers;
