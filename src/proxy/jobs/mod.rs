//! Jobs as HTTP: `Prefer: respond-async`, their status, their attempts.

pub mod accept;
pub mod preference;
pub mod run;
pub mod status;
