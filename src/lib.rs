//! Outrigger: a sidecar that makes an application's calls to LLM APIs, and to any HTTP API,
//! survive production.
//!
//! It is a proxy on the loopback interface, declared by YAML policies that are reloaded under
//! traffic. Its modules form layers. Imports go down, never up and never sideways
//! (`tests/architecture` enforces it). `docs/design/architecture.md` describes the layers, the
//! threads and the life of a request.
//!
//! | layer | module | purpose |
//! | --- | --- | --- |
//! | 9 | [`cli`] | subcommands: arguments and exit codes |
//! | 8 | [`app`] | wires the parts: start order, shutdown order |
//! | 7 | [`admin`] | API, metrics endpoint, manual overrides |
//! | 6 | [`benchmark`] | runs of benchmarks: load, figures, thresholds |
//! | 6 | [`jobs`] | the durable queue: dispatch, results, webhooks |
//! | 5 | [`proxy`] | one request from start to end |
//! | 5 | [`fleet`] | state that hosts share through Redis: breakers, holds, limits |
//! | 5 | [`degradation`] | evaluates degradation modes, keeps their history, notifies |
//! | 5 | `traces` | sends the spans of requests and attempts (feature `otel`) |
//! | 5 | [`tracking`] | compares the calls of each series with its baseline |
//! | 5 | [`history`] | samples the metrics, keeps and stores their history and the events |
//! | 4 | [`snapshot`] | policy to snapshot, atomic swap, file watching |
//! | 3 | [`cache`] | stored responses: keys, freshness, bounds |
//! | 3 | [`live`] | mutable state that survives a reload |
//! | 3 | [`upstream`] | DNS, connections, TLS, pools |
//! | 2 | [`stream`] | event streams: framing, meaning, continuation |
//! | 2 | [`store`] | the embedded database of the durable queue |
//! | 2 | [`telemetry`] | metrics, logs, events |
//! | 1 | [`policy`] | text in; a valid policy or every problem out |
//! | 1 | [`clock`] | time and randomness; no other module reads either |
//! | 0 | [`resilience`] | pure rules: no clock, no randomness, no lock |
//! | 0 | [`credentials`] | which parts of a request hold a credential |
//! | 0 | [`json`] | JSON read in place: scanner, pointers, canonical text |

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod admin;
pub mod app;
pub mod benchmark;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod credentials;
pub mod degradation;
pub mod fleet;
pub mod history;
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
#[cfg(feature = "otel")]
pub mod traces;
pub mod tracking;
pub mod upstream;
