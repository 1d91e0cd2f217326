//! Texts for people: suggestions and redaction.

pub mod redact;
pub mod suggest;
