//! Sliding windows, latency quantiles and samples of metrics.

pub mod latency_sketch;
pub mod log_counts;
pub mod metric_sample;
pub mod time_buckets;
pub mod window;
