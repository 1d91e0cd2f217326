//! A bounded queue between the threads that log and the one thread that writes.
//!
//! A write to a log can block: standard error may be a pipe without a reader, and a file may be a
//! FIFO or on a disk that hangs. So every log has a writer thread, and no other thread writes. A
//! push never waits: lines beyond the bound are dropped and counted. The bound is in bytes, because
//! a line may be long.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

/// Memory of a batch beside its text.
const OVERHEAD: usize = 64;

/// Complete lines, and their destination.
#[derive(Debug)]
pub struct LineBatch<T> {
    pub to: T,
    pub lines: u64,
    pub text: Bytes,
}

/// The queue of one log.
#[derive(Debug)]
pub struct LineQueue<T> {
    state: Mutex<PendingLines<T>>,
    changed: Condvar,
    max_bytes: usize,
    dropped: Counter,
}

#[derive(Debug)]
struct PendingLines<T> {
    batches: VecDeque<LineBatch<T>>,
    bytes: usize,
    /// The writer has taken a batch and has not written it yet.
    writing: bool,
}

impl<T: Send + 'static> LineQueue<T> {
    /// Starts the writer thread, which runs until the process ends. It drops and counts the lines
    /// of a batch that `write` fails for.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(
        thread_name: &str,
        max_bytes: usize,
        dropped: Counter,
        mut write: impl FnMut(&LineBatch<T>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Arc<LineQueue<T>>> {
        let state = PendingLines { batches: VecDeque::new(), bytes: 0, writing: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let queue = Arc::new(LineQueue { state, changed, max_bytes, dropped });
        let inbox = Arc::clone(&queue);
        thread::Builder::new().name(thread_name.to_owned()).spawn(move || {
            loop {
                let batch = inbox.take();
                if write(&batch).is_err() {
                    inbox.dropped.inc_by(batch.lines);
                }
            }
        })?;
        Ok(queue)
    }

    /// Queues lines without waiting.
    pub fn push(&self, batch: LineBatch<T>) {
        let size = size(&batch);
        let mut state = self.state.lock();
        if state.bytes + size > self.max_bytes {
            drop(state);
            self.dropped.inc_by(batch.lines);
            return;
        }
        state.bytes += size;
        state.batches.push_back(batch);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether every line that was queued has been written or dropped.
    pub fn is_written(&self) -> bool {
        self.state.lock().is_written()
    }

    /// Waits until every line is written, for at most `timeout`.
    pub fn wait_until_written(&self, timeout: Duration) {
        let is_unwritten = |state: &mut PendingLines<T>| !state.is_written();
        self.changed.wait_while_for(&mut self.state.lock(), is_unwritten, timeout);
    }

    /// Takes the next batch; the batch before it has been written.
    fn take(&self) -> LineBatch<T> {
        let mut state = self.state.lock();
        state.writing = false;
        if state.batches.is_empty() {
            self.changed.notify_all();
        }
        loop {
            if let Some(batch) = state.batches.pop_front() {
                state.bytes -= size(&batch);
                state.writing = true;
                return batch;
            }
            self.changed.wait(&mut state);
        }
    }
}

impl<T> PendingLines<T> {
    fn is_written(&self) -> bool {
        self.batches.is_empty() && !self.writing
    }
}

fn size<T>(batch: &LineBatch<T>) -> usize {
    batch.text.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const LINE: usize = 936;
    const PATIENCE: Duration = Duration::from_secs(10);

    fn line() -> LineBatch<()> {
        LineBatch { to: (), lines: 1, text: vec![b'x'; LINE].into() }
    }

    /// A queue for ten lines whose writer waits for a message before each write.
    fn stalled(dropped: &Counter) -> (Arc<LineQueue<()>>, Sender<()>) {
        let (go, gate) = channel::<()>();
        let write = move |_: &LineBatch<()>| gate.recv().map_err(io::Error::other);
        let bound = 10 * (LINE + OVERHEAD);
        (LineQueue::start("test", bound, dropped.clone(), write).expect("a thread"), go)
    }

    #[test]
    fn a_push_never_waits_and_lines_beyond_the_bound_are_counted() {
        let dropped = Counter::default();
        let (queue, go) = stalled(&dropped);
        (0..1000).for_each(|_| queue.push(line()));
        // Ten in the queue, and one that the writer may have taken.
        let kept = 1000 - dropped.get();
        assert!((10..=11).contains(&kept), "{kept} lines kept");
        assert!(!queue.is_written());
        (0..kept).for_each(|_| go.send(()).expect("the writer runs"));
        queue.wait_until_written(PATIENCE);
        assert!(queue.is_written());
        assert_eq!(dropped.get(), 1000 - kept);
    }

    #[test]
    fn waiting_for_a_stalled_writer_ends_at_the_timeout() {
        let (queue, _go) = stalled(&Counter::default());
        queue.push(line());
        queue.wait_until_written(Duration::from_millis(10));
        assert!(!queue.is_written());
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let dropped = Counter::default();
        let fail = |_: &LineBatch<()>| Err(io::ErrorKind::StorageFull.into());
        let queue = LineQueue::start("test", 10_000, dropped.clone(), fail).expect("a thread");
        (0..3).for_each(|_| queue.push(line()));
        queue.wait_until_written(PATIENCE);
        assert_eq!(dropped.get(), 3);
    }
}
