//! The client's side: workers, connections, timers, problem responses.

pub mod connection;
pub mod io;
pub mod own_headers;
mod parser_error;
pub mod problem;
pub mod timer;
pub mod worker;
