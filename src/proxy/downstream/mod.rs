//! The client's side: workers, connections, timers, problem responses.

pub mod accept;
pub mod connection;
#[cfg(test)]
mod connection_tests;
pub mod content_coding;
mod head_check;
pub mod header_marks;
pub mod io;
pub mod own_headers;
mod parser_error;
pub mod problem;
pub mod references;
pub mod request_id;
pub mod timer;
pub mod trace_context;
pub mod worker;
