//! YAML as text: parsing, the tree and its positions, units, diagnostics.

pub mod diagnostic;
pub mod locations;
pub mod parse;
mod secrets;
pub mod tree;
pub mod units;
