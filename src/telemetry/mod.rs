//! Metrics, the access log's writer, the daemon's log, and the ring of recent events.
//!
//! The request path touches only handles made beforehand (a handle is an atomic). Nothing here waits:
//! a line that cannot be written at once is dropped and counted.

pub mod access_log;
pub mod events;
mod family;
mod labels;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod prometheus_text;
