//! The sections of a policy.

pub mod actions;
pub mod answers;
pub mod caches;
pub mod credentials;
pub mod degradations;
pub mod degraded;
pub mod lanes;
pub mod matcher;
pub mod model;
pub mod modes;
pub mod providers;
pub mod queues;
pub mod raw;
pub mod raw_answers;
pub mod raw_caches;
pub mod raw_degradations;
pub mod raw_queues;
pub mod raw_rules;
pub mod reading;
pub mod routes;
pub mod rules;
pub mod server;
pub mod shown;
pub mod shown_modes;
pub mod urls;
pub mod words;
