//! The access record of a request.

pub mod json;
pub mod reasons;
pub mod record;
