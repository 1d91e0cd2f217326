//! The parts that all sections share.

pub mod checker;
