//! Commands that show what happens: requests one by one, and as they end.

pub mod events;
pub mod requests;
mod stream;
pub mod tap;
