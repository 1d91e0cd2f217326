//! The states of a job and who may change them (QUEUE.md "States"). Each guard stands in the
//! statement that changes, so that nothing can come between.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::job::{
    EnqueueResult, IdempotencyKey, JobId, JobState, Millis, NewJob, PendingCallback, Principal,
    QueueFull, QueueLimits, RunLease, StoredResponse,
};

/// How long an `Idempotency-Key` stands for its request.
const KEY: Duration = Duration::from_secs(86_400);
/// Rows that one upkeep changes: others want to write too.
const AT_ONCE: usize = 500;

type Made<T> = rusqlite::Result<T>;

/// What a failure is followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Another run, then.
    Again(Millis),
    Dead,
}

/// What a try to lease a job gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseResult {
    Run(RunLease),
    /// It was begun so often without an end that it is dead now.
    Poison(JobId),
    /// It is no longer ready: cancelled, expired, or run already.
    Gone,
}

/// A queue's jobs of one class on one route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub queue: String,
    pub route: String,
    pub class: String,
}

/// What upkeep found.
#[derive(Clone, Debug, Default)]
pub struct UpkeepReport {
    /// Those whose time passed.
    pub expired: Vec<JobId>,
    /// Where jobs are ready again.
    pub woken: Vec<Partition>,
    /// Results and keys that nobody may ask for any longer.
    pub forgotten: usize,
    /// When the next waits end.
    pub next_due: Option<Millis>,
    /// There was more to do than is done at once.
    pub more: bool,
}

/// Takes a job in, unless its key is known or its queue is full.
pub fn accept(
    db: &Connection,
    job: &NewJob,
    limits: QueueLimits,
    now: Millis,
) -> Made<EnqueueResult> {
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
) -> Made<Option<EnqueueResult>> {
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

fn insert(db: &Connection, job: &NewJob, now: Millis) -> Made<()> {
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
        db.prepare_cached("INSERT OR REPLACE INTO keys VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![job.principal, key.text, key.fingerprint, job.id, now.after(KEY)])?;
    }
    Ok(())
}

/// Begins a run. `most`: runs that a job may have; `begun`: those that it had elsewhere too.
pub fn lease(db: &Connection, seq: i64, most: u32, begun: u32, now: Millis) -> Made<LeaseResult> {
    let leased = db
        .prepare_cached(
            "UPDATE jobs SET state = 'leased', lease = lease + 1,
               deliveries = max(deliveries, ?4) + 1
             WHERE seq = ?1 AND state = 'ready' AND expires > ?2 AND max(deliveries, ?4) < ?3
             RETURNING lease, deliveries",
        )?
        .query_row(params![seq, now, most, begun], |row| {
            Ok(RunLease { seq, number: row.get(0)?, deliveries: row.get(1)? })
        })
        .optional()?;
    if let Some(lease) = leased {
        return Ok(LeaseResult::Run(lease));
    }
    let poison = db
        .prepare_cached(
            "UPDATE jobs SET state = 'dead', finished = ?2, forget = ?2 + keep,
               error = coalesce(error, 'it was begun ' || max(deliveries, ?3) || ' times without an end')
             WHERE seq = ?1 AND state = 'ready' AND expires > ?2 RETURNING id",
        )?
        .query_row(params![seq, now, begun], |row| row.get(0))
        .optional()?;
    if poison.is_some() {
        call_back(db, seq, now)?;
    }
    Ok(poison.map_or(LeaseResult::Gone, LeaseResult::Poison))
}

/// Ends a run with an answer; false where the lease no longer holds.
pub fn complete(
    db: &Connection,
    lease: RunLease,
    answer: &StoredResponse,
    now: Millis,
) -> Made<bool> {
    let done = db
        .prepare_cached(
            "UPDATE jobs SET state = 'done', finished = ?3, forget = ?3 + keep, error = NULL
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, now])?;
    if done == 1 {
        result(db, lease.seq, answer)?;
        call_back(db, lease.seq, now)?;
    }
    Ok(done == 1)
}

pub(super) fn result(db: &Connection, seq: i64, answer: &StoredResponse) -> Made<()> {
    let StoredResponse { status, headers, body, cut } = answer;
    db.prepare_cached("INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![seq, status, headers, body.as_ref(), cut])
        .map(|_| ())
}

/// Ends a run without one; false where the lease no longer holds.
pub fn fail(
    db: &Connection,
    lease: RunLease,
    why: &str,
    then: AfterFailure,
    now: Millis,
) -> Made<bool> {
    let (state, due, finished) = match then {
        AfterFailure::Again(due) => (JobState::RetryWait, Some(due), None),
        AfterFailure::Dead => (JobState::Dead, None, Some(now)),
    };
    let changed = db
        .prepare_cached(
            "UPDATE jobs SET state = ?3, attempts = attempts + 1, due = ?4, error = ?5,
               finished = ?6, forget = ?6 + keep
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, state, due, why, finished])?;
    if changed == 1 && state == JobState::Dead {
        call_back(db, lease.seq, now)?;
    }
    Ok(changed == 1)
}

/// Takes a run back that was none: nothing was sent, or the provider asked to wait.
pub fn park(db: &Connection, lease: RunLease, due: Option<Millis>) -> Made<bool> {
    let state = if due.is_some() { JobState::RetryWait } else { JobState::Ready };
    let changed = db
        .prepare_cached(
            "UPDATE jobs SET state = ?3, due = ?4, deliveries = deliveries - 1
             WHERE seq = ?1 AND lease = ?2 AND state = 'leased'",
        )?
        .execute(params![lease.seq, lease.number, state, due])?;
    Ok(changed == 1)
}

/// At start: whatever was being run then is ready again, at its old place. Gives how many.
pub fn recover(db: &Connection) -> Made<usize> {
    // The queue is named for the index's sake: a start reads no job that was not being run.
    let sql = "UPDATE jobs SET state = 'ready' WHERE state = 'leased'
               AND queue IN (SELECT queue FROM totals WHERE state = 'leased' AND jobs > 0)";
    db.execute(sql, [])
}

/// Ends a job by hand; gives where it stood. `None` where there is none such.
pub fn cancel(
    db: &Connection,
    id: JobId,
    principal: Option<Principal>,
    now: Millis,
) -> Made<Option<JobState>> {
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
        call_back(db, seq, now)?;
    }
    Ok(Some(state))
}

/// Runs a job again that is dead, or at once one that waits. Gives where it stood, and its line.
pub fn retry(db: &Connection, id: JobId, now: Millis) -> Made<Option<(JobState, Partition)>> {
    let found = db
        .prepare_cached("SELECT queue, route, class, state FROM jobs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(3)?, line(row)?)))
        .optional()?;
    let Some((state, line)) = found else { return Ok(None) };
    if matches!(state, JobState::Dead | JobState::RetryWait) {
        again(db, "id = ?2", now, &id)?;
    }
    Ok(Some((state, line)))
}

/// The same for the dead of a queue, some at once. Gives how many, and their lines.
pub fn requeue(db: &Connection, queue: &str, now: Millis) -> Made<(usize, Vec<Partition>)> {
    again(
        db,
        &format!(
            "seq IN (SELECT seq FROM jobs WHERE queue = ?2 AND state = 'dead' LIMIT {AT_ONCE})"
        ),
        now,
        &queue,
    )
}

fn again(
    db: &Connection,
    which: &str,
    now: Millis,
    value: &dyn rusqlite::ToSql,
) -> Made<(usize, Vec<Partition>)> {
    // Its time begins anew where it had ended.
    let sql = format!(
        "UPDATE jobs SET state = 'ready', due = NULL, finished = NULL, forget = NULL,
           expires = max(expires, ?1 + (expires - accepted)),
           attempts = iif(state = 'dead', 0, attempts),
           deliveries = iif(state = 'dead', 0, deliveries)
         WHERE {which} AND state IN ('dead', 'retry_wait')
         RETURNING seq, queue, route, class"
    );
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>("seq")?, line(row)?));
    let moved: Vec<(i64, Partition)> =
        db.prepare(&sql)?.query_map(params![now, value], row)?.collect::<Made<_>>()?;
    // That it was dead is no longer news: what is posted is how it ends now.
    let unpost = "UPDATE callbacks SET state = 'none', attempts = 0, due = NULL WHERE seq = ?1";
    let mut unpost = db.prepare_cached(unpost)?;
    for (seq, _) in &moved {
        unpost.execute([seq])?;
    }
    let many = moved.len();
    Ok((many, distinct(moved.into_iter().map(|(_, line)| line).collect())))
}

/// Forgets jobs of a queue that are over, some at once. Gives how many.
pub fn purge(db: &Connection, queue: &str, state: JobState) -> Made<usize> {
    if !state.is_final() {
        return Ok(0);
    }
    let sql = format!(
        "DELETE FROM jobs WHERE seq IN
           (SELECT seq FROM jobs WHERE queue = ?1 AND state = ?2 LIMIT {AT_ONCE})"
    );
    db.prepare_cached(&sql)?.execute(params![queue, state])
}

/// What time alone does to jobs.
pub fn upkeep(db: &Connection, now: Millis) -> Made<UpkeepReport> {
    let expire = format!(
        "UPDATE jobs SET state = 'expired', finished = ?1, forget = ?1 + keep, due = NULL
         WHERE seq IN (SELECT seq FROM jobs
           WHERE state IN ('ready', 'retry_wait') AND expires <= ?1 LIMIT {AT_ONCE})
         RETURNING seq, id"
    );
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
    let expired: Vec<(i64, JobId)> =
        db.prepare_cached(&expire)?.query_map([now], row)?.collect::<Made<_>>()?;
    for (seq, _) in &expired {
        call_back(db, *seq, now)?;
    }
    let wake = format!(
        "UPDATE jobs SET state = 'ready', due = NULL WHERE seq IN
           (SELECT seq FROM jobs WHERE state = 'retry_wait' AND due <= ?1 ORDER BY due LIMIT {AT_ONCE})
         RETURNING queue, route, class"
    );
    let woken: Vec<Partition> =
        db.prepare_cached(&wake)?.query_map([now], line)?.collect::<Made<_>>()?;
    let forget = format!(
        "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE forget <= ?1 LIMIT {AT_ONCE})"
    );
    let jobs = db.prepare_cached(&forget)?.execute([now])?;
    let forget = format!(
        "DELETE FROM keys WHERE (principal, key) IN
           (SELECT principal, key FROM keys WHERE forget <= ?1 LIMIT {AT_ONCE})"
    );
    let keys = db.prepare_cached(&forget)?.execute([now])?;
    let next = "SELECT min(due) FROM jobs WHERE state = 'retry_wait'";
    let next_due = db.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    Ok(UpkeepReport {
        more: [expired.len(), woken.len(), jobs, keys].contains(&AT_ONCE),
        expired: expired.into_iter().map(|(_, id)| id).collect(),
        woken: distinct(woken),
        forgotten: jobs + keys,
        next_due,
    })
}

/// The job is over: its result is to be posted, where somebody wanted that.
pub(super) fn call_back(db: &Connection, seq: i64, now: Millis) -> Made<()> {
    let sql = "UPDATE callbacks SET state = 'waiting', attempts = 0, due = ?2 WHERE seq = ?1";
    db.prepare_cached(sql)?.execute(params![seq, now]).map(|_| ())
}

/// Notes that a result was posted, is to be tried again then, or is given up.
pub fn posted(
    db: &Connection,
    posting: &PendingCallback,
    again: Option<Millis>,
    sent: bool,
) -> Made<()> {
    let state = match (sent, again) {
        (true, _) => "sent",
        (false, Some(_)) => "waiting",
        (false, None) => "given_up",
    };
    // The job may have been run again meanwhile: its new end is not posted yet.
    let sql = "UPDATE callbacks SET state = ?2, attempts = ?3, due = ?4
               WHERE seq = ?1 AND state = 'waiting' AND due = ?5";
    db.prepare_cached(sql)?
        .execute(params![posting.seq, state, posting.attempts + 1, again, posting.due])
        .map(|_| ())
}

pub(super) fn line(row: &Row<'_>) -> Made<Partition> {
    Ok(Partition { queue: row.get("queue")?, route: row.get("route")?, class: row.get("class")? })
}

fn distinct(mut lines: Vec<Partition>) -> Vec<Partition> {
    lines.sort_unstable();
    lines.dedup();
    lines
}
