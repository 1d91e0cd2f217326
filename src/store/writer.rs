//! The writer thread and the reader thread.
//!
//! Group commit: a sync to disk costs milliseconds whatever it carries, so changes that arrive during
//! a sync share the next one. A batch is never delayed to grow, so a single change costs one sync. The
//! callers get their results after the commit. A failed batch is undone and repeated change by change,
//! so that only the change at fault fails.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::health::{StoreFailure, WriteHealth};
use super::open::{self, StoreDirectory};
use crate::clock;

/// Changes of one commit.
const BATCH: usize = 256;
/// Capacity of the channels to the threads; further calls wait.
const CHANNEL: usize = 4096;
/// Commits between two checkpoints; a large commit counts as several. Checkpoints are small, because a
/// large one delays the syncs of writes.
const CHECKPOINT_AFTER: usize = 25;
/// Changes that write about as much as a commit itself.
const CHANGES_PER_COMMIT: usize = 4;

/// Why a call failed. Nothing of the change is in the store.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    #[error("the store's disk is full")]
    Full,
    #[error("the store cannot be read or written: {0}")]
    Io(String),
    #[error("the store is closed")]
    Closed,
}

/// Called after each commit, for metrics.
pub type CommitObserver = Box<dyn Fn(CommitStats) + Send>;

/// Figures of one commit, successful or not.
#[derive(Clone, Copy, Debug)]
pub struct CommitStats {
    /// Number of changes.
    pub size: usize,
    pub took: Duration,
    pub failed: bool,
}

/// Sends changes to the writer thread.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    inbox: mpsc::Sender<Box<dyn PendingWrite>>,
    failure: Arc<Mutex<Option<StoreFailure>>>,
}

/// Sends queries to the reader thread.
#[derive(Clone, Debug)]
pub struct StoreReader {
    inbox: mpsc::Sender<ReadQuery>,
}

type ReadQuery = Box<dyn FnOnce(&Connection) + Send>;

/// A change and its waiting caller.
trait PendingWrite: Send {
    fn run(&mut self, db: &Connection) -> rusqlite::Result<()>;
    /// Sends the result to the caller, after the commit.
    fn reply(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct WriteRequest<F, T> {
    change: F,
    value: Option<T>,
    to: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> PendingWrite for WriteRequest<F, T>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.change)(db)?);
        Ok(())
    }

    fn reply(self: Box<Self>, outcome: Result<(), StoreError>) {
        let WriteRequest { value, to, .. } = *self;
        // The caller may be gone; the change stays.
        let _ = to.send(outcome.and_then(|()| value.ok_or(StoreError::Closed)));
    }
}

impl StoreWriter {
    /// Starts the writer thread, and a second one for checkpoints of the WAL.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        db: Connection,
        directory: Arc<StoreDirectory>,
        observer: CommitObserver,
    ) -> std::io::Result<StoreWriter> {
        let (inbox, changes) = mpsc::channel(CHANNEL);
        let (checkpoint, checkpoints) = std::sync::mpsc::sync_channel(1);
        let path = directory.database();
        thread::Builder::new().name("store-checkpoint".into()).spawn(move || {
            while checkpoints.recv().is_ok() {
                // A failed checkpoint is repeated at the next one.
                let done = open::reader(&path).and_then(|db| {
                    db.pragma_update(None, "query_only", false)?;
                    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                });
                if let Err(error) = done {
                    tracing::debug!(%error, "cannot checkpoint the store");
                }
            }
        })?;
        let failure = Arc::default();
        let writer = WriterThread {
            db: Some(db),
            directory,
            observer,
            checkpoint,
            since_checkpoint: 0,
            health: WriteHealth::shown_by(Arc::clone(&failure)),
        };
        thread::Builder::new().name("store".into()).spawn(move || writer.run(changes))?;
        Ok(StoreWriter { inbox, failure })
    }

    /// Why commits fail now.
    pub fn failure(&self) -> Option<StoreFailure> {
        self.failure.lock().clone()
    }

    /// Makes a change; it is on disk when this returns. The closure may run more than once, and one
    /// of the runs counts.
    ///
    /// # Errors
    /// If nothing was changed.
    pub async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (to, result) = oneshot::channel();
        let write = Box::new(WriteRequest { change, value: None, to });
        self.inbox.send(write).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

struct WriterThread {
    /// `None` after an I/O error, until the database is opened again.
    db: Option<Connection>,
    directory: Arc<StoreDirectory>,
    observer: CommitObserver,
    checkpoint: std::sync::mpsc::SyncSender<()>,
    /// Commits since the last checkpoint, by their weight.
    since_checkpoint: usize,
    health: WriteHealth,
}

impl WriterThread {
    fn run(mut self, mut changes: mpsc::Receiver<Box<dyn PendingWrite>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = changes.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH {
                let Ok(next) = changes.try_recv() else { break };
                batch.push(next);
            }
            match self.commit(&mut batch) {
                Ok(()) => batch.drain(..).for_each(|write| write.reply(Ok(()))),
                Err(error) if batch.len() == 1 => {
                    batch.drain(..).for_each(|write| write.reply(Err(error.clone())));
                }
                Err(_) => {
                    for mut write in batch.drain(..) {
                        let outcome = self.commit(std::slice::from_mut(&mut write));
                        write.reply(outcome);
                    }
                }
            }
        }
    }

    fn commit(&mut self, batch: &mut [Box<dyn PendingWrite>]) -> Result<(), StoreError> {
        let started = clock::now();
        let outcome = self.try_commit(batch);
        (self.observer)(CommitStats {
            size: batch.len(),
            took: clock::since(started),
            failed: outcome.is_err(),
        });
        self.since_checkpoint += 1 + batch.len() / CHANGES_PER_COMMIT;
        if self.since_checkpoint >= CHECKPOINT_AFTER && self.checkpoint.try_send(()).is_ok() {
            self.since_checkpoint = 0;
        }
        let done = outcome.as_ref().map(|&()| ());
        self.health.record(done, &self.directory.path, clock::now());
        outcome.map_err(|error| {
            let error = store_error(&error);
            if matches!(error, StoreError::Io(_)) {
                // The connection's view of the files may be wrong now.
                self.db = None;
            }
            error
        })
    }

    fn try_commit(&mut self, batch: &mut [Box<dyn PendingWrite>]) -> rusqlite::Result<()> {
        let db = match self.db.take() {
            Some(db) => self.db.insert(db),
            None => self.db.insert(self.directory.writer()?),
        };
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in batch {
            write.run(&transaction)?;
        }
        transaction.commit()
    }
}

fn store_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        _ => StoreError::Io(error.to_string()),
    }
}

impl StoreReader {
    /// Starts the reader thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(directory: Arc<StoreDirectory>) -> std::io::Result<StoreReader> {
        let (inbox, mut queries) = mpsc::channel::<ReadQuery>(CHANNEL);
        thread::Builder::new().name("store-reader".into()).spawn(move || {
            let mut open: Option<Connection> = None;
            while let Some(query) = queries.blocking_recv() {
                let opened =
                    open.take().map_or_else(|| super::open::reader(&directory.database()), Ok);
                match opened {
                    Ok(db) => query(open.insert(db)),
                    // Dropping the query reports the failure to the caller.
                    Err(error) => tracing::warn!(%error, "the store cannot be read"),
                }
            }
        })?;
        Ok(StoreReader { inbox })
    }

    /// Runs a query on the committed state.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (to, result) = oneshot::channel();
        let query: ReadQuery = Box::new(move |db| {
            let _ = to.send(query(db).map_err(|error| store_error(&error)));
        });
        self.inbox.send(query).await.map_err(|_| StoreError::Closed)?;
        result.await.unwrap_or_else(|_| Err(StoreError::Io("it cannot be opened".to_owned())))
    }
}
