//! The HTTP/1.1 client (RFC 9112): one exchange at a time on one connection.

pub mod chunked;
pub mod exchange;
pub mod io;
pub mod request_body;
pub mod request_writer;
pub mod response_head;
pub mod tunnel;
