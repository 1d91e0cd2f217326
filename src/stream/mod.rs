//! What an answer's bytes mean: events, content, ends, errors, tokens; and how one answer goes on
//! from another. No I/O.
//!
//! Bytes become [`events`]; an event is passed over once by [`json`] and says something
//! ([`reading`]); a [`reader`] knows from all of them what may pass (`pass`), how the stream stands,
//! and what was said (`heard`). What a cut stream said can be gone on from ([`join`], `joint`).

pub mod continuation;
mod formats;
pub mod framing;
pub mod interpret;
mod passthrough;
pub mod reader;
#[cfg(test)]
mod reader_tests;
mod splice;
#[cfg(test)]
mod splice_tests;
mod transcript;
