//! Breakers as the request path sees them.

pub mod cell;
pub mod combined;
pub mod sync;
