//! The sidecar, run as a user runs it: an application in front, misbehaving providers
//! behind, policies in a folder.
//!
//! Each file tests one feature. Tests observe three sides: the requests that a provider received
//! ([`support::Origin`] records every one), the bytes that the application received, and the
//! access log. Time limits are checked against the median of several runs, relative to a healthy
//! provider in the same run.

#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod access_records;
mod affinity;
mod analytics;
mod attack;
mod bench_cli;
mod benchmark_history;
mod benchmark_schedule;
mod benchmarks;
mod benchmarks_ab;
mod bounds;
mod breaker_probes;
mod breakers;
mod cache;
mod cache_shared;
mod calm;
mod client_timeouts;
mod commands;
mod commit;
mod continuation;
mod costs;
mod credential_carriers;
mod credentials;
mod deadlines;
mod degradation;
mod degradation_history;
mod failover;
mod fault_matrix;
mod faults;
mod fixtures;
mod foreign_streams;
mod framing;
mod half_close;
mod headers;
mod hedging;
mod history;
mod holds;
mod jobs;
mod jobs_faults;
mod lifecycle;
mod limits;
mod listener;
mod manual_overrides;
mod metrics;
mod model_mapping;
mod openapi;
mod overload;
mod overrides;
mod presets;
mod problems;
mod provider_quirks;
mod queue;
mod quotas;
mod raw_tcp;
mod redirects;
mod refusal_reasons;
mod refusals;
mod regressions;
mod reload;
mod reload_paths;
mod reload_traffic;
mod request_heads;
mod requests_api;
mod response_heads;
mod retries;
mod sdk;
mod secrets;
mod service_manager;
mod streams;
#[cfg(feature = "otel")]
mod traces;
mod tracking;
mod ui_files;
mod unsupported;
mod uploads;
