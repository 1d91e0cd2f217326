//! Sliding windows and latency quantiles.

pub mod latency_sketch;
pub mod time_buckets;
pub mod window;
