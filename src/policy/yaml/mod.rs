//! YAML as text: parsing, spans, types of values, diagnostics.

pub mod deserialize;
pub mod diagnostic;
pub mod parse;
pub mod tree;
pub mod types;
pub mod units;
