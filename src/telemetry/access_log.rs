//! The access log's writer: lines go out from a thread of its own, and no request waits for it.
//!
//! A worker gathers its lines and hands them over in batches (a handful of hand-overs a second,
//! however many requests). The channel is bounded: when the disk cannot keep up, batches are
//! dropped and their lines counted in `outrigger_access_log_dropped_total`.
//!
//! A file is opened again when its path names another file than the one that is open, so that
//! logrotate needs no signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use prometheus_client::metrics::counter::Counter;

/// Batches that may wait for the disk.
const WAITING: usize = 256;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stderr,
    File(std::path::PathBuf),
}

/// Lines of one worker, with where they go.
#[derive(Debug)]
struct Batch {
    to: Arc<Target>,
    lines: u64,
    text: Vec<u8>,
}

/// A worker's end of the log.
#[derive(Clone, Debug)]
pub struct Log {
    batches: SyncSender<Batch>,
    dropped: Counter,
}

impl Log {
    /// Starts the writer. It ends, after its last line, when every `Log` is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(dropped: Counter) -> io::Result<(Log, JoinHandle<()>)> {
        let (batches, inbox) = sync_channel(WAITING);
        let counter = dropped.clone();
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&inbox, &counter))?;
        Ok((Log { batches, dropped }, thread))
    }

    /// Hands lines over; returns at once.
    pub fn send(&self, to: &Arc<Target>, lines: u64, text: Vec<u8>) {
        let batch = Batch { to: Arc::clone(to), lines, text };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            self.batches.try_send(batch)
        {
            self.dropped.inc_by(batch.lines);
        }
    }
}

fn write_all(inbox: &Receiver<Batch>, dropped: &Counter) {
    let mut open: Option<Open> = None;
    for batch in inbox {
        let written = match &*batch.to {
            Target::Stderr => io::stderr().lock().write_all(&batch.text),
            Target::File(path) => append(&mut open, path, &batch.text),
        };
        if let Err(error) = written {
            dropped.inc_by(batch.lines);
            open = None;
            tracing::warn!(%error, lines = batch.lines, "access log lines were lost");
        }
    }
}

/// The file that is open, and which one it is.
#[derive(Debug)]
struct Open {
    path: std::path::PathBuf,
    file: File,
    id: (u64, u64),
}

fn append(open: &mut Option<Open>, path: &Path, text: &[u8]) -> io::Result<()> {
    let named = std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let current = open.as_ref().is_some_and(|o| o.path == path && Some(o.id) == named);
    if !current {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let meta = file.metadata()?;
        *open = Some(Open { path: path.to_owned(), file, id: (meta.dev(), meta.ino()) });
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
    fn a_file_that_was_moved_is_made_again_and_no_line_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let dropped = Counter::default();
        for (name, line) in [("first", b"1\n"), ("second", b"2\n")] {
            let (log, thread) = Log::start(dropped.clone()).expect("a thread");
            log.send(&Arc::new(Target::File(path.clone())), 1, line.to_vec());
            drop(log);
            thread.join().expect("the writer ends");
            std::fs::rename(&path, dir.path().join(name)).expect("moved");
        }
        let read = |name| std::fs::read_to_string(dir.path().join(name)).expect("written");
        assert_eq!((read("first").as_str(), read("second").as_str()), ("1\n", "2\n"));
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn one_writer_follows_a_file_that_is_moved_under_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let mut open = None;
        append(&mut open, &path, b"1\n").expect("written");
        std::fs::rename(&path, dir.path().join("moved")).expect("moved");
        append(&mut open, &path, b"2\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("made again"), "2\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dropped = Counter::default();
        let (log, thread) = Log::start(dropped.clone()).expect("a thread");
        let nowhere = Arc::new(Target::File("/nonexistent/access.log".into()));
        log.send(&nowhere, 3, b"a\nb\nc\n".to_vec());
        drop(log);
        thread.join().expect("the writer ends");
        assert_eq!(dropped.get(), 3);
    }
}
