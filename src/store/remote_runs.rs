//! Store access for shared jobs: which jobs other hosts may run, and how such a run ended.
//!
//! A job keeps its state here while it runs on another host. Redis records which host runs it; only
//! the end is written to the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params};

use super::Store;
use super::job::{JobContent, JobId, JobOutcome, JobState, Millis};
use super::queries::stored_request;
use super::transitions::{self, LeaseResult, Partition, partition, queue_callback};
use super::writer::StoreError;

/// Finished jobs that are recorded until they are fetched.
const MAX_RECORDED: usize = 1 << 16;
/// States of an unfinished job.
const UNFINISHED: [&str; 3] = ["ready", "retry_wait", "leased"];

/// A job that is not final.
#[derive(Clone, Debug)]
pub struct UnfinishedJob {
    pub seq: i64,
    pub id: JobId,
    pub partition: Partition,
    /// It runs on this host.
    pub leased: bool,
    /// Size of the request body.
    pub bytes: u64,
    pub attempts: u32,
    pub deliveries: u32,
    pub accepted: Millis,
    /// When another run may follow one that failed.
    pub due: Option<Millis>,
    pub expires: Millis,
    pub keep: Duration,
}

/// How a job ended on another host.
#[derive(Clone, Debug)]
pub struct RemoteOutcome {
    pub id: JobId,
    pub attempts: u32,
    pub deliveries: u32,
    pub outcome: JobOutcome,
}

/// Jobs that became final since the last call.
#[derive(Debug, Default)]
pub struct FinishedJobs {
    pub ids: Vec<JobId>,
    /// There were more than are recorded.
    pub overflowed: bool,
}

/// Unfinished jobs of some queues with a higher sequence number than `after`, in that order.
fn unfinished(
    db: &Connection,
    queues: &[String],
    after: i64,
    most: usize,
) -> SqlResult<Vec<UnfinishedJob>> {
    // One transaction for all reads, so that a job that changes meanwhile appears once.
    let _transaction = db.unchecked_transaction()?;
    let mut jobs = db.prepare_cached(
        "SELECT * FROM jobs WHERE queue = ?1 AND state = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut all = Vec::new();
    for (queue, state) in queues.iter().flat_map(|queue| UNFINISHED.map(|state| (queue, state))) {
        for job in jobs.query_map(params![queue, state, after, most], unfinished_job)? {
            all.push(job?);
        }
    }
    all.sort_unstable_by_key(|job: &UnfinishedJob| job.seq);
    all.truncate(most);
    Ok(all)
}

fn unfinished_job(row: &Row<'_>) -> SqlResult<UnfinishedJob> {
    Ok(UnfinishedJob {
        seq: row.get("seq")?,
        id: row.get("id")?,
        partition: partition(row)?,
        leased: row.get::<_, JobState>("state")? == JobState::Leased,
        bytes: row.get("bytes")?,
        attempts: row.get("attempts")?,
        deliveries: row.get("deliveries")?,
        accepted: row.get("accepted")?,
        due: row.get("due")?,
        expires: row.get("expires")?,
        keep: Duration::from_millis(row.get("keep")?),
    })
}

/// The content of a job; `None` if it is final.
fn content(db: &Connection, seq: i64) -> SqlResult<Option<JobContent>> {
    db.prepare_cached(
        "SELECT r.*, j.flow FROM requests r JOIN jobs j USING (seq)
         WHERE seq = ?1 AND j.state IN ('ready', 'retry_wait', 'leased')",
    )?
    .query_row([seq], |row| {
        Ok(JobContent { request: stored_request(row)?, flow: row.get("flow")? })
    })
    .optional()
}

/// The unfinished ones of some jobs, each with its queue.
fn filter_unfinished(db: &Connection, ids: &[JobId]) -> SqlResult<Vec<(JobId, String)>> {
    let mut queue_of = db.prepare_cached(
        "SELECT queue FROM jobs WHERE id = ?1 AND state IN ('ready', 'retry_wait', 'leased')",
    )?;
    let mut found = Vec::new();
    for id in ids {
        let queue = queue_of.query_row([id], |row| row.get(0)).optional()?;
        found.extend(queue.map(|queue| (*id, queue)));
    }
    Ok(found)
}

/// Ends a job that ran on another host, unless it is final, and returns its queue. A run of it here
/// no longer counts then.
fn finish(db: &Connection, outcome: &RemoteOutcome, now: Millis) -> SqlResult<Option<String>> {
    let (state, error) = match &outcome.outcome {
        Ok(_) => ("done", None),
        Err(reason) => ("dead", Some(reason)),
    };
    let found: Option<(i64, String)> = db
        .prepare_cached(
            "UPDATE jobs SET state = ?2, finished = ?3, forget = ?3 + keep, due = NULL, error = ?4,
               lease = lease + 1, attempts = max(attempts, ?5), deliveries = max(deliveries, ?6)
             WHERE id = ?1 AND state IN ('ready', 'retry_wait', 'leased')
             RETURNING seq, queue",
        )?
        .query_row(
            params![outcome.id, state, now, error, outcome.attempts, outcome.deliveries],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((seq, queue)) = found else { return Ok(None) };
    if let Ok(response) = &outcome.outcome {
        transitions::insert_result(db, seq, response)?;
    }
    queue_callback(db, seq, now)?;
    Ok(Some(queue))
}

/// # Errors
/// If the store cannot be read or written.
impl Store {
    /// The name of this store in a fleet. It never changes.
    pub fn name(&self) -> String {
        self.0.name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Starts a run of a job that may have `most` runs, and was `started` that many times on any
    /// host.
    pub async fn lease(
        &self,
        seq: i64,
        most: u32,
        started: u32,
        now: Millis,
    ) -> Result<LeaseResult, StoreError> {
        let write = self.0.writer.write(move |db| transitions::lease(db, seq, most, started, now));
        let leased = write.await?;
        if let LeaseResult::Exhausted(id) = leased {
            self.notify_finished(id);
        }
        Ok(leased)
    }

    /// Unfinished jobs of these queues with a higher sequence number than `after`, in that order.
    pub async fn unfinished_jobs(
        &self,
        queues: Vec<String>,
        after: i64,
        most: usize,
    ) -> Result<Vec<UnfinishedJob>, StoreError> {
        self.0.reader.read(move |db| unfinished(db, &queues, after, most)).await
    }

    /// The contents of jobs; `None` for those that are final.
    pub async fn contents(&self, seqs: Vec<i64>) -> Result<Vec<Option<JobContent>>, StoreError> {
        self.0.reader.read(move |db| seqs.iter().map(|seq| content(db, *seq)).collect()).await
    }

    /// The unfinished ones of these jobs, each with its queue.
    pub async fn filter_unfinished(
        &self,
        ids: Vec<JobId>,
    ) -> Result<Vec<(JobId, String)>, StoreError> {
        self.0.reader.read(move |db| filter_unfinished(db, &ids)).await
    }

    /// The sequence number of the newest job.
    pub async fn last_seq(&self) -> Result<i64, StoreError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'jobs'";
        self.0.reader.read(move |db| db.query_row(sql, [], |row| row.get(0))).await
    }

    /// Ends jobs that ran on other hosts. Returns the queue of each that was not final.
    pub async fn finish_remote(
        &self,
        outcomes: Arc<Vec<RemoteOutcome>>,
        now: Millis,
    ) -> Result<Vec<Option<String>>, StoreError> {
        let all = Arc::clone(&outcomes);
        let change = move |db: &_| all.iter().map(|it| finish(db, it, now)).collect();
        let queues: Vec<Option<String>> = self.0.writer.write(change).await?;
        let finished = outcomes.iter().zip(&queues).filter(|(_, queue)| queue.is_some());
        finished.for_each(|(outcome, _)| self.notify_finished(outcome.id));
        Ok(queues)
    }

    /// From now on, finished jobs are recorded for `take_finished`.
    pub fn record_finished(&self) {
        self.0.records_finished.store(true, Ordering::Relaxed);
    }

    /// Jobs that became final since the last call.
    pub fn take_finished(&self) -> FinishedJobs {
        std::mem::take(&mut *self.0.recorded.lock())
    }

    /// Waits until finished jobs may have been recorded.
    pub async fn finished_recorded(&self) {
        self.0.recorded_changed.notified().await;
    }

    pub(super) fn record_finished_job(&self, id: JobId) {
        if !self.0.records_finished.load(Ordering::Relaxed) {
            return;
        }
        let mut recorded = self.0.recorded.lock();
        match recorded.ids.len() < MAX_RECORDED {
            true => recorded.ids.push(id),
            false => recorded.overflowed = true,
        }
        drop(recorded);
        self.0.recorded_changed.notify_one();
    }
}
