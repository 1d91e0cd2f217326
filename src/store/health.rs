//! One log line when the store's files cannot be written, and one when they can be again.
//!
//! On a full disk a small change may succeed between large ones that fail, so the store counts as
//! writable only after a commit that came some time after the last failure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rusqlite::{Error, ErrorCode};

use crate::clock;

/// The time without a failure after which the store is writable again.
const QUIET: Duration = Duration::from_secs(1);

/// Why the store cannot be written.
#[derive(Clone, Debug)]
pub struct StoreFailure {
    pub since: SystemTime,
    pub reason: String,
}

/// Whether commits fail now.
#[derive(Debug, Default)]
pub(super) struct WriteHealth {
    failing: Option<Failing>,
    /// The same for other threads.
    shown: Arc<Mutex<Option<StoreFailure>>>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    failures: u64,
}

/// The line to write.
#[derive(Debug, PartialEq, Eq)]
enum HealthChange {
    Failed,
    Recovered { after: Duration, failures: u64 },
}

impl WriteHealth {
    /// Shows failures to other threads.
    pub fn shown_by(shown: Arc<Mutex<Option<StoreFailure>>>) -> WriteHealth {
        WriteHealth { failing: None, shown }
    }

    /// Takes the result of a commit, and logs a change.
    pub fn record(&mut self, outcome: Result<(), &Error>, directory: &Path, now: Instant) {
        let directory = directory.display();
        match (self.update(outcome.map_err(is_of_files), now), outcome) {
            (Some(HealthChange::Failed), Err(error)) => {
                let what = match error.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => "the disk of the store is full",
                    _ => "the store cannot be written",
                };
                let reason = format!("{what}: {error}");
                *self.shown.lock() = Some(StoreFailure { since: clock::wall(), reason });
                tracing::error!(%directory, %error, "{what}: jobs get 503 until it can be written");
            }
            (Some(HealthChange::Recovered { after, failures }), _) => {
                *self.shown.lock() = None;
                let after_s = after.as_secs();
                tracing::info!(%directory, after_s, failures, "the store can be written again");
            }
            _ => {}
        }
    }

    /// `outcome`: the error says whether the files are at fault.
    fn update(&mut self, outcome: Result<(), bool>, now: Instant) -> Option<HealthChange> {
        match (outcome, &mut self.failing) {
            (Err(true), Some(failing)) => {
                failing.last = now;
                failing.failures += 1;
                None
            }
            (Err(true), None) => {
                self.failing = Some(Failing { since: now, last: now, failures: 1 });
                Some(HealthChange::Failed)
            }
            (Ok(()), Some(failing)) if now >= failing.last + QUIET => {
                let after = now.saturating_duration_since(failing.since);
                let change = HealthChange::Recovered { after, failures: failing.failures };
                self.failing = None;
                Some(change)
            }
            _ => None,
        }
    }
}

/// The files are at fault, not the change.
fn is_of_files(error: &Error) -> bool {
    use ErrorCode::{
        CannotOpen, DiskFull, FileLockingProtocolFailed, NotADatabase, PermissionDenied, ReadOnly,
        SystemIoFailure,
    };
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(
            CannotOpen
                | DiskFull
                | FileLockingProtocolFailed
                | NotADatabase
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_the_first_failure_and_one_after_a_quiet_second() {
        let (start, mut health) = (Instant::now(), WriteHealth::default());
        let mut at = |outcome, ms| health.update(outcome, start + Duration::from_millis(ms));
        assert_eq!(at(Ok(()), 0), None);
        assert_eq!(at(Err(true), 0), Some(HealthChange::Failed));
        for ms in 1..5000 {
            assert_eq!(at([Err(true), Ok(())][ms as usize % 2], ms), None, "{ms}");
        }
        let after = Duration::from_millis(6000);
        assert_eq!(at(Ok(()), 6000), Some(HealthChange::Recovered { after, failures: 2500 }));
        assert_eq!(at(Ok(()), 6001), None);
        assert_eq!(at(Err(true), 7000), Some(HealthChange::Failed));
    }

    #[test]
    fn a_change_at_fault_is_no_failure_of_the_files() {
        let (now, mut health) = (Instant::now(), WriteHealth::default());
        assert_eq!(health.update(Err(false), now), None);
        assert!(health.failing.is_none());
    }
}
