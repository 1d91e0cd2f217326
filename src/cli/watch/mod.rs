//! Commands that show what happens: requests one by one, and as they end.

pub mod events;
pub mod requests;
pub mod stream;
pub mod tap;
