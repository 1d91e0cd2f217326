//! What a fleet asks of the store: which jobs may be run elsewhere, and how one that was has ended.
//!
//! A job that runs elsewhere stands here as it stood: who runs it is known in Redis, and only its end
//! is written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::job::{JobId, JobState, Millis, StoredRequest, StoredResponse};
use super::transitions::{self, LeaseResult, Partition, call_back, line};
use super::writer::StoreError;
use super::{Store, queries};

type Made<T> = rusqlite::Result<T>;

/// Ends that nobody fetched are remembered up to so many.
const ENDS: usize = 1 << 16;
/// Where a job may stand that is not over.
const OPEN: [&str; 3] = ["ready", "retry_wait", "leased"];

/// A job that is not over.
#[derive(Clone, Debug)]
pub struct UnfinishedJob {
    pub seq: i64,
    pub id: JobId,
    pub line: Partition,
    /// It is being run here.
    pub leased: bool,
    /// Of its body.
    pub bytes: u64,
    pub attempts: u32,
    pub deliveries: u32,
    pub accepted: Millis,
    /// When another run may follow one that failed.
    pub due: Option<Millis>,
    pub expires: Millis,
    pub keep: Duration,
}

/// How a job ended elsewhere.
#[derive(Clone, Debug)]
pub struct RemoteOutcome {
    pub id: JobId,
    pub attempts: u32,
    pub deliveries: u32,
    /// Else it is dead, and why.
    pub end: Result<Arc<StoredResponse>, String>,
}

/// Jobs that ended since somebody asked.
#[derive(Debug, Default)]
pub struct FinishedJobs {
    pub ids: Vec<JobId>,
    /// There were more.
    pub missed: bool,
}

/// Some that are not over, in the order in which they came, from one on.
fn open(db: &Connection, queues: &[String], behind: i64, most: usize) -> Made<Vec<UnfinishedJob>> {
    // One view for all that is read: a job that moves meanwhile is found once.
    let _view = db.unchecked_transaction()?;
    let mut place = db.prepare_cached(
        "SELECT * FROM jobs WHERE queue = ?1 AND state = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut all = Vec::new();
    for (queue, state) in queues.iter().flat_map(|queue| OPEN.map(|state| (queue, state))) {
        for job in place.query_map(params![queue, state, behind, most], open_of)? {
            all.push(job?);
        }
    }
    all.sort_unstable_by_key(|job: &UnfinishedJob| job.seq);
    all.truncate(most);
    Ok(all)
}

fn open_of(row: &Row<'_>) -> Made<UnfinishedJob> {
    Ok(UnfinishedJob {
        seq: row.get("seq")?,
        id: row.get("id")?,
        line: line(row)?,
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

/// What one asks, and its flow; nothing where it is over.
fn request(db: &Connection, seq: i64) -> Made<Option<(StoredRequest, Vec<u8>)>> {
    db.prepare_cached(
        "SELECT r.*, j.flow FROM requests r JOIN jobs j USING (seq)
         WHERE seq = ?1 AND j.state IN ('ready', 'retry_wait', 'leased')",
    )?
    .query_row([seq], |row| {
        let request = StoredRequest {
            method: row.get("method")?,
            uri: row.get("uri")?,
            headers: row.get("headers")?,
            body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
        };
        Ok((request, row.get("flow")?))
    })
    .optional()
}

/// Those of them that are not over, each with its queue.
fn still_open(db: &Connection, ids: &[JobId]) -> Made<Vec<(JobId, String)>> {
    let mut one = db.prepare_cached(
        "SELECT queue FROM jobs WHERE id = ?1 AND state IN ('ready', 'retry_wait', 'leased')",
    )?;
    let mut found = Vec::new();
    for id in ids {
        let queue = one.query_row([id], |row| row.get(0)).optional()?;
        found.extend(queue.map(|queue| (*id, queue)));
    }
    Ok(found)
}

/// Ends a job that was run elsewhere, unless it is over, and gives its queue. A run of it here no longer
/// counts then.
fn end(db: &Connection, of: &RemoteOutcome, now: Millis) -> Made<Option<String>> {
    let (state, why) = match &of.end {
        Ok(_) => ("done", None),
        Err(why) => ("dead", Some(why)),
    };
    let found: Option<(i64, String)> = db
        .prepare_cached(
            "UPDATE jobs SET state = ?2, finished = ?3, forget = ?3 + keep, due = NULL, error = ?4,
               lease = lease + 1, attempts = max(attempts, ?5), deliveries = max(deliveries, ?6)
             WHERE id = ?1 AND state IN ('ready', 'retry_wait', 'leased')
             RETURNING seq, queue",
        )?
        .query_row(params![of.id, state, now, why, of.attempts, of.deliveries], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((seq, queue)) = found else { return Ok(None) };
    if let Ok(answer) = &of.end {
        transitions::result(db, seq, answer)?;
    }
    call_back(db, seq, now)?;
    Ok(Some(queue))
}

/// # Errors
/// Where the store cannot be read or written.
#[allow(clippy::missing_errors_doc)]
impl Store {
    /// By what others know it, for as long as it lasts.
    pub fn name(&self) -> String {
        self.0.name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As `lease`, of a job that was begun elsewhere too.
    pub async fn lease_after(
        &self,
        seq: i64,
        most: u32,
        begun: u32,
        now: Millis,
    ) -> Result<LeaseResult, StoreError> {
        let write = self.0.writer.write(move |db| transitions::lease(db, seq, most, begun, now));
        let leased = write.await?;
        if let LeaseResult::Poison(id) = leased {
            self.over(id);
        }
        Ok(leased)
    }

    /// As `upcoming`, but none that came before `behind`, or is it.
    pub async fn upcoming_behind(
        &self,
        line: Partition,
        (after, behind): (Option<Vec<u8>>, i64),
        taken: std::collections::HashSet<i64>,
        want: usize,
    ) -> Result<Vec<(Vec<u8>, super::ReadyJob)>, StoreError> {
        let read =
            move |db: &_| queries::upcoming(db, &line, (after.as_deref(), behind), &taken, want);
        self.0.reader.read(read).await
    }

    /// Jobs of these queues that are not over, in the order in which they came, from one on.
    pub async fn open_jobs(
        &self,
        queues: Vec<String>,
        behind: i64,
        most: usize,
    ) -> Result<Vec<UnfinishedJob>, StoreError> {
        self.0.reader.read(move |db| open(db, &queues, behind, most)).await
    }

    /// What these ask, and their flows; nothing of those that are over.
    pub async fn requests(
        &self,
        seqs: Vec<i64>,
    ) -> Result<Vec<Option<(StoredRequest, Vec<u8>)>>, StoreError> {
        self.0.reader.read(move |db| seqs.iter().map(|seq| request(db, *seq)).collect()).await
    }

    /// Those of them that are not over, each with its queue.
    pub async fn still_open(&self, ids: Vec<JobId>) -> Result<Vec<(JobId, String)>, StoreError> {
        self.0.reader.read(move |db| still_open(db, &ids)).await
    }

    /// The number of the job that came last.
    pub async fn last(&self) -> Result<i64, StoreError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'jobs'";
        self.0.reader.read(move |db| db.query_row(sql, [], |row| row.get(0))).await
    }

    /// Ends jobs that were run elsewhere. Gives the queue of each that was not over.
    pub async fn end_elsewhere(
        &self,
        all: Arc<Vec<RemoteOutcome>>,
        now: Millis,
    ) -> Result<Vec<Option<String>>, StoreError> {
        let some = Arc::clone(&all);
        let change = move |db: &_| some.iter().map(|of| end(db, of, now)).collect();
        let ended: Vec<Option<String>> = self.0.writer.write(change).await?;
        let over = all.iter().zip(&ended).filter(|(_, queue)| queue.is_some());
        over.for_each(|(of, _)| self.over(of.id));
        Ok(ended)
    }

    /// From now on, what ends is remembered until it is asked for.
    pub fn remember_ends(&self) {
        self.0.remembers.store(true, Ordering::Relaxed);
    }

    /// Jobs that ended since this was asked last.
    pub fn take_ends(&self) -> FinishedJobs {
        std::mem::take(&mut *self.0.ends.lock())
    }

    /// Waits until some may have.
    pub async fn some_ended(&self) {
        self.0.remembered.notified().await;
    }

    pub(super) fn remember_end(&self, id: JobId) {
        if !self.0.remembers.load(Ordering::Relaxed) {
            return;
        }
        let mut ends = self.0.ends.lock();
        match ends.ids.len() < ENDS {
            true => ends.ids.push(id),
            false => ends.missed = true,
        }
        drop(ends);
        self.0.remembered.notify_one();
    }
}
