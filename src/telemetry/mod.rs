//! Metrics, the access log's writer, the daemon's log, panics, and the ring of recent events.
//!
//! The request path touches only handles made beforehand (a handle is an atomic). Nothing here waits:
//! a line that cannot be written at once is dropped and counted.

pub mod access_log;
pub mod escape;
pub mod events;
pub mod exemplars;
mod family;
mod labels;
mod line_queue;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod panics;
pub mod process;
pub mod prometheus_text;
pub mod recent_requests;
pub mod trace_records;
