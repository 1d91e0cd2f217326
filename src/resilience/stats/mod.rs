//! Sliding windows and sketches.

pub mod latency_sketch;
pub mod time_buckets;
pub mod window;
