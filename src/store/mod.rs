//! The embedded database: acknowledged jobs and their results, episodes of degradation modes,
//! roll-ups of calls with what was learned from them, samples of metrics, events, and runs of
//! benchmarks.
//!
//! One thread writes, with group commit (`writer.rs`); another reads. Calls are futures, so that no
//! worker waits for a disk. A change is on disk when its call returns: nothing is acknowledged
//! before it is durable (docs/design/architecture.md "Invariants"). `transitions.rs` has the states.

pub mod benchmark_runs;
mod episodes;
mod events;
#[cfg(test)]
#[path = "tests/faults_tests.rs"]
mod faults_tests;
mod health;
mod job;
mod levels;
#[cfg(test)]
#[path = "tests/model_tests.rs"]
mod model_tests;
mod open;
mod queries;
mod remote_runs;
mod rollups;
#[cfg(test)]
#[path = "tests/rollups_tests.rs"]
mod rollups_tests;
mod samples;
#[cfg(test)]
#[path = "tests/samples_tests.rs"]
mod samples_tests;
#[cfg(test)]
#[path = "tests/store_tests.rs"]
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

pub use crate::store::events::{StoredEvent, StoredEventQuery};
pub use crate::store::health::StoreFailure;
pub use crate::store::job::*;
pub use crate::store::levels::Resolution;
pub use crate::store::open::{OpenError, backup};
pub use crate::store::queries::{JobFilter, QueueTotal, UpcomingCursor};
pub use crate::store::remote_runs::{FinishedJobs, RemoteOutcome, UnfinishedJob};
pub use crate::store::rollups::{
    BASELINE_KEPT, MAX_BYTES, RollUpQuery, StoredBaseline, TrackingBatch,
};
pub use crate::store::samples::{
    MAX_METRICS, MAX_SAMPLE_BYTES, SampleQuery, SampleSeries, StoredSamples,
};
pub use crate::store::transitions::{AfterFailure, LeaseResult, Partition, UpkeepReport};
pub use crate::store::writer::{CommitObserver, CommitStats, StoreError};

use crate::store::open::StoreDirectory;
use crate::store::writer::{StoreReader, StoreWriter};

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    writer: StoreWriter,
    reader: StoreReader,
    directory: Arc<StoreDirectory>,
    principal_key: [u8; 32],
    name: [u8; 16],
    /// Jobs that an earlier process was running when it ended.
    recovered: usize,
    watches: Mutex<HashMap<JobId, Vec<oneshot::Sender<()>>>>,
    /// Partitions in which jobs became ready since the last `wait_ready`.
    ready: Mutex<BTreeSet<Partition>>,
    ready_changed: Notify,
    finished: Notify,
    /// `take_finished` is in use.
    records_finished: AtomicBool,
    recorded: Mutex<FinishedJobs>,
    recorded_changed: Notify,
}

/// Waits for the end of a job. Dropping it removes the watch.
#[derive(Debug)]
pub struct JobWatch {
    store: Store,
    id: JobId,
    finished: oneshot::Receiver<()>,
}

impl Store {
    /// Opens the store in a directory, and creates both if missing. Jobs that an earlier process was
    /// running are ready again.
    ///
    /// # Errors
    /// If the store cannot be used. Nothing was changed then.
    pub fn open(path: &Path, observer: CommitObserver) -> Result<Store, OpenError> {
        let directory = Arc::new(StoreDirectory::lock(path)?);
        let io = |error| OpenError::Io(path.to_owned(), error);
        let broken = |error: rusqlite::Error| directory.error(&error);
        let db = directory.prepare()?;
        let recovered = transitions::recover(&db).map_err(broken)?;
        benchmark_runs::abort_running(&db).map_err(broken)?;
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
            watches: Mutex::default(),
            ready: Mutex::default(),
            ready_changed: Notify::new(),
            finished: Notify::new(),
            records_finished: AtomicBool::new(false),
            recorded: Mutex::default(),
            recorded_changed: Notify::new(),
        })))
    }

    pub fn path(&self) -> &Path {
        &self.0.directory.path
    }

    /// Why nothing can be written now.
    pub fn failure(&self) -> Option<StoreFailure> {
        self.0.writer.failure()
    }

    pub fn recovered(&self) -> usize {
        self.0.recovered
    }

    /// The key of the hash of principals.
    pub fn principal_key(&self) -> &[u8; 32] {
        &self.0.principal_key
    }

    /// Completes when a job is final. Read the job's state after this call, not before.
    pub fn watch(&self, id: JobId) -> JobWatch {
        let (notify, finished) = oneshot::channel();
        self.0.watches.lock().entry(id).or_default().push(notify);
        JobWatch { store: self.clone(), id, finished }
    }

    /// Removes the watches of a job that were dropped.
    fn unwatch(&self, id: JobId) {
        let mut watches = self.0.watches.lock();
        if let Some(of_job) = watches.get_mut(&id) {
            of_job.retain(|notify| !notify.is_closed());
            if of_job.is_empty() {
                watches.remove(&id);
            }
        }
    }

    /// Waits until jobs became ready since the last call; returns their partitions.
    pub async fn wait_ready(&self) -> BTreeSet<Partition> {
        loop {
            let changed = self.0.ready_changed.notified();
            let ready = std::mem::take(&mut *self.0.ready.lock());
            if !ready.is_empty() {
                return ready;
            }
            changed.await;
        }
    }

    fn notify_ready(&self, partitions: impl IntoIterator<Item = Partition>) {
        self.0.ready.lock().extend(partitions);
        self.0.ready_changed.notify_one();
    }

    /// Waits until jobs became final; several count as one.
    pub async fn wait_finished(&self) {
        self.0.finished.notified().await;
    }

    fn notify_finished(&self, id: JobId) {
        self.record_finished_job(id);
        self.0.finished.notify_one();
        let watches = self.0.watches.lock().remove(&id);
        for notify in watches.into_iter().flatten() {
            let _ = notify.send(());
        }
    }
}

/// Changes. Each is on disk when it returns.
///
/// # Errors
/// If the change could not be written. Nothing was changed then.
impl Store {
    pub async fn enqueue(
        &self,
        job: Arc<NewJob>,
        limits: QueueLimits,
        now: Millis,
    ) -> Result<EnqueueResult, StoreError> {
        let partition = job.partition();
        let write = self.0.writer.write(move |db| transitions::enqueue(db, &job, limits, now));
        let result = write.await?;
        if result == EnqueueResult::New {
            self.notify_ready([partition]);
        }
        Ok(result)
    }

    /// Returns false if the lease no longer holds.
    pub async fn complete(
        &self,
        id: JobId,
        lease: RunLease,
        response: Arc<StoredResponse>,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let done =
            self.0.writer.write(move |db| transitions::complete(db, lease, &response, now)).await?;
        if done {
            self.notify_finished(id);
        }
        Ok(done)
    }

    /// Returns false if the lease no longer holds.
    pub async fn fail(
        &self,
        id: JobId,
        lease: RunLease,
        reason: String,
        then: AfterFailure,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let failed =
            self.0.writer.write(move |db| transitions::fail(db, lease, &reason, then, now)).await?;
        if failed && then == AfterFailure::Dead {
            self.notify_finished(id);
        }
        Ok(failed)
    }

    /// Makes a job ready again, at once or at `due`. The run does not count.
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
            self.notify_finished(id);
        }
        Ok(state)
    }

    pub async fn retry(
        &self,
        id: JobId,
        now: Millis,
    ) -> Result<Option<(JobState, Partition)>, StoreError> {
        let retried = self.0.writer.write(move |db| transitions::retry(db, id, now)).await?;
        self.notify_ready(retried.iter().map(|(_, partition)| partition.clone()));
        Ok(retried)
    }

    /// Requeues a batch of dead jobs; returns 0 once none is left.
    pub async fn requeue(&self, queue: String, now: Millis) -> Result<usize, StoreError> {
        let requeued = self.0.writer.write(move |db| transitions::requeue(db, &queue, now));
        let (count, partitions) = requeued.await?;
        self.notify_ready(partitions);
        Ok(count)
    }

    /// Deletes a batch of final jobs; returns 0 once none is left.
    pub async fn purge(&self, queue: String, state: JobState) -> Result<usize, StoreError> {
        self.0.writer.write(move |db| transitions::purge(db, &queue, state)).await
    }

    pub async fn upkeep(&self, now: Millis) -> Result<UpkeepReport, StoreError> {
        let report = self.0.writer.write(move |db| transitions::upkeep(db, now)).await?;
        report.expired.iter().for_each(|id| self.notify_finished(*id));
        self.notify_ready(report.woken.iter().cloned());
        Ok(report)
    }

    pub async fn record_callback(
        &self,
        callback: PendingCallback,
        result: CallbackResult,
    ) -> Result<(), StoreError> {
        self.0.writer.write(move |db| transitions::record_callback(db, &callback, result)).await
    }
}

/// Queries.
///
/// # Errors
/// If the store cannot be read.
impl Store {
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        self.0.reader.read(move |db| queries::job(db, id)).await
    }

    pub async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        self.0.reader.read(move |db| queries::list(db, &filter)).await
    }

    pub async fn runnable_job(&self, seq: i64) -> Result<Option<RunnableJob>, StoreError> {
        self.0.reader.read(move |db| queries::runnable_job(db, seq)).await
    }

    pub async fn response(&self, seq: i64) -> Result<Option<StoredResponse>, StoreError> {
        self.0.reader.read(move |db| queries::response(db, seq)).await
    }

    /// Partitions with ready jobs.
    pub async fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        self.0.reader.read(queries::partitions).await
    }

    /// The next jobs of a partition, each with its flow.
    pub async fn upcoming(
        &self,
        partition: Partition,
        cursor: UpcomingCursor,
        active: HashSet<i64>,
        want: usize,
    ) -> Result<Vec<(Vec<u8>, ReadyJob)>, StoreError> {
        let read = move |db: &_| queries::upcoming(db, &partition, &cursor, &active, want);
        self.0.reader.read(read).await
    }

    pub async fn totals(&self) -> Result<Vec<QueueTotal>, StoreError> {
        self.0.reader.read(queries::totals).await
    }

    /// When the oldest ready job of each of these queues was accepted.
    pub async fn oldest(&self, queues: Vec<String>) -> Result<Vec<Option<Millis>>, StoreError> {
        let read = move |db: &_| queues.iter().map(|queue| queries::oldest(db, queue)).collect();
        self.0.reader.read(read).await
    }

    pub async fn due_callbacks(
        &self,
        now: Millis,
    ) -> Result<(Vec<PendingCallback>, Option<Millis>), StoreError> {
        self.0.reader.read(move |db| queries::due_callbacks(db, now)).await
    }
}

impl Future for JobWatch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.finished).poll(cx).map(|_| ())
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        self.finished.close();
        self.store.unwatch(self.id);
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}
