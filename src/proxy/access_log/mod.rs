//! The access record of a request.

pub mod attempt_record;
pub mod degradation_effects;
pub mod keys;
pub mod line;
pub mod passed_over;
pub mod reasons;
pub mod record;
