//! One attempt at an endpoint, and the decision what follows it.

pub mod classify;
pub mod connect;
pub mod content_type;
pub mod hedge;
pub mod inspect;
pub mod pending_response;
pub mod prebuffer;
pub mod quota_headers;
pub mod quota_times;
pub mod report;
pub mod retry;
pub mod select;
pub mod send;
pub mod wait;
