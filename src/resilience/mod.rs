//! What to do with an endpoint, and when: the pure core.
//!
//! Nothing in this folder reads a clock, draws a number, logs, locks or waits. The time
//! comes in as `now`, chance as a `draw` in [0, 1), and every decision goes out as a value
//! for the caller to act on and to tell. So a day of traffic is a test of a few
//! milliseconds, and the same steps always end in the same state.
//!
//! - what an attempt taught us: [`outcome`]
//! - may it go there: [`breaker`], [`hold`]; how fast after a pause: [`ramp`]; where hosts share a
//!   breaker: its [`register`], and each host's part as a [`member`]
//! - how much of it at once: [`gcra`]; of a limit that hosts share: [`chunk`]; what the provider
//!   says is left: [`told`]; how many attempts beside one another: [`adaptive`]
//! - where should it go: [`balancer`], by what [`latency`] remembers; [`affinity`], where it went
//! - may it go again, and when: [`budget`], [`backoff`], [`hedge`]; at what cost: [`spend`]
//! - who goes next where there is room: [`lane`], of many queues: [`crowd`], in the order of
//!   [`stride`] and [`flows`]; when a line is gone: [`drain`]
//! - counting over time: [`window`], quantiles: [`sketch`]; both in [`slices`]

pub mod balance;
pub mod breaker;
pub mod condition;
pub mod hysteresis;
pub mod limits;
pub mod outcome;
pub mod queue;
pub mod rate;
pub mod retry;
pub mod stats;
