//! Event streams: framing, interpretation, and continuation of an interrupted stream. No I/O.
//!
//! [`framing`] splits bytes into events, in a format that `detect` finds where the label is wrong. An
//! event that is too long to be kept is reduced to what matters (`large_event`). [`interpret`] scans each event once and says what it
//! means, by the policy or by the built-in formats (`formats`). A [`reader`] combines them for one
//! stream: what may be forwarded, whether the stream is complete, and which text
//! it said (`transcript`). An interrupted text can be continued by another provider
//! ([`continuation`]), whose stream is joined to the first (`splice`). An error, of a stream
//! or of a whole response, may say more than its status ([`known_errors`]).

pub mod api;
pub mod continuation;
mod detect;
mod formats;
pub mod framing;
pub mod interpret;
pub mod known_errors;
mod large_event;
pub mod reader;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod shape_tests;
mod splice;
#[cfg(test)]
mod splice_tests;
mod transcript;
