//! The access log's writer: one thread writes the lines of all workers, and no request waits for it.
//!
//! A worker collects its lines and sends them in batches, a few times per second whatever the
//! request rate. When the destination cannot keep up, lines are dropped and counted in
//! `outrigger_access_log_lines_dropped_total` (see `line_queue.rs`).
//!
//! The file is reopened when its path names a different file than the open one, so logrotate needs
//! no signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::line_queue::{LineBatch, LineQueue};
use super::log_limit::LogLimit;
use crate::clock;
use crate::policy::sections::model::LogFormat;

/// Memory of the lines that wait for the writer.
const MAX_BYTES: usize = 16 << 20;
/// Lines may name paths of requests: readable by the owner and the group.
const MODE: u32 = 0o640;

/// The destination of the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogDestination {
    Stderr,
    Stdout,
    File(std::path::PathBuf),
}

/// The access log of a route.
#[derive(Clone, Debug)]
pub struct RouteLog {
    pub to: Arc<LogDestination>,
    pub format: LogFormat,
}

/// A worker's end of the log.
#[derive(Clone, Debug)]
pub struct AccessLogSender {
    queue: Arc<LineQueue<Arc<LogDestination>>>,
}

impl AccessLogSender {
    /// Starts the writer. `dropped` counts the lines that cannot be written.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(dropped: Counter) -> io::Result<AccessLogSender> {
        let mut writer = AccessLogWriter::default();
        let write = move |batch: &LineBatch<Arc<LogDestination>>| writer.write(batch);
        Ok(AccessLogSender { queue: LineQueue::start("access-log", MAX_BYTES, dropped, write)? })
    }

    /// Sends lines to the writer without waiting.
    pub fn send(&self, to: &Arc<LogDestination>, lines: u64, text: Bytes) {
        self.queue.push(LineBatch { to: Arc::clone(to), lines, text });
    }

    /// Whether every line has been written or dropped.
    pub fn is_written(&self) -> bool {
        self.queue.is_written()
    }
}

/// The state of the writer thread.
#[derive(Debug, Default)]
struct AccessLogWriter {
    open: Option<OpenFile>,
    failures: LogLimit,
    /// A failure was logged, and nothing was written since.
    failing: bool,
}

impl AccessLogWriter {
    fn write(&mut self, batch: &LineBatch<Arc<LogDestination>>) -> io::Result<()> {
        let written = match &*batch.to {
            LogDestination::Stderr => io::stderr().lock().write_all(&batch.text),
            LogDestination::Stdout => write_and_flush(&mut io::stdout().lock(), &batch.text),
            LogDestination::File(path) => append(&mut self.open, path, &batch.text),
        };
        if let Err(error) = &written {
            self.open = None;
            if let Some(failures) = self.failures.admit(clock::now()) {
                tracing::warn!(%error, failures, "cannot write to the access log, lines dropped");
                self.failing = true;
            }
        } else if std::mem::take(&mut self.failing) {
            tracing::info!("the access log is written again");
        }
        written
    }
}

/// A line must not wait in a buffer of the process.
fn write_and_flush(to: &mut impl Write, text: &[u8]) -> io::Result<()> {
    to.write_all(text)?;
    to.flush()
}

/// The open file, with its path and its device and inode numbers.
#[derive(Debug)]
struct OpenFile {
    path: std::path::PathBuf,
    file: File,
    id: (u64, u64),
}

fn append(open: &mut Option<OpenFile>, path: &Path, text: &[u8]) -> io::Result<()> {
    let named = std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let current = open.as_ref().is_some_and(|o| o.path == path && Some(o.id) == named);
    if !current {
        let file = open_to_append(path)?;
        let meta = file.metadata()?;
        *open = Some(OpenFile { path: path.to_owned(), file, id: (meta.dev(), meta.ino()) });
    }
    match open {
        Some(open) => open.file.write_all(text),
        None => Ok(()),
    }
}

/// Opens a file, or creates it. To open a FIFO would wait for its reader; without one it fails.
fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(MODE);
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = options.custom_flags(nonblocking).open(path)?;
    // A write waits again, so that it does not end in the middle of a line.
    fcntl_setfl(&file, fcntl_getfl(&file)? & !OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_written_to_a_file_that_others_cannot_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let dropped = Counter::default();
        let log = AccessLogSender::start(dropped.clone()).expect("a thread");
        let to = Arc::new(LogDestination::File(path.clone()));
        log.send(&to, 1, Bytes::from_static(b"1\n"));
        log.send(&to, 1, Bytes::from_static(b"2\n"));
        log.queue.wait_until_written(PATIENCE);
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "1\n2\n");
        assert_eq!(path.metadata().expect("a file").mode() & 0o027, 0);
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_running_writer_notices_that_its_file_was_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let mut open = None;
        append(&mut open, &path, b"1\n").expect("written");
        std::fs::rename(&path, dir.path().join("moved")).expect("moved");
        append(&mut open, &path, b"2\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("created again"), "2\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let dropped = Counter::default();
        let log = AccessLogSender::start(dropped.clone()).expect("a thread");
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
        assert!(made.success());
        for path in [Path::new("/nonexistent/access.log"), Path::new("/dev/full"), &fifo] {
            let to = Arc::new(LogDestination::File(path.to_owned()));
            log.send(&to, 3, Bytes::from_static(b"a\nb\nc\n"));
        }
        log.queue.wait_until_written(PATIENCE);
        assert_eq!(dropped.get(), 9);
    }
}
