//! The response on its way to the client: whole, streamed, resumed, stored or upgraded.

pub mod body;
pub mod cache_status;
pub mod fan_out;
pub mod resume;
pub mod send;
pub mod static_response;
pub mod stored;
pub mod stream;
pub mod stream_error;
pub mod upgrade;
