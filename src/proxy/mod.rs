//! One request, from start to end. `handler.rs` reads as its table of contents.
//!
//! A request's whole life is on one thread: its worker's. Futures here need not be `Send`, and
//! what ends a request early (the client leaves) is that its future is dropped: every place,
//! permit and buffer gives itself back.

mod access_log;
mod attempt;
pub mod caching;
mod degradation;
pub mod downstream;
mod handler;
pub mod jobs;
mod request;
mod response;
