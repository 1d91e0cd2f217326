//! Jobs of a queue with `share: true`: any host of the fleet may run them.

pub(super) mod borrower;
pub(super) mod codec;
pub(super) mod descriptor;
pub(super) mod ownership;
pub(super) mod publisher;
pub(super) mod recent_results;
pub mod redis;
pub(super) mod results;
pub(super) mod scripts;
