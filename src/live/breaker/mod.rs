//! Breakers behind locks, with their metrics and events.

pub mod cell;
pub mod combined;
pub mod overrides;
pub mod sync;
