//! Sharing of jobs between the hosts of a fleet (docs/design/queue.md "Shared jobs").
//!
//! - `ownership`: whether this host may run one of its jobs now.
//! - `publisher`: publishes this host's jobs to Redis, and removes those that are final.
//! - `results`: fetches the results of jobs that ran on other hosts.
//! - `redis`: the calls to Redis, one script each. A lease is granted to the owner by
//!   `scripts/job_claim.lua`, to another host by `scripts/job_take.lua`.

pub(super) mod codec;
pub(super) mod descriptor;
pub(super) mod ownership;
pub(super) mod publisher;
pub(super) mod recent_results;
pub mod redis;
pub(super) mod results;
pub(super) mod scripts;
