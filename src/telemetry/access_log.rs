//! The access log's writer: one thread writes the lines of all workers, and no request waits for it.
//!
//! A worker collects its lines and sends them in batches, a few times per second whatever the
//! request rate. The channel is bounded: when the disk cannot keep up, batches are dropped and their
//! lines counted in `outrigger_access_log_lines_dropped_total`.
//!
//! The file is reopened when its path names a different file than the open one, so logrotate needs
//! no signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use prometheus_client::metrics::counter::Counter;

/// Batches that may wait for the writer.
const QUEUED_BATCHES: usize = 256;

/// The destination of the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogDestination {
    Stderr,
    File(std::path::PathBuf),
}

/// Lines of one worker, and their destination.
#[derive(Debug)]
struct Batch {
    to: Arc<LogDestination>,
    lines: u64,
    text: Vec<u8>,
}

/// A worker's end of the log.
#[derive(Clone, Debug)]
pub struct AccessLogSender {
    batches: SyncSender<Batch>,
    dropped: Counter,
}

impl AccessLogSender {
    /// Starts the writer. It ends, after the last line, when every `AccessLogSender` has been dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(dropped: Counter) -> io::Result<(AccessLogSender, JoinHandle<()>)> {
        let (batches, inbox) = sync_channel(QUEUED_BATCHES);
        let counter = dropped.clone();
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&inbox, &counter))?;
        Ok((AccessLogSender { batches, dropped }, thread))
    }

    /// Sends lines to the writer without waiting.
    pub fn send(&self, to: &Arc<LogDestination>, lines: u64, text: Vec<u8>) {
        let batch = Batch { to: Arc::clone(to), lines, text };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            self.batches.try_send(batch)
        {
            self.dropped.inc_by(batch.lines);
        }
    }
}

fn write_all(inbox: &Receiver<Batch>, dropped: &Counter) {
    let mut open: Option<OpenFile> = None;
    for batch in inbox {
        let written = match &*batch.to {
            LogDestination::Stderr => io::stderr().lock().write_all(&batch.text),
            LogDestination::File(path) => append(&mut open, path, &batch.text),
        };
        if let Err(error) = written {
            dropped.inc_by(batch.lines);
            open = None;
            tracing::warn!(%error, lines = batch.lines, "cannot write to the access log, lines dropped");
        }
    }
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
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let meta = file.metadata()?;
        *open = Some(OpenFile { path: path.to_owned(), file, id: (meta.dev(), meta.ino()) });
    }
    match open {
        Some(open) => open.file.write_all(text),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_file_is_created_again_and_no_line_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let dropped = Counter::default();
        for (name, line) in [("first", b"1\n"), ("second", b"2\n")] {
            let (log, thread) = AccessLogSender::start(dropped.clone()).expect("a thread");
            log.send(&Arc::new(LogDestination::File(path.clone())), 1, line.to_vec());
            drop(log);
            thread.join().expect("the writer stops");
            std::fs::rename(&path, dir.path().join(name)).expect("moved");
        }
        let read = |name| std::fs::read_to_string(dir.path().join(name)).expect("written");
        assert_eq!((read("first").as_str(), read("second").as_str()), ("1\n", "2\n"));
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
        let (log, thread) = AccessLogSender::start(dropped.clone()).expect("a thread");
        let nowhere = Arc::new(LogDestination::File("/nonexistent/access.log".into()));
        log.send(&nowhere, 3, b"a\nb\nc\n".to_vec());
        drop(log);
        thread.join().expect("the writer stops");
        assert_eq!(dropped.get(), 3);
    }
}
