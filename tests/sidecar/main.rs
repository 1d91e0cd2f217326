//! The whole sidecar, run as a user runs it: an application in front, misbehaving providers
//! behind, policies in a folder.
//!
//! One file for each promise. What a provider saw is asked of the provider ([`support::Origin`]
//! counts and keeps every request), what the application saw of a client that hides nothing, and
//! why it went so of the access log. Where a promise is about time, it is measured against a
//! sound provider in the same run, and the median of several is judged.

#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod bounds;
mod breaker_probes;
mod breakers;
mod cache;
mod cache_shared;
mod continuation;
mod costs;
mod credentials;
mod degradation;
mod degradation_history;
mod failover;
mod faults;
mod fixtures;
mod foreign_streams;
mod framing;
mod headers;
mod hedging;
mod jobs;
mod jobs_faults;
mod lifecycle;
mod limits;
mod listener;
mod manual_overrides;
mod metrics;
mod overrides;
mod queue;
mod raw_tcp;
mod reload;
mod reload_paths;
mod reload_traffic;
mod retries;
mod sdk;
mod secrets;
mod streams;
mod uploads;
