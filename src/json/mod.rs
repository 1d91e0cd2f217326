//! JSON read in place: pointers, one scanner, canonical text. Nothing here builds a document.

pub mod canonical;
pub mod pointer;
pub mod pointer_set;
pub mod scan;
#[cfg(test)]
pub mod scan_tests;
