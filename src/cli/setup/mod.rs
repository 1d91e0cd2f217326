//! Commands for setting the sidecar up: a first policy, manual pages, completions, the health check
//! of a container.

pub(super) mod healthcheck;
pub(super) mod init;
pub(super) mod man;
