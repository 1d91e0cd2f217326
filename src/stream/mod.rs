//! Event streams: framing, interpretation, and continuation of an interrupted stream. No I/O.
//!
//! [`framing`] splits bytes into events. [`interpret`] scans each event once and says what it
//! means, by the policy or by the built-in formats (`formats`). A [`reader`] combines them for one
//! stream: what may be forwarded (`passthrough`), whether the stream is complete, and which text
//! it said (`transcript`). An interrupted text can be continued by another provider
//! ([`continuation`]), whose stream is joined to the first (`splice`).

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
