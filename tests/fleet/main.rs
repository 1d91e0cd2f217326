//! A fleet: several sidecars, each a process, over one real Redis that fails in every way.
//!
//! One file for each promise of a fleet. What a provider saw is asked of the provider, what a host
//! enforces of that host, what the fleet decided of Redis itself. A promise about time is measured
//! and the figure printed; such a test has the machine to itself ([`stage::alone`]).

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../sidecar/fixtures.rs"]
mod fixtures;

mod away;

mod by_hand;
mod clocks;
mod connections;
mod crowd;
mod harness;
mod holds;
mod job_scripts;
mod jobs;
mod jobs_faults;
mod limits;
mod losses;
mod news;
mod probes;
mod stage;
