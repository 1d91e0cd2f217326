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

mod answer_head;
mod body;
mod chunked;
mod connection;
mod dial;
mod exchange;
mod names;
mod pool;
mod post;
mod room;
mod target;
pub mod tls;
mod tunnel;
mod upload;
mod wire;

#[cfg(test)]
mod dial_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod tls_tests;

pub use body::{BoxError, ReqBody};
pub use connection::{AnswerBody, Connection, Outgoing, SendError, Tunnel};
pub use dial::{DialError, Phase};
pub use exchange::ExchangeError;
pub use names::Resolver;
pub use pool::{Dialling, Pools};
pub use post::{Post, Posts, Unposted, signature};
pub use room::Room;
pub use target::{Target, TargetError};
pub use wire::{Short, short};
