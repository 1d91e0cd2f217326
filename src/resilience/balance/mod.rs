//! Load balancing: algorithms, latency estimates, session affinity.

pub mod affinity;
pub mod balancer;
pub mod latency;
