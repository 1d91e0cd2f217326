//! The one thread that writes: what comes while a commit is being synced is the next commit.
//!
//! Group commit: a sync to disk costs milliseconds whatever it carries, so everybody who came
//! meanwhile shares the next one. Nobody waits for company, so a lone job costs one sync. Everyone
//! of a batch is told after its commit, and not before. A batch that fails is undone and done
//! again one by one, so that only who is at fault is refused.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::open::{self, StoreDirectory};
use crate::clock;

/// Changes of one commit.
const BATCH: usize = 256;
/// Changes that may wait for it; whoever comes after waits for room.
const WAITING: usize = 4096;
/// The WAL is folded into the database when it has grown by so many commits, of which a large one
/// counts for several. Many small folds: a large one holds up the syncs of those who write.
const FOLD_AFTER: usize = 25;
/// Changes that write about as much as a commit does by itself.
const AS_A_COMMIT: usize = 4;

/// Why a change was not made. Nothing of it is in the store.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    #[error("the disk of the store is full")]
    Full,
    #[error("the store cannot be written or read: {0}")]
    Io(String),
    #[error("the store is closed")]
    Closed,
}

/// What a commit tells who wants to know, such as a metric.
pub type CommitObserver = Box<dyn Fn(CommitStats) + Send>;

/// One commit that was tried.
#[derive(Clone, Copy, Debug)]
pub struct CommitStats {
    /// Changes in it.
    pub size: usize,
    pub took: Duration,
    pub failed: bool,
}

/// Where changes go.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    inbox: mpsc::Sender<Box<dyn PendingWrite>>,
}

/// Where questions go.
#[derive(Clone, Debug)]
pub struct StoreReader {
    inbox: mpsc::Sender<ReadQuery>,
}

type ReadQuery = Box<dyn FnOnce(&Connection) + Send>;

/// A change and whoever waits for it.
trait PendingWrite: Send {
    fn run(&mut self, db: &Connection) -> rusqlite::Result<()>;
    /// After the commit.
    fn tell(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct WriteRequest<F, T> {
    change: F,
    made: Option<T>,
    to: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> PendingWrite for WriteRequest<F, T>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.made = Some((self.change)(db)?);
        Ok(())
    }

    fn tell(self: Box<Self>, outcome: Result<(), StoreError>) {
        let WriteRequest { made, to, .. } = *self;
        // Whoever asked may be gone; what was done is done.
        let _ = to.send(outcome.and_then(|()| made.ok_or(StoreError::Closed)));
    }
}

impl StoreWriter {
    /// Starts the thread, and one beside it that folds the WAL into the database.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        db: Connection,
        directory: Arc<StoreDirectory>,
        observer: CommitObserver,
    ) -> std::io::Result<StoreWriter> {
        let (inbox, changes) = mpsc::channel(WAITING);
        let (fold, folds) = std::sync::mpsc::sync_channel(1);
        let path = directory.database();
        thread::Builder::new().name("store-fold".into()).spawn(move || {
            while folds.recv().is_ok() {
                // What cannot be done now is done the next time.
                let folded = open::reader(&path).and_then(|db| {
                    db.pragma_update(None, "query_only", false)?;
                    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                });
                if let Err(error) = folded {
                    tracing::debug!(%error, "the journal was not folded into the store");
                }
            }
        })?;
        let hand = WriterThread { db: Some(db), directory, observer, fold, grown: 0 };
        thread::Builder::new().name("store".into()).spawn(move || hand.run(changes))?;
        Ok(StoreWriter { inbox })
    }

    /// Makes a change; it is on the disk when this returns. The change may be run more than once,
    /// of which one counts.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (to, made) = oneshot::channel();
        let work = Box::new(WriteRequest { change, made: None, to });
        self.inbox.send(work).await.map_err(|_| StoreError::Closed)?;
        made.await.map_err(|_| StoreError::Closed)?
    }
}

struct WriterThread {
    /// `None` after an error of the disk, until it opens again.
    db: Option<Connection>,
    directory: Arc<StoreDirectory>,
    observer: CommitObserver,
    fold: std::sync::mpsc::SyncSender<()>,
    /// Commits since the last fold, by their weight.
    grown: usize,
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
                Ok(()) => batch.drain(..).for_each(|work| work.tell(Ok(()))),
                Err(failure) if batch.len() == 1 => {
                    batch.drain(..).for_each(|work| work.tell(Err(failure.clone())));
                }
                Err(_) => {
                    for mut work in batch.drain(..) {
                        let outcome = self.commit(std::slice::from_mut(&mut work));
                        work.tell(outcome);
                    }
                }
            }
        }
    }

    fn commit(&mut self, batch: &mut [Box<dyn PendingWrite>]) -> Result<(), StoreError> {
        let began = clock::now();
        let outcome = self.try_commit(batch);
        (self.observer)(CommitStats {
            size: batch.len(),
            took: clock::since(began),
            failed: outcome.is_err(),
        });
        self.grown += 1 + batch.len() / AS_A_COMMIT;
        if self.grown >= FOLD_AFTER && self.fold.try_send(()).is_ok() {
            self.grown = 0;
        }
        outcome.map_err(|error| {
            let failure = failure(&error);
            if matches!(failure, StoreError::Io(_)) {
                // What it remembers of the files may be wrong now.
                self.db = None;
            }
            failure
        })
    }

    fn try_commit(&mut self, batch: &mut [Box<dyn PendingWrite>]) -> rusqlite::Result<()> {
        let db = match self.db.take() {
            Some(db) => self.db.insert(db),
            None => self.db.insert(self.directory.writer()?),
        };
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for work in batch {
            work.run(&transaction)?;
        }
        transaction.commit()
    }
}

fn failure(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        _ => StoreError::Io(error.to_string()),
    }
}

impl StoreReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(directory: Arc<StoreDirectory>) -> std::io::Result<StoreReader> {
        let (inbox, mut questions) = mpsc::channel::<ReadQuery>(WAITING);
        thread::Builder::new().name("store-reader".into()).spawn(move || {
            let mut kept: Option<Connection> = None;
            while let Some(question) = questions.blocking_recv() {
                let opened = kept.take().map_or_else(|| open::reader(&directory.database()), Ok);
                match opened {
                    Ok(db) => question(kept.insert(db)),
                    // The question is dropped, which tells who asked.
                    Err(error) => tracing::warn!(%error, "the store cannot be read"),
                }
            }
        })?;
        Ok(StoreReader { inbox })
    }

    /// Answers from what is committed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (to, answer) = oneshot::channel();
        let ask: ReadQuery = Box::new(move |db| {
            let _ = to.send(question(db).map_err(|error| failure(&error)));
        });
        self.inbox.send(ask).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Io("it cannot be opened".to_owned())))
    }
}
