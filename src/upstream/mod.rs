//! Upstream: names to addresses, connections, TLS, pools.
//!
//! A [`Target`] says where an address is dialled and how; it is immutable and shared by all
//! workers. Each worker has its own [`Pools`], so that a request takes and returns a connection
//! without a lock: an attempt asks `idle`, then `dial` while there `has_room`, else waits for `room`.
//!
//! What is open is counted from the start of a dial until the connection is gone; a count that
//! could be forgotten would leak room.
//!
//! Everything that fails before a request was started is told apart from what failed after
//! (RFC 9110, 9.2.2): each [`DialError`] and [`SendError::Unsent`] may be repeated anywhere.

mod dial;
#[cfg(test)]
mod dial_tests;
mod dns;
mod http1;
mod pool;
#[cfg(test)]
mod pool_tests;
mod target;
#[cfg(test)]
mod test_server;
pub mod tls;
#[cfg(test)]
mod tls_tests;
mod waiters;
mod webhook;

pub use dial::{DialError, Phase};
pub use dns::Resolver;
pub use http1::connection::{AnswerBody, Connection, Outgoing, SendError, Tunnel};
pub use http1::exchange::ExchangeError;
pub use http1::io::{Short, short};
pub use http1::request_body::{BoxError, ReqBody};
pub use pool::{Dialling, Pools};
pub use target::{Target, TargetError};
pub use waiters::Room;
pub use webhook::{Post, Posts, Unposted, signature};
