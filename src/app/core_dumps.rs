//! No core dumps: a core file holds credentials of the policy and of requests.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Sets the size limit of core files to zero for the rest of the process. Called before the first
/// secret is read.
pub(super) fn disable() {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, nothing) {
        tracing::warn!(%error, "cannot disable core dumps: a core file would contain credentials");
    }
}
