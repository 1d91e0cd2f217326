//! Outrigger: a sidecar that makes an application's calls to LLM APIs, and to any HTTP API,
//! survive production.
//!
//! It is a proxy on the loopback interface, declared by YAML policies that are reloaded under
//! traffic. The house has floors; imports go down, never up and never sideways
//! (`tests/floors.rs` holds it):
//!
//! | floor | module | what |
//! | --- | --- | --- |
//! | 9 | [`cli`] | arguments to a command; exit codes |
//! | 8 | [`app`] | wires the parts: start order, drain order |
//! | 7 | [`admin`] | metrics, health, what is in force, breakers |
//! | 6 | [`jobs`] | which job is run next, and what becomes of it |
//! | 5 | [`proxy`] | one request, from start to end |
//! | 5 | [`fleet`] | what hosts share through Redis: breakers, holds, limits, jobs |
//! | 5 | [`degradation`] | modes: when they are entered and left, and who is told |
//! | 4 | [`snapshot`] | policy to snapshot, swap, watch |
//! | 3 | [`cache`] | stored answers: keys, freshness, bounds |
//! | 3 | [`live`] | state that outlives a reload |
//! | 3 | [`upstream`] | names to addresses, connections, TLS, pools |
//! | 2 | [`stream`] | what an answer's bytes mean: events, ends, usage; joining |
//! | 2 | [`store`] | the embedded database: jobs that were promised |
//! | 2 | [`telemetry`] | metric handles, logs, events |
//! | 1 | [`policy`] | text in, a valid policy or every problem out |
//! | 1 | [`clock`] | now and chance; nothing else may read either |
//! | 0 | [`resilience`] | the rules: pure, no clock, no chance, no lock |

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod degradation;
pub mod fleet;
pub mod jobs;
pub mod json;
pub mod live;
pub mod policy;
pub mod proxy;
pub mod resilience;
pub mod snapshot;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod upstream;
