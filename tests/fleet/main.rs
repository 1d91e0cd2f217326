//! Tests of a fleet: several sidecar processes over one real Redis, with faults of every kind.
//!
//! Each file covers one promise. Assertions read the provider's log, each host's admin API, and Redis
//! itself. A promise about time is measured and printed; such a test runs alone ([`scenario::alone`]).

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../sidecar/fixtures.rs"]
mod fixtures;

mod benchmarks;
mod clocks;
mod connections;
mod credential_carriers;
mod data_loss;
mod harness;
mod holds;
mod job_scripts;
mod jobs;
mod jobs_faults;
mod large_fleet;
mod limits;
mod manual_overrides;
mod probes;
mod propagation;
mod redis_down;
mod scenario;
