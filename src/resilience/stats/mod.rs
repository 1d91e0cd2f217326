//! Sliding windows and latency quantiles.

pub mod latency_sketch;
pub mod log_counts;
pub mod time_buckets;
pub mod window;
