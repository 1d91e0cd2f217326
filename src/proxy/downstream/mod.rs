//! The side of the client: workers, connections, timers, errors.

pub mod connection;
pub mod error;
pub mod io;
pub mod problem_kind;
pub mod timer;
pub mod worker;
