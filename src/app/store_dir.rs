//! The directory of the job store.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::live::Live;
use crate::store::{CommitStats, OpenError, Store};

/// Where jobs are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreDir {
    /// The user's state directory. The sidecar starts without jobs when it cannot be used.
    Default(PathBuf),
    /// As configured. The sidecar does not start when it cannot be used.
    Explicit(PathBuf),
    /// No jobs are accepted.
    Disabled,
}

impl StoreDir {
    /// `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/outrigger`, or `~/.local/state/outrigger`.
    pub fn from_environment() -> StoreDir {
        StoreDir::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> StoreDir {
        let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = path("XDG_STATE_HOME").filter(|path| path.is_absolute());
        let home = || path("HOME").map(|home| home.join(".local/state"));
        let own = state.or_else(home).map(|state| state.join("outrigger"));
        path("STATE_DIRECTORY").or(own).map_or(StoreDir::Disabled, StoreDir::Default)
    }
}

impl FromStr for StoreDir {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreDir, String> {
        match text {
            "none" => Ok(StoreDir::Disabled),
            "" | ":memory:" => Err(format!(
                "`{text}` would lose jobs at a restart (expected a directory, or none)"
            )),
            path => Ok(StoreDir::Explicit(path.into())),
        }
    }
}

/// Opens the store.
///
/// # Errors
/// When a configured directory cannot be used.
pub(super) fn open(directory: &StoreDir, live: &Arc<Live>) -> Result<Option<Store>, OpenError> {
    let (path, explicit) = match directory {
        StoreDir::Default(path) => (path, false),
        StoreDir::Explicit(path) => (path, true),
        StoreDir::Disabled => return Ok(None),
    };
    let live = Arc::clone(live);
    let observer = move |commit: CommitStats| {
        live.metrics.count_commit(commit.size, commit.took.as_secs_f64(), commit.failed);
    };
    match Store::open(path, Box::new(observer)) {
        Ok(store) => {
            let recovered = store.recovered();
            tracing::info!(path = %path.display(), recovered, "opened the job store");
            Ok(Some(store))
        }
        Err(error) if explicit => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the job store cannot be used, so no jobs are accepted (repair it, or set another --data)");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_directory_comes_from_the_environment() {
        let default = |variables: &[(&str, &str)]| {
            StoreDir::from_variables(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        let at = |path: &str| StoreDir::Default(path.into());
        assert_eq!(default(&[]), StoreDir::Disabled);
        assert_eq!(default(&[("HOME", "/home/a")]), at("/home/a/.local/state/outrigger"));
        let state = [("HOME", "/home/a"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(default(&state), at("/s/outrigger"));
        let systemd = [("HOME", "/home/a"), ("STATE_DIRECTORY", "/var/lib/outrigger")];
        assert_eq!(default(&systemd), at("/var/lib/outrigger"));
    }

    #[test]
    fn memory_is_not_a_directory_for_jobs() {
        assert!(":memory:".parse::<StoreDir>().is_err() && "".parse::<StoreDir>().is_err());
        assert_eq!("none".parse(), Ok(StoreDir::Disabled));
        assert_eq!("/d".parse(), Ok(StoreDir::Explicit("/d".into())));
    }
}
