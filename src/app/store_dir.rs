//! Where jobs are kept: the store of a directory, or none.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::live::Live;
use crate::store::{OpenError, Store};

/// The directory of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// The user's own, where nobody said another; no reason not to start.
    Usual(PathBuf),
    /// As was said: without it we do not start.
    Dir(PathBuf),
    /// No job is taken.
    None,
}

impl Data {
    /// `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/outrigger`, or `~/.local/state/outrigger`.
    pub fn usual(var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Data {
        let var = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = var("XDG_STATE_HOME").filter(|path| path.is_absolute());
        let home = || var("HOME").map(|home| home.join(".local/state"));
        let own = state.or_else(home).map(|state| state.join("outrigger"));
        var("STATE_DIRECTORY").or(own).map_or(Data::None, Data::Usual)
    }
}

impl FromStr for Data {
    type Err = String;

    fn from_str(text: &str) -> Result<Data, String> {
        match text {
            "none" => Ok(Data::None),
            "" | ":memory:" => {
                Err("jobs that are kept in memory are lost with it (expected a directory, or none)"
                    .to_owned())
            }
            path => Ok(Data::Dir(path.into())),
        }
    }
}

/// Opens it.
///
/// # Errors
/// Where it was asked for and cannot be used.
pub(super) fn open(data: &Data, live: &Arc<Live>) -> Result<Option<Store>, OpenError> {
    let (path, asked) = match data {
        Data::Usual(path) => (path, false),
        Data::Dir(path) => (path, true),
        Data::None => return Ok(None),
    };
    let observed = Arc::clone(live);
    let observer = move |commit: crate::store::CommitStats| {
        let seconds = commit.took.as_secs_f64();
        observed.metrics.count_commit(commit.size, seconds, commit.failed);
    };
    match Store::open(path, Box::new(observer)) {
        Ok(store) => {
            let recovered = store.recovered();
            tracing::info!(path = %path.display(), recovered, "store");
            Ok(Some(store))
        }
        Err(error) if asked => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no job is taken: the store cannot be used");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_directory_is_the_one_that_the_system_gives() {
        let usual = |vars: &[(&str, &str)]| {
            Data::usual(|name| {
                vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        let at = |path: &str| Data::Usual(path.into());
        assert_eq!(usual(&[]), Data::None);
        assert_eq!(usual(&[("HOME", "/home/a")]), at("/home/a/.local/state/outrigger"));
        let state = [("HOME", "/home/a"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(usual(&state), at("/s/outrigger"));
        let systemd = [("HOME", "/home/a"), ("STATE_DIRECTORY", "/var/lib/outrigger")];
        assert_eq!(usual(&systemd), at("/var/lib/outrigger"));
    }

    #[test]
    fn memory_is_no_place_for_jobs() {
        assert!(":memory:".parse::<Data>().is_err() && "".parse::<Data>().is_err());
        assert_eq!("none".parse(), Ok(Data::None));
        assert_eq!("/d".parse(), Ok(Data::Dir("/d".into())));
    }
}
