//! The embedded database: jobs that were promised, and what became of them; episodes of modes.
//!
//! One thread writes, with group commit (`writer.rs`); one reads; what is asked for comes back as a
//! future, so that nobody's worker waits for a disk. A change that returned is on the disk: "no
//! promise before it is kept" (DESIGN.md). What may follow what is in `change.rs`.

mod episodes;
#[cfg(test)]
mod faults_tests;
mod job;
#[cfg(test)]
mod model_tests;
mod open;
mod queries;
mod remote_runs;
#[cfg(test)]
mod store_tests;
mod transitions;
mod writer;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub use crate::store::job::*;
pub use crate::store::open::{OpenError, backup};
pub use crate::store::queries::{JobFilter, QueueTotal};
pub use crate::store::remote_runs::{FinishedJobs, RemoteOutcome, UnfinishedJob};
pub use crate::store::transitions::{AfterFailure, LeaseResult, Partition, UpkeepReport};
pub use crate::store::writer::{CommitObserver, CommitStats, StoreError};

use crate::store::open::StoreDirectory;
use crate::store::writer::{StoreReader, StoreWriter};

/// An open store; clones are the same one.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    writer: StoreWriter,
    reader: StoreReader,
    directory: Arc<StoreDirectory>,
    principal_key: [u8; 32],
    name: [u8; 16],
    /// Jobs that were being run when the last process ended.
    recovered: usize,
    watched: Mutex<HashMap<JobId, Vec<oneshot::Sender<()>>>>,
    /// Where jobs became ready since somebody asked.
    ready: Mutex<BTreeSet<Partition>>,
    woken: Notify,
    ended: Notify,
    /// Somebody asks which jobs ended.
    remembers: AtomicBool,
    ends: Mutex<FinishedJobs>,
    remembered: Notify,
}

/// Waits for the end of a job. Whoever lets go of it, such as a client that leaves, leaves nothing.
#[derive(Debug)]
pub struct JobWatch {
    store: Store,
    id: JobId,
    told: oneshot::Receiver<()>,
}

impl Store {
    /// Opens the store of a directory, which is made where it is missing. Jobs that were being run
    /// when its last process ended are ready again.
    ///
    /// # Errors
    /// When it cannot be used; nothing was changed then.
    pub fn open(path: &Path, observer: CommitObserver) -> Result<Store, OpenError> {
        let directory = Arc::new(StoreDirectory::lock(path)?);
        let io = |error| OpenError::Io(path.to_owned(), error);
        let broken = |error: rusqlite::Error| directory.error(&error);
        let db = directory.prepare()?;
        let recovered = transitions::recover(&db).map_err(broken)?;
        let principal_key = queries::note(&db, "principal_key").map_err(broken)?;
        let name = queries::note(&db, "name").map_err(broken)?;
        let writer = StoreWriter::start(db, Arc::clone(&directory), observer).map_err(io)?;
        let reader = StoreReader::start(Arc::clone(&directory)).map_err(io)?;
        Ok(Store(Arc::new(StoreInner {
            writer,
            reader,
            directory,
            principal_key,
            name,
            recovered,
            watched: Mutex::default(),
            ready: Mutex::default(),
            woken: Notify::new(),
            ended: Notify::new(),
            remembers: AtomicBool::new(false),
            ends: Mutex::default(),
            remembered: Notify::new(),
        })))
    }

    pub fn path(&self) -> &Path {
        &self.0.directory.path
    }

    pub fn recovered(&self) -> usize {
        self.0.recovered
    }

    /// With what principals are hashed.
    pub fn principal_key(&self) -> &[u8; 32] {
        &self.0.principal_key
    }

    /// Ends when a job is over. Ask where it stands after this, not before.
    pub fn watch(&self, id: JobId) -> JobWatch {
        let (tell, told) = oneshot::channel();
        self.0.watched.lock().entry(id).or_default().push(tell);
        JobWatch { store: self.clone(), id, told }
    }

    /// Nobody waits for this job any longer, but those who are still there.
    fn unwatch(&self, id: JobId) {
        let mut watched = self.0.watched.lock();
        if let Some(of) = watched.get_mut(&id) {
            of.retain(|tell| !tell.is_closed());
            if of.is_empty() {
                watched.remove(&id);
            }
        }
    }

    /// Where jobs became ready since this was asked last; waits for some.
    pub async fn ready(&self) -> BTreeSet<Partition> {
        loop {
            let woken = self.0.woken.notified();
            let ready = std::mem::take(&mut *self.0.ready.lock());
            if !ready.is_empty() {
                return ready;
            }
            woken.await;
        }
    }

    fn wake(&self, lines: impl IntoIterator<Item = Partition>) {
        self.0.ready.lock().extend(lines);
        self.0.woken.notify_one();
    }

    /// Waits until a job is over; of several meanwhile it tells once.
    pub async fn ended(&self) {
        self.0.ended.notified().await;
    }

    fn over(&self, id: JobId) {
        self.remember_end(id);
        self.0.ended.notify_one();
        let told = self.0.watched.lock().remove(&id);
        for tell in told.into_iter().flatten() {
            let _ = tell.send(());
        }
    }
}

/// Changes: each is on the disk when it returns.
///
/// # Errors
/// Where a change could not be written; nothing was changed then.
#[allow(clippy::missing_errors_doc)]
impl Store {
    pub async fn accept(
        &self,
        job: Arc<NewJob>,
        limits: QueueLimits,
        now: Millis,
    ) -> Result<EnqueueResult, StoreError> {
        let taken = Arc::clone(&job);
        let write = self.0.writer.write(move |db| transitions::accept(db, &job, limits, now));
        let accepted = write.await?;
        if accepted == EnqueueResult::New {
            self.wake([taken.line()]);
        }
        Ok(accepted)
    }

    pub async fn lease(&self, seq: i64, most: u32, now: Millis) -> Result<LeaseResult, StoreError> {
        self.lease_after(seq, most, 0, now).await
    }

    /// False where the lease no longer holds.
    pub async fn complete(
        &self,
        id: JobId,
        lease: RunLease,
        answer: Arc<StoredResponse>,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let done =
            self.0.writer.write(move |db| transitions::complete(db, lease, &answer, now)).await?;
        if done {
            self.over(id);
        }
        Ok(done)
    }

    /// False where the lease no longer holds.
    pub async fn fail(
        &self,
        id: JobId,
        lease: RunLease,
        why: String,
        then: AfterFailure,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let failed =
            self.0.writer.write(move |db| transitions::fail(db, lease, &why, then, now)).await?;
        if failed && then == AfterFailure::Dead {
            self.over(id);
        }
        Ok(failed)
    }

    /// Ready again, or when its time has come; the run does not count.
    pub async fn park(&self, lease: RunLease, due: Option<Millis>) -> Result<bool, StoreError> {
        self.0.writer.write(move |db| transitions::park(db, lease, due)).await
    }

    pub async fn cancel(
        &self,
        id: JobId,
        principal: Option<Principal>,
        now: Millis,
    ) -> Result<Option<JobState>, StoreError> {
        let state =
            self.0.writer.write(move |db| transitions::cancel(db, id, principal, now)).await?;
        if state.is_some_and(|state| !state.is_final()) {
            self.over(id);
        }
        Ok(state)
    }

    pub async fn retry(
        &self,
        id: JobId,
        now: Millis,
    ) -> Result<Option<(JobState, Partition)>, StoreError> {
        let retried = self.0.writer.write(move |db| transitions::retry(db, id, now)).await?;
        self.wake(retried.iter().map(|(_, line)| line.clone()));
        Ok(retried)
    }

    /// Some of the dead at once: until none is left.
    pub async fn requeue(&self, queue: String, now: Millis) -> Result<usize, StoreError> {
        let requeued = self.0.writer.write(move |db| transitions::requeue(db, &queue, now));
        let (many, lines) = requeued.await?;
        self.wake(lines);
        Ok(many)
    }

    /// Some at once: until none is left.
    pub async fn purge(&self, queue: String, state: JobState) -> Result<usize, StoreError> {
        self.0.writer.write(move |db| transitions::purge(db, &queue, state)).await
    }

    pub async fn upkeep(&self, now: Millis) -> Result<UpkeepReport, StoreError> {
        let upkept = self.0.writer.write(move |db| transitions::upkeep(db, now)).await?;
        upkept.expired.iter().for_each(|id| self.over(*id));
        self.wake(upkept.woken.iter().cloned());
        Ok(upkept)
    }

    pub async fn posted(
        &self,
        posting: PendingCallback,
        again: Option<Millis>,
        sent: bool,
    ) -> Result<(), StoreError> {
        self.0.writer.write(move |db| transitions::posted(db, &posting, again, sent)).await
    }
}

/// Questions.
///
/// # Errors
/// Where the store cannot be read.
#[allow(clippy::missing_errors_doc)]
impl Store {
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        self.0.reader.read(move |db| queries::job(db, id)).await
    }

    pub async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        self.0.reader.read(move |db| queries::list(db, &filter)).await
    }

    pub async fn task(&self, seq: i64) -> Result<Option<RunnableJob>, StoreError> {
        self.0.reader.read(move |db| queries::task(db, seq)).await
    }

    pub async fn answer(&self, seq: i64) -> Result<Option<StoredResponse>, StoreError> {
        self.0.reader.read(move |db| queries::answer(db, seq)).await
    }

    pub async fn lines(&self) -> Result<Vec<Partition>, StoreError> {
        self.0.reader.read(queries::lines).await
    }

    pub async fn upcoming(
        &self,
        line: Partition,
        after: Option<Vec<u8>>,
        taken: HashSet<i64>,
        want: usize,
    ) -> Result<Vec<(Vec<u8>, ReadyJob)>, StoreError> {
        self.upcoming_behind(line, (after, 0), taken, want).await
    }

    pub async fn totals(&self) -> Result<Vec<QueueTotal>, StoreError> {
        self.0.reader.read(queries::totals).await
    }

    /// When the oldest ready job of each of these queues was accepted.
    pub async fn oldest(&self, queues: Vec<String>) -> Result<Vec<Option<Millis>>, StoreError> {
        let read = move |db: &_| queues.iter().map(|queue| queries::oldest(db, queue)).collect();
        self.0.reader.read(read).await
    }

    pub async fn postings(
        &self,
        now: Millis,
    ) -> Result<(Vec<PendingCallback>, Option<Millis>), StoreError> {
        self.0.reader.read(move |db| queries::postings(db, now)).await
    }
}

// === impl Watch ===

impl Future for JobWatch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.told).poll(cx).map(|_| ())
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        self.told.close();
        self.store.unwatch(self.id);
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}
