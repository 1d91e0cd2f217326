//! The connection to Redis, its URL, and the scripts.

pub mod connection;
pub mod scripts;
pub mod url;
