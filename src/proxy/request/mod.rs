//! The request: its head, body, limits, overrides and rewriting.

pub mod body;
pub mod body_intake;
pub mod cached_fallback;
pub mod client_timeout;
pub mod head;
pub mod headers;
pub mod limits;
pub mod model_name;
pub mod overrides;
pub mod rewrite;
pub mod stream_flag;
mod streaming_body;
mod token_estimate;
pub mod validation;
