//! The past of the sidecar: requests and events, as lists and as streams, and metrics over time.

mod differences;
pub mod events;
pub mod explanation;
pub mod filter;
pub mod requests;
pub mod series;
pub mod sse;
pub mod time_plan;
