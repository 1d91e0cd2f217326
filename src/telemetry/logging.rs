//! Outrigger's own log: one line an event on standard error, JSON or text.
//!
//! It is for what happens to the daemon (policies, listeners, breakers), never for each request:
//! that is the access log.

use std::io;

use tracing_subscriber::filter::LevelFilter;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Starts the process's log. Called once, first thing; a second call changes nothing.
pub fn init(format: Format, level: LevelFilter) {
    let lines = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false);
    let outcome = match format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("the log was started before");
    }
}
