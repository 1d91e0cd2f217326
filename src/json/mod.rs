//! JSON read in place: one tokenizer, pointers, canonical text. Nothing here builds a document.

pub mod canonical;
mod cursor;
pub mod pointer;
pub mod pointer_set;
pub mod scan;
pub mod skeleton;
pub mod value;

pub use cursor::JsonError;
