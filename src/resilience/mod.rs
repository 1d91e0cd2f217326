//! What to do with an endpoint, and when: the pure core.
//!
//! Nothing in this folder reads a clock, draws a number, logs, locks or waits. The time
//! comes in as `now`, chance as a `draw` in [0, 1), and every decision goes out as a value
//! for the caller to act on and to tell. So a day of traffic is a test of a few
//! milliseconds, and the same steps always end in the same state.
//!
//! - what an attempt taught us: [`outcome`]
//! - may it go there: [`breaker`], [`hold`]; how fast after a pause: [`ramp`]
//! - how much of it at once: [`gcra`]; what the provider says is left: [`told`]
//! - where should it go: [`balancer`], by what [`latency`] remembers; [`affinity`], where it went
//! - may it go again, and when: [`budget`], [`backoff`], [`hedge`]; at what cost: [`spend`]
//! - counting over time: [`window`], quantiles: [`sketch`]; both in [`slices`]

pub mod affinity;
pub mod backoff;
pub mod balancer;
pub mod breaker;
pub mod budget;
pub mod gcra;
pub mod hedge;
pub mod hold;
pub mod latency;
pub mod outcome;
pub mod ramp;
pub mod sketch;
pub mod slices;
pub mod spend;
pub mod told;
pub mod window;

#[cfg(test)]
mod strict_tests;
