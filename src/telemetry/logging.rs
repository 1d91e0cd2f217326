//! The daemon's log: one line per event on standard error, as JSON or text.
//!
//! It records events of the daemon (policies, listeners, breakers). Requests are recorded in the
//! access log. A thread of its own writes the lines (see `line_queue.rs`), so an event never waits
//! for the reader of standard error. The library `tracing-appender` is not used: it bounds lines
//! instead of bytes, and at its end it prints to the stream that may be blocked.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::filter::LevelFilter;

use super::escape::escape;
use super::line_queue::{LineBatch, LineQueue};
use super::panics;

/// Memory of the lines that wait for the writer.
const MAX_BYTES: usize = 1 << 20;
/// How long the end of the process waits for the last lines of a log.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log of this process, as `tracing` has one dispatcher for the process.
static LOG: OnceLock<Arc<LineQueue<()>>> = OnceLock::new();
static DROPPED_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DaemonLogFormat {
    Text,
    Json,
}

/// Starts the log, and reports panics in it. Called once, first in `main`; a second call changes
/// nothing.
///
/// # Errors
/// When the operating system refuses the thread that writes.
pub fn init(format: DaemonLogFormat, level: LevelFilter) -> io::Result<()> {
    let write = |batch: &LineBatch<()>| io::stderr().lock().write_all(&batch.text);
    let queue = LineQueue::start("log", MAX_BYTES, dropped_lines(), write)?;
    let writer = LineWriter { queue: Arc::clone(&queue) };
    if LOG.set(queue).is_err() {
        return Ok(());
    }
    panics::install_hook();
    let lines = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        // It would print to standard error directly.
        .log_internal_errors(false);
    let outcome = match format {
        DaemonLogFormat::Text => lines.try_init(),
        DaemonLogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("the log is already running");
    }
    Ok(())
}

/// The lines that could not be written.
pub fn dropped_lines() -> Counter {
    DROPPED_LINES.clone()
}

/// Prints text for a person to standard error, after the lines that were logged before, and waits
/// until it is written, for at most [`FLUSH_TIMEOUT`].
pub fn print(text: &str) {
    let Some(queue) = LOG.get() else {
        eprintln!("{text}");
        return;
    };
    queue.push(LineBatch { to: (), lines: 1, text: format!("{text}\n").into() });
    flush();
}

/// Whether every line has been written or dropped.
pub fn is_written() -> bool {
    LOG.get().is_none_or(|queue| queue.is_written())
}

/// Waits until every line is written, for at most [`FLUSH_TIMEOUT`].
pub fn flush() {
    if let Some(queue) = LOG.get() {
        queue.wait_until_written(FLUSH_TIMEOUT);
    }
}

/// Queues each event, which `tracing` formats as one write that ends with a line break.
#[derive(Clone, Debug)]
struct LineWriter {
    queue: Arc<LineQueue<()>>,
}

impl Write for LineWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.queue.push(LineBatch { to: (), lines: 1, text: one_line(event).into() });
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event as one line without unsafe characters. In JSON they occur only within strings.
fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let mut line = escape(text.strip_suffix('\n').unwrap_or(&text)).into_owned();
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_without_unsafe_characters() {
        let event = b"INFO reset by \"\xffpeer\x1b[2J\nforged\xc2\x85\"\n";
        let line = one_line(event);
        let expected = "INFO reset by \"\u{fffd}peer\\u001b[2J\\u000aforged\\u0085\"\n";
        assert_eq!(String::from_utf8(line).expect("UTF-8"), expected);
    }
}
