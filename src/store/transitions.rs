//! The transitions of a job (docs/design/queue.md "States"). Each statement contains its guard, so
//! that nothing can happen in between.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params};

use super::job::{
    CallbackResult, CallbackState, EnqueueResult, IdempotencyKey, JobId, JobState, Millis, NewJob,
    PendingCallback, Principal, QueueFull, QueueLimits, RunLease, StoredResponse,
};

/// How long an `Idempotency-Key` is remembered.
const KEY_LIFETIME: Duration = Duration::from_secs(86_400);
/// Rows that one call changes, so that other writes are not held up.
const BATCH: usize = 500;

/// The next state of a job after a failed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Another run at this time.
    RunAt(Millis),
    Dead,
}

/// The result of leasing a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseResult {
    Run(RunLease),
    /// It was started `max_deliveries` times without an end, and is dead now.
    Exhausted(JobId),
    /// It is not ready any more: cancelled, expired, or run already.
    Gone,
}

/// The jobs of one queue, route and class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub queue: String,
    pub route: String,
    pub class: String,
}

/// The changes that one upkeep made.
#[derive(Clone, Debug, Default)]
pub struct UpkeepReport {
    pub expired: Vec<JobId>,
    /// Partitions with jobs whose wait is over.
    pub woken: Vec<Partition>,
    /// Number of deleted jobs and keys.
    pub deleted: usize,
    /// When the next waiting job is due.
    pub next_due: Option<Millis>,
    /// A batch was full: there is more to do.
    pub more: bool,
}

/// Stores a job, unless its key is known or its queue is full.
pub fn enqueue(
    db: &Connection,
    job: &NewJob,
    limits: QueueLimits,
    now: Millis,
) -> SqlResult<EnqueueResult> {
    if let Some(key) = &job.key
        && let Some(known) = by_key(db, job, key, now)?
    {
        return Ok(known);
    }
    let bytes = job.request.body.len() as u64;
    let (jobs, held): (u64, u64) = db
        .prepare_cached(
            "SELECT coalesce(sum(jobs), 0), coalesce(sum(bytes), 0) FROM totals
             WHERE queue = ?1 AND state IN ('ready', 'retry_wait', 'leased')",
        )?
        .query_row([&job.queue], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if jobs >= limits.jobs {
        return Ok(EnqueueResult::Full(QueueFull::Jobs(jobs)));
    }
    if held + bytes > limits.bytes {
        return Ok(EnqueueResult::Full(QueueFull::Bytes(held)));
    }
    insert(db, job, now)?;
    Ok(EnqueueResult::New)
}

fn by_key(
    db: &Connection,
    job: &NewJob,
    key: &IdempotencyKey,
    now: Millis,
) -> SqlResult<Option<EnqueueResult>> {
    let found = db
        .prepare_cached(
            "SELECT k.fingerprint, k.id, j.state FROM keys k LEFT JOIN jobs j ON j.id = k.id
             WHERE k.principal = ?1 AND k.key = ?2 AND k.forget > ?3",
        )?
        .query_row(params![job.principal, key.text, now], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(found.map(|(fingerprint, id, state)| match fingerprint == key.fingerprint {
        true => EnqueueResult::Known(id, state),
        false => EnqueueResult::OtherRequest,
    }))
}

fn insert(db: &Connection, job: &NewJob, now: Millis) -> SqlResult<()> {
    let request = &job.request;
    let keep = i64::try_from(job.keep.as_millis()).unwrap_or(i64::MAX);
    db.prepare_cached(
        "INSERT INTO jobs (id, queue, route, class, flow, principal, state, bytes, accepted, expires, keep)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'ready', ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        job.id,
        job.queue,
        job.route,
        job.class,
        job.flow,
        job.principal,
        request.body.len() as u64,
        now,
        job.expires,
        keep
    ])?;
    let seq = db.last_insert_rowid();
    db.prepare_cached("INSERT INTO requests VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        seq,
        request.method,
        request.uri,
        request.headers,
        request.body.as_ref()
    ])?;
    if let Some(url) = &job.callback {
        db.prepare_cached("INSERT INTO callbacks (seq, url) VALUES (?1, ?2)")?
            .execute(params![seq, url])?;
    }
    if let Some(key) = &job.key {
        db.prepare_cached("INSERT OR REPLACE INTO keys VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
            params![job.principal, key.text, key.fingerprint, job.id, now.after(KEY_LIFETIME)],
        )?;
    }
    Ok(())
}

/// Starts a run. `most`: runs that a job may have; `started`: runs that are known to have started on
/// any host.
pub fn lease(
    db: &Connection,
    seq: i64,
    most: u32,
    started: u32,
    now: Millis,
) -> SqlResult<LeaseResult> {
    let leased = db
        .prepare_cached(
            "UPDATE jobs SET state = 'leased', lease = lease + 1,
               deliveries = max(deliveries, ?4) + 1
             WHERE seq = ?1 AND state = 'ready' AND expires > ?2 AND max(deliveries, ?4) < ?3
             RETURNING lease, deliveries",
        )?
        .query_row(params![seq, now, most, started], |row| {
            Ok(RunLease { seq, number: row.get(0)?, deliveries: row.get(1)? })
        })
        .optional()?;
    if let Some(lease) = leased {
        return Ok(LeaseResult::Run(lease));
    }
    let exhausted = db
        .prepare_cached(
            "UPDATE jobs SET state = 'dead', finished = ?2, forget = ?2 + keep,
               error = coalesce(error, 'it was started ' || max(deliveries, ?3) || ' times without an end')
             WHERE seq = ?1 AND state = 'ready' AND expires > ?2 RETURNING id",
        )?
        .query_row(params![seq, now, started], |row| row.get(0))
        .optional()?;
    if exhausted.is_some() {
        queue_callback(db, seq, now)?;
    }
    Ok(exhausted.map_or(LeaseResult::Gone, LeaseResult::Exhausted))
}

/// Ends a run with a response; false if the lease no longer holds.
pub fn complete(
    db: &Connection,
    lease: RunLease,
    response: &StoredResponse,
    now: Millis,
) -> SqlResult<bool> {
    let done = db
        .prepare_cached(
            "UPDATE jobs SET state = 'done', finished = ?3, forget = ?3 + keep, error = NULL
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, now])?;
    if done == 1 {
        insert_result(db, lease.seq, response)?;
        queue_callback(db, lease.seq, now)?;
    }
    Ok(done == 1)
}

pub(super) fn insert_result(db: &Connection, seq: i64, response: &StoredResponse) -> SqlResult<()> {
    let StoredResponse { status, headers, body, cut } = response;
    db.prepare_cached("INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![seq, status, headers, body.as_ref(), cut])
        .map(|_| ())
}

/// Ends a run without a response; false if the lease no longer holds.
pub fn fail(
    db: &Connection,
    lease: RunLease,
    reason: &str,
    then: AfterFailure,
    now: Millis,
) -> SqlResult<bool> {
    let (state, due, finished) = match then {
        AfterFailure::RunAt(due) => (JobState::RetryWait, Some(due), None),
        AfterFailure::Dead => (JobState::Dead, None, Some(now)),
    };
    let changed = db
        .prepare_cached(
            "UPDATE jobs SET state = ?3, attempts = attempts + 1, due = ?4, error = ?5,
               finished = ?6, forget = ?6 + keep
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, state, due, reason, finished])?;
    if changed == 1 && state == JobState::Dead {
        queue_callback(db, lease.seq, now)?;
    }
    Ok(changed == 1)
}

/// Undoes a run in which no provider took the job: nothing was sent, or `Retry-After` applies.
pub fn park(db: &Connection, lease: RunLease, due: Option<Millis>) -> SqlResult<bool> {
    let state = if due.is_some() { JobState::RetryWait } else { JobState::Ready };
    let changed = db
        .prepare_cached(
            "UPDATE jobs SET state = ?3, due = ?4, deliveries = deliveries - 1
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, state, due])?;
    Ok(changed == 1)
}

/// At start: makes the jobs that were running ready again, at their old positions. Returns their
/// number.
pub fn recover(db: &Connection) -> SqlResult<usize> {
    // The condition on the queue lets the index be used: no other job is read.
    let sql = "UPDATE jobs SET state = 'ready' WHERE state = 'leased'
               AND queue IN (SELECT queue FROM totals WHERE state = 'leased' AND jobs > 0)";
    db.execute(sql, [])
}

/// Cancels a job; returns its earlier state. `None` if there is no such job of the principal.
pub fn cancel(
    db: &Connection,
    id: JobId,
    principal: Option<Principal>,
    now: Millis,
) -> SqlResult<Option<JobState>> {
    let found = db
        .prepare_cached("SELECT seq, state, principal FROM jobs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Principal>(2)?)))
        .optional()?;
    let Some((seq, state, owner)) = found else { return Ok(None) };
    if principal.is_some_and(|principal| principal != owner) {
        return Ok(None);
    }
    let state: JobState = state;
    if !state.is_final() {
        let sql =
            "UPDATE jobs SET state = 'cancelled', finished = ?2, forget = ?2 + keep, due = NULL
                   WHERE seq = ?1";
        db.prepare_cached(sql)?.execute(params![seq, now])?;
        queue_callback(db, seq, now)?;
    }
    Ok(Some(state))
}

/// Makes a dead or waiting job ready. Returns its earlier state and its partition.
pub fn retry(db: &Connection, id: JobId, now: Millis) -> SqlResult<Option<(JobState, Partition)>> {
    let found = db
        .prepare_cached("SELECT queue, route, class, state FROM jobs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(3)?, partition(row)?)))
        .optional()?;
    let Some((state, partition)) = found else { return Ok(None) };
    if matches!(state, JobState::Dead | JobState::RetryWait) {
        make_ready(db, "id = ?2", now, &id)?;
    }
    Ok(Some((state, partition)))
}

/// Makes a batch of dead jobs of a queue ready. Returns their number and their partitions.
pub fn requeue(db: &Connection, queue: &str, now: Millis) -> SqlResult<(usize, Vec<Partition>)> {
    make_ready(
        db,
        &format!("seq IN (SELECT seq FROM jobs WHERE queue = ?2 AND state = 'dead' LIMIT {BATCH})"),
        now,
        &queue,
    )
}

fn make_ready(
    db: &Connection,
    condition: &str,
    now: Millis,
    value: &dyn rusqlite::ToSql,
) -> SqlResult<(usize, Vec<Partition>)> {
    // An expired lifetime starts again.
    let sql = format!(
        "UPDATE jobs SET state = 'ready', due = NULL, finished = NULL, forget = NULL,
           expires = max(expires, ?1 + (expires - accepted)),
           attempts = iif(state = 'dead', 0, attempts),
           deliveries = iif(state = 'dead', 0, deliveries)
         WHERE {condition} AND state IN ('dead', 'retry_wait')
         RETURNING seq, queue, route, class"
    );
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>("seq")?, partition(row)?));
    let moved: Vec<(i64, Partition)> =
        db.prepare(&sql)?.query_map(params![now, value], row)?.collect::<SqlResult<_>>()?;
    // Only the next result is posted, not that the job was dead.
    let reset = "UPDATE callbacks SET state = 'none', attempts = 0, due = NULL WHERE seq = ?1";
    let mut reset = db.prepare_cached(reset)?;
    for (seq, _) in &moved {
        reset.execute([seq])?;
    }
    let count = moved.len();
    Ok((count, distinct(moved.into_iter().map(|(_, partition)| partition).collect())))
}

/// Deletes a batch of final jobs of a queue. Returns their number.
pub fn purge(db: &Connection, queue: &str, state: JobState) -> SqlResult<usize> {
    if !state.is_final() {
        return Ok(0);
    }
    let sql = format!(
        "DELETE FROM jobs WHERE seq IN
           (SELECT seq FROM jobs WHERE queue = ?1 AND state = ?2 LIMIT {BATCH})"
    );
    db.prepare_cached(&sql)?.execute(params![queue, state])
}

/// Makes the transitions that time causes: expires, wakes and deletes jobs, and deletes keys.
pub fn upkeep(db: &Connection, now: Millis) -> SqlResult<UpkeepReport> {
    let expire = format!(
        "UPDATE jobs SET state = 'expired', finished = ?1, forget = ?1 + keep, due = NULL
         WHERE seq IN (SELECT seq FROM jobs
           WHERE state IN ('ready', 'retry_wait') AND expires <= ?1 LIMIT {BATCH})
         RETURNING seq, id"
    );
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
    let expired: Vec<(i64, JobId)> =
        db.prepare_cached(&expire)?.query_map([now], row)?.collect::<SqlResult<_>>()?;
    for (seq, _) in &expired {
        queue_callback(db, *seq, now)?;
    }
    let wake = format!(
        "UPDATE jobs SET state = 'ready', due = NULL WHERE seq IN
           (SELECT seq FROM jobs WHERE state = 'retry_wait' AND due <= ?1 ORDER BY due LIMIT {BATCH})
         RETURNING queue, route, class"
    );
    let woken: Vec<Partition> =
        db.prepare_cached(&wake)?.query_map([now], partition)?.collect::<SqlResult<_>>()?;
    let delete = format!(
        "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE forget <= ?1 LIMIT {BATCH})"
    );
    let jobs = db.prepare_cached(&delete)?.execute([now])?;
    let delete = format!(
        "DELETE FROM keys WHERE (principal, key) IN
           (SELECT principal, key FROM keys WHERE forget <= ?1 LIMIT {BATCH})"
    );
    let keys = db.prepare_cached(&delete)?.execute([now])?;
    let next = "SELECT min(due) FROM jobs WHERE state = 'retry_wait'";
    let next_due = db.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    Ok(UpkeepReport {
        more: [expired.len(), woken.len(), jobs, keys].contains(&BATCH),
        expired: expired.into_iter().map(|(_, id)| id).collect(),
        woken: distinct(woken),
        deleted: jobs + keys,
        next_due,
    })
}

/// The job is final: its result is to be posted, if it has a callback.
pub(super) fn queue_callback(db: &Connection, seq: i64, now: Millis) -> SqlResult<()> {
    let sql = "UPDATE callbacks SET state = 'waiting', attempts = 0, due = ?2 WHERE seq = ?1";
    db.prepare_cached(sql)?.execute(params![seq, now]).map(|_| ())
}

/// Records an attempt to post a result.
pub fn record_callback(
    db: &Connection,
    callback: &PendingCallback,
    result: CallbackResult,
) -> SqlResult<()> {
    let (state, due) = match result {
        CallbackResult::Sent => (CallbackState::Sent, None),
        CallbackResult::RetryAt(at) => (CallbackState::Waiting, Some(at)),
        CallbackResult::GivenUp => (CallbackState::GivenUp, None),
    };
    // If the job ran again meanwhile, `due` differs: its new result is not posted yet.
    let sql = "UPDATE callbacks SET state = ?2, attempts = ?3, due = ?4
               WHERE seq = ?1 AND state = 'waiting' AND due = ?5";
    db.prepare_cached(sql)?
        .execute(params![callback.seq, state, callback.attempts + 1, due, callback.due])
        .map(|_| ())
}

pub(super) fn partition(row: &Row<'_>) -> SqlResult<Partition> {
    Ok(Partition { queue: row.get("queue")?, route: row.get("route")?, class: row.get("class")? })
}

fn distinct(mut partitions: Vec<Partition>) -> Vec<Partition> {
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}
