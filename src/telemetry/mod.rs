//! What Outrigger tells about itself: metric handles, the access log's writer, its own log.
//!
//! Everything the request path touches here is made beforehand (a handle is an atomic) and
//! nothing here waits: what cannot be written at once is dropped and counted.

pub mod access_log;
pub mod events;
mod family;
mod labels;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod prometheus_text;
