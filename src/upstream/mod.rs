//! Connections to providers: DNS, dialing, TLS, pools and an HTTP/1.1 client.
//!
//! A [`DialTarget`] describes where and how to connect; it is immutable and shared by all workers.
//! Each worker has its own [`Pools`], so that a request takes and returns a connection without a
//! lock. An attempt calls `idle`, then `dial` if the pool `has_capacity`, else `wait_for_capacity`.
//!
//! A connection counts against the limit from the start of its dial until it is dropped. The slot
//! is released on drop, so that it cannot leak.
//!
//! Errors separate failures before the first byte of a request from those after it (RFC 9110,
//! 9.2.2): after a [`DialError`] or a [`SendError::Unsent`] any request may be retried.

mod address_scope;
mod connection;
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

pub use address_scope::AddressScope;
pub use connection::{Connection, IncomingBody, OutgoingRequest, PendingHead, SendError, Tunnel};
pub use dial::{DialError, DialPhase};
pub use dns::Resolver;
pub use http1::exchange::ExchangeError;
pub use http1::io::{SMALL_WRITE_BUFFER, join_small};
pub use http1::request_body::{BoxError, OutgoingBody};
pub use http1::response_head::UPGRADE_PROTOCOL;
pub use pool::{PendingDial, Pools};
pub use target::{DialTarget, TargetError};
pub use waiters::PoolWait;
pub use webhook::{WebhookError, WebhookMessage, WebhookSender, signature};
