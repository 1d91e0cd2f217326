//! The client's side: workers, connections, timers, problem responses.

pub mod connection;
pub mod io;
mod parser_error;
pub mod problem;
pub mod timer;
pub mod worker;
