//! The resilience rules: pure state machines that decide when and where an attempt may go.
//!
//! Nothing in this folder reads a clock, draws a random number, logs, locks or blocks. Time is
//! passed in as `now`, randomness as a `draw` in [0, 1), and every decision is returned as a
//! value for the caller to act on and report. A test can therefore replay a day of traffic in
//! milliseconds, and the same steps always lead to the same state.
//!
//! - [`outcome`]: how an attempt is classified and whether it may be retried
//! - [`breaker`]: circuit breakers, local and shared by a fleet
//! - [`limits`]: holds, slow start, adaptive concurrency
//! - [`rate`]: rate limits, chunks of a fleet-wide limit, quotas that a provider
//!   reports
//! - [`balance`]: load balancing, latency estimates, session affinity
//! - [`retry`]: backoff, retry budgets, hedging
//! - [`queue`]: waiters, fairness, dispatch
//! - [`hysteresis`], [`condition`]: when a degradation mode is entered and left
//! - [`stats`]: sliding windows and latency quantiles
//! - [`baseline`]: the usual figures of a series of calls, and whether it became worse
//! - [`comparison`]: whether one benchmark run is better or worse than another
//! - [`change_points`]: since when a figure has another level

pub mod balance;
pub mod baseline;
pub mod breaker;
pub mod change_points;
pub mod comparison;
pub mod condition;
pub mod hysteresis;
pub mod limits;
pub(crate) mod medians;
pub mod outcome;
pub mod queue;
pub mod rate;
pub mod retry;
pub mod stats;
pub(crate) mod stored_bytes;
pub(crate) mod words;
