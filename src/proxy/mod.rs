//! One request, from start to end. `handler.rs` reads as its table of contents.
//!
//! A request's whole life is on one thread: its worker's. Futures here need not be `Send`, and
//! what ends a request early (the client leaves) is that its future is dropped: every place,
//! permit and buffer gives itself back.

mod ahead;
mod answer;
mod attempt;
pub mod cached;
mod changes;
mod choose;
mod classify;
mod client_io;
mod commit;
pub mod connection;
mod cut;
mod deadline;
mod degraded;
pub mod deliver;
mod dial;
pub mod error;
mod fields;
mod forward;
mod gather;
mod go_on;
mod handler;
mod headers;
mod hedge;
mod intake;
mod jobs;
mod json;
mod kind;
mod lane;
mod left;
mod marked;
mod nature;
mod next;
mod overrides;
mod ready;
mod recorded;
mod refresh;
mod report;
mod request;
mod respond;
mod rewrite;
mod sought;
mod story;
mod streaming;
mod take;
mod times;
mod touched;
mod tunnel;
mod upload;
mod wish;
pub mod worker;
