//! State that outlives a reload: where the pure rules of `resilience/` meet locks.
//!
//! Everything here is found by its name (POLICY.md "Names and keys of state"), so that a policy
//! which changes a weight or a comment forgets nothing: a new snapshot asks for the same key, gets
//! the same cell and retunes it. What no snapshot asks for any longer is let go, with its metrics.
//!
//! On the request path reads are atomics; a `parking_lot::Mutex` (which ignores the poison of a panic) is taken for a few instructions on
//! the chosen endpoint, never across an await.

pub mod address;
pub mod breaker;
pub mod buffers;
pub mod degradation;
pub mod fleet;
pub mod hold;
pub mod operator_override;
pub mod optional;
pub mod permit;
pub mod provider;
pub mod queue;
pub mod quota;
pub mod registry;
pub mod route;

pub use registry::Live;
