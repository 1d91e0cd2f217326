//! What an answer's bytes mean: events, content, ends, errors, tokens; and how one answer goes on
//! from another. No I/O.
//!
//! Bytes become [`events`]; an event is passed over once by [`json`] and says something
//! ([`reading`]); a [`reader`] knows from all of them what may pass (`pass`), how the stream stands,
//! and what was said (`heard`). What a cut stream said can be gone on from ([`join`], `joint`).

pub mod events;
mod heard;
pub mod join;
mod joint;
#[cfg(test)]
mod joint_tests;
pub mod json;
#[cfg(test)]
mod json_tests;
mod pass;
pub mod pointers;
pub mod reader;
#[cfg(test)]
mod reader_tests;
pub mod reading;
mod shape;
