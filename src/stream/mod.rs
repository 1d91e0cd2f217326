//! What an answer's bytes mean: events, content, ends, errors, tokens; and how one answer goes on
//! from another. No I/O.
//!
//! Bytes become [`events`]; an event is passed over once by [`json`] and says something
//! ([`reading`]); a [`reader`] knows from all of them what may pass, and how the stream stands.
//! What a cut stream said can be gone on from ([`join`]).

pub mod events;
pub mod join;
mod joint;
pub mod json;
#[cfg(test)]
mod json_tests;
pub mod reader;
pub mod reading;

#[cfg(test)]
mod json_tests;
