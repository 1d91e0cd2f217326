//! The past of the sidecar: requests and events, as lists and as streams.

mod differences;
pub mod events;
pub mod explanation;
pub mod filter;
pub mod requests;
pub mod sse;
