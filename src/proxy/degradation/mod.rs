//! Degradation modes applied to a request.

pub mod apply;
