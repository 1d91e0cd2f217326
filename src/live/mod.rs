//! State that outlives a reload: where the pure rules of `resilience/` meet locks.
//!
//! Every cell is found by its name (`docs/design/policy.md` "Names and keys of state"), so a
//! policy that changes a weight or a comment loses no state: a new snapshot looks up the same
//! key, gets the same cell and retunes it. A cell that no snapshot uses any longer is dropped,
//! with its metrics.
//!
//! On the request path reads are atomics; a `parking_lot::Mutex` is held for a few
//! instructions on the selected endpoint, never across an await.

pub mod breaker;
pub mod buffers;
pub mod by_model;
pub mod credential;
pub mod credential_cell;
pub mod degradation;
pub mod endpoint;
pub mod fleet;
pub mod operator_override;
pub mod optional;
pub mod permit;
pub mod provider;
pub mod queue;
pub mod quota;
pub mod registry;
pub mod route;
pub mod tracking;

pub use registry::Live;
