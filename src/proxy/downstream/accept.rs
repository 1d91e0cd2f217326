//! Pauses of a listener when accepting fails, mostly because no file descriptor is left.
//!
//! The connection that could not be accepted stays in the backlog, so the next call fails at once:
//! a loop without a pause would use a whole core, and its log lines a whole disk.

use std::io;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::clock;
use crate::telemetry::log_limit::LogLimit;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// The pauses of one listener after failed accepts.
#[derive(Debug)]
pub struct AcceptPauses {
    /// For the log.
    listener: &'static str,
    until: Option<Instant>,
    pause: Duration,
    failures: LogLimit,
}

impl AcceptPauses {
    pub fn new(listener: &'static str) -> AcceptPauses {
        let failures = LogLimit::default();
        AcceptPauses { listener, until: None, pause: FIRST_PAUSE, failures }
    }

    /// Waits until the next connection may be accepted. May be cancelled and called again.
    pub async fn wait(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until.into()).await;
            self.until = None;
        }
    }

    /// Returns the connection, or `None` after an error; then [`AcceptPauses::wait`] pauses.
    pub fn check<T>(&mut self, accepted: io::Result<T>) -> Option<T> {
        match accepted {
            Ok(connection) => {
                self.pause = FIRST_PAUSE;
                Some(connection)
            }
            // The client has given up; the next connection is not concerned.
            Err(error) if is_of_connection(&error) => None,
            Err(error) => {
                let now = clock::now();
                if let Some(failures) = self.failures.admit(now) {
                    let listener = self.listener;
                    tracing::warn!(%error, failures, listener, "cannot accept connections; retrying");
                }
                self.until = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                None
            }
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_accepting_fails_and_a_client_that_gave_up_causes_none() {
        let mut pauses = AcceptPauses::new("test");
        let aborted: io::Result<()> = Err(io::ErrorKind::ConnectionAborted.into());
        assert_eq!(pauses.check(aborted), None);
        assert!(pauses.until.is_none());
        let full = || Err::<(), _>(io::Error::other("too many open files"));
        let planned: Vec<_> = (0..8).map(|_| (pauses.check(full()), pauses.pause)).collect();
        let millis = planned.iter().map(|(_, pause)| pause.as_millis()).collect::<Vec<_>>();
        assert_eq!(millis, [20, 40, 80, 160, 320, 320, 320, 320]);
        assert!(pauses.until.is_some());
        assert_eq!(pauses.check(Ok(())), Some(()));
        assert_eq!(pauses.pause, FIRST_PAUSE);
    }
}
