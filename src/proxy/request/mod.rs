//! The request: its context, headers, body, overrides and rewriting.

pub mod body;
pub mod context;
pub mod headers;
pub mod model_name;
pub mod overrides;
pub mod rewrite;
pub mod streaming_body;
