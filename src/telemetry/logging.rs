//! The daemon's log: one line per event on standard error, as JSON or text.
//!
//! It records events of the daemon (policies, listeners, breakers). Requests are recorded in the
//! access log.

use std::io;

use tracing_subscriber::filter::LevelFilter;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DaemonLogFormat {
    Text,
    Json,
}

/// Starts the log. Called once, first in `main`; a second call changes nothing.
pub fn init(format: DaemonLogFormat, level: LevelFilter) {
    let lines = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false);
    let outcome = match format {
        DaemonLogFormat::Text => lines.try_init(),
        DaemonLogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("the log is already running");
    }
}
