//! Text for people: suggestions, redaction, locations.

pub mod locations;
pub mod redact;
pub mod suggest;
