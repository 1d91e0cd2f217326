//! Jobs over HTTP: accepting them (`Prefer: respond-async`), their status, and their attempts.

pub mod accept;
pub mod preference;
pub mod run;
pub mod status;
