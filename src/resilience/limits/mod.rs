//! Limits on attempts: adaptive concurrency, holds, slow start.

pub mod concurrency_limit;
pub mod hold;
pub mod slow_start;
