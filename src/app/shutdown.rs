//! Shutdown: the workers and the job dispatcher finish what is in flight.

use std::time::{Duration, Instant};

use super::signals::{SignalAction, Signals};
use super::workers::Workers;
use crate::clock;
use crate::live::Live;
use crate::policy::yaml::units::show_duration;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::logging::{self, FLUSH_TIMEOUT};

const POLL: Duration = Duration::from_millis(10);

/// How the sidecar ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Everything in flight was finished, or the drain timeout passed.
    Drained,
    /// A second signal ended it.
    Immediate,
}

/// Lets the workers finish, for at most `timeout`, then the notifications, the spans and the logs,
/// whose readers may have stalled.
pub(super) async fn drain(
    workers: Workers,
    timeout: Duration,
    signals: &mut Signals,
    log: &AccessLogSender,
    live: &Live,
) -> Shutdown {
    let Live { modes, traces, .. } = live;
    modes.end();
    tracing::info!(timeout = show_duration(timeout), "draining: the listener is closed");
    workers.drain(clock::now() + timeout);
    let mut flush_until: Option<Instant> = None;
    let mut poll = tokio::time::interval(POLL);
    loop {
        tokio::select! {
            action = signals.next() => if action == SignalAction::Stop {
                return Shutdown::Immediate;
            },
            _ = poll.tick() => {}
        }
        workers.count_connections(live);
        if !workers.are_finished() {
            continue;
        }
        traces.end();
        let until = *flush_until.get_or_insert_with(|| {
            tracing::info!("drained");
            clock::now() + FLUSH_TIMEOUT
        });
        let is_written = log.is_written() && logging::is_written();
        let is_sent = modes.are_notified() && traces.is_exported();
        if (is_written && is_sent) || clock::now() >= until {
            return Shutdown::Drained;
        }
    }
}
