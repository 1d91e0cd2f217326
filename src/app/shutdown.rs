//! Shutdown: the workers and the job dispatcher finish what is in flight.

use std::time::Duration;

use super::signals::{SignalAction, Signals};
use super::workers::Workers;
use crate::clock;

const POLL: Duration = Duration::from_millis(10);

/// How the sidecar ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Everything in flight was finished, or the drain timeout passed.
    Drained,
    /// A second signal ended it.
    Immediate,
}

/// Lets the workers finish, for at most `timeout`.
pub(super) async fn drain(
    workers: Workers,
    timeout: Duration,
    signals: &mut Signals,
) -> std::io::Result<Shutdown> {
    tracing::info!(?timeout, "draining: the listener is closed");
    workers.drain(clock::now() + timeout);
    let mut poll = tokio::time::interval(POLL);
    while !workers.are_finished() {
        tokio::select! {
            action = signals.next() => if action == SignalAction::Stop {
                return Ok(Shutdown::Immediate);
            },
            _ = poll.tick() => {}
        }
    }
    tracing::info!("drained");
    Ok(Shutdown::Drained)
}
