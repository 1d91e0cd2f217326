//! The connection to Redis, its URL, and the scripts that run there.

pub mod connection;
pub mod scripts;
pub mod url;
