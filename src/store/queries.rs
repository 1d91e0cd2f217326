//! Queries of stored jobs.

use std::collections::HashSet;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params, params_from_iter};

use super::job::{
    CallbackState, JobCallback, JobId, JobRecord, JobState, Millis, PendingCallback, ReadyJob,
    RunnableJob, StoredRequest, StoredResponse,
};
use super::transitions::{Partition, partition};

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub queue: Option<String>,
    pub state: Option<JobState>,
    /// Only jobs with a lower sequence number.
    pub before: Option<i64>,
    pub limit: usize,
}

/// Where a lookup of the next jobs starts.
#[derive(Clone, Debug, Default)]
pub struct UpcomingCursor {
    /// The flow that was served last.
    pub after_flow: Option<Vec<u8>>,
    /// Only jobs with a higher sequence number.
    pub after_seq: i64,
}

/// The number of jobs of a queue in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTotal {
    pub queue: String,
    pub state: JobState,
    pub jobs: u64,
    pub bytes: u64,
}

const RECORD: &str = "SELECT j.*, r.method, r.uri, c.url AS callback, c.state AS callback_state,
    c.attempts AS callback_attempts FROM jobs j JOIN requests r USING (seq) LEFT JOIN callbacks c USING (seq)";

pub fn job(db: &Connection, id: JobId) -> SqlResult<Option<JobRecord>> {
    db.prepare_cached(&format!("{RECORD} WHERE j.id = ?1"))?.query_row([id], record).optional()
}

/// Jobs, the newest first.
pub fn list(db: &Connection, filter: &JobFilter) -> SqlResult<Vec<JobRecord>> {
    // One transaction for all reads, so that a job that changes meanwhile appears once.
    let _transaction = db.unchecked_transaction()?;
    let mut statement = db.prepare_cached(&format!("{RECORD} WHERE j.seq = ?1"))?;
    let newest = newest(db, filter)?.into_iter();
    newest.map(|seq| statement.query_row([seq], record)).collect()
}

/// Each combination of queue and state is read by the index, newest first, up to the limit. Of a
/// million jobs that do not match, none is read.
fn newest(db: &Connection, filter: &JobFilter) -> SqlResult<Vec<i64>> {
    let before = filter.before.unwrap_or(i64::MAX);
    if filter.queue.is_none() && filter.state.is_none() {
        let sql = "SELECT seq FROM jobs WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
        let mut all = db.prepare_cached(sql)?;
        return all.query_map(params![before, filter.limit], |row| row.get(0))?.collect();
    }
    let mut totals = db.prepare_cached(
        "SELECT queue, state FROM totals
         WHERE jobs > 0 AND (?1 IS NULL OR queue = ?1) AND (?2 IS NULL OR state = ?2)",
    )?;
    let mut jobs = db.prepare_cached(
        "SELECT seq FROM jobs WHERE queue = ?1 AND state = ?2 AND seq < ?3
         ORDER BY seq DESC LIMIT ?4",
    )?;
    let mut found: Vec<i64> = Vec::new();
    let mut rows = totals.query(params![filter.queue, filter.state])?;
    while let Some(row) = rows.next()? {
        let (queue, state): (String, JobState) = (row.get(0)?, row.get(1)?);
        let of = params![queue, state, before, filter.limit];
        for seq in jobs.query_map(of, |row| row.get(0))? {
            found.push(seq?);
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(filter.limit);
    Ok(found)
}

fn record(row: &Row<'_>) -> SqlResult<JobRecord> {
    let callback = |url| {
        Ok::<_, rusqlite::Error>(JobCallback {
            url,
            state: row.get("callback_state")?,
            attempts: row.get("callback_attempts")?,
        })
    };
    Ok(JobRecord {
        seq: row.get("seq")?,
        id: row.get("id")?,
        queue: row.get("queue")?,
        route: row.get("route")?,
        class: row.get("class")?,
        state: row.get("state")?,
        method: row.get("method")?,
        uri: row.get("uri")?,
        bytes: row.get("bytes")?,
        attempts: row.get("attempts")?,
        deliveries: row.get("deliveries")?,
        accepted: row.get("accepted")?,
        due: row.get("due")?,
        expires: row.get("expires")?,
        finished: row.get("finished")?,
        error: row.get("error")?,
        callback: row.get::<_, Option<String>>("callback")?.map(callback).transpose()?,
        principal: row.get("principal")?,
    })
}

/// Everything that a run of a ready job needs.
pub fn runnable_job(db: &Connection, seq: i64) -> SqlResult<Option<RunnableJob>> {
    db.prepare_cached(
        "SELECT j.*, r.method, r.uri, r.headers, r.body
         FROM jobs j JOIN requests r USING (seq) WHERE j.seq = ?1 AND j.state = 'ready'",
    )?
    .query_row([seq], |row| {
        Ok(RunnableJob {
            seq,
            id: row.get("id")?,
            flow: row.get("flow")?,
            request: stored_request(row)?,
            attempts: row.get("attempts")?,
            deliveries: row.get("deliveries")?,
            accepted: row.get("accepted")?,
            expires: row.get("expires")?,
        })
    })
    .optional()
}

pub fn stored_request(row: &Row<'_>) -> SqlResult<StoredRequest> {
    Ok(StoredRequest {
        method: row.get("method")?,
        uri: row.get("uri")?,
        headers: row.get("headers")?,
        body: row.get::<_, Vec<u8>>("body")?.into(),
    })
}

pub fn response(db: &Connection, seq: i64) -> SqlResult<Option<StoredResponse>> {
    db.prepare_cached("SELECT status, headers, body, cut FROM results WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok(StoredResponse {
                status: row.get(0)?,
                headers: row.get(1)?,
                body: row.get::<_, Vec<u8>>(2)?.into(),
                cut: row.get(3)?,
            })
        })
        .optional()
}

/// Partitions with ready jobs. The index leads from one to the next, however many jobs they have.
pub fn partitions(db: &Connection) -> SqlResult<Vec<Partition>> {
    let mut partitions: Vec<Partition> = Vec::new();
    while let Some(partition) = partition_after(db, partitions.last())? {
        partitions.push(partition);
    }
    Ok(partitions)
}

/// One column at a time: for `(queue, route, class) > (..)` SQLite would seek to the current partition
/// and read all of it.
fn partition_after(db: &Connection, at: Option<&Partition>) -> SqlResult<Option<Partition>> {
    let at = at.map_or(["", "", ""], |at| [&at.queue, &at.route, &at.class]);
    let steps =
        ["queue = ?1 AND route = ?2 AND class > ?3", "queue = ?1 AND route > ?2", "queue > ?1"];
    for (step, values) in steps.into_iter().zip([3, 2, 1]) {
        let sql = format!(
            "SELECT queue, route, class FROM jobs WHERE state = 'ready' AND {step}
             ORDER BY queue, route, class LIMIT 1"
        );
        let values = params_from_iter(&at[..values]);
        let found = db.prepare_cached(&sql)?.query_row(values, partition).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The next jobs of a partition, in the order in which they are to run: its flows in turn, from the
/// one after the cursor's, and the oldest job of a flow first. Jobs in `active` are left out. It reads
/// no more than `want` plus the number of active jobs, however many flows there are.
pub fn upcoming(
    db: &Connection,
    partition: &Partition,
    cursor: &UpcomingCursor,
    active: &HashSet<i64>,
    want: usize,
) -> SqlResult<Vec<(Vec<u8>, ReadyJob)>> {
    // One transaction for all reads, so that each flow is visited once.
    let _transaction = db.unchecked_transaction()?;
    let mut round = heads(db, partition, cursor, active, want)?;
    let mut all = round.clone();
    while !round.is_empty() && all.len() < want {
        let mut following = Vec::new();
        for (flow, last) in round {
            if all.len() + following.len() == want {
                break;
            }
            if let Some(due) = oldest_inactive(db, partition, &flow, last.seq, active)? {
                following.push((flow, due));
            }
        }
        all.extend_from_slice(&following);
        round = following;
    }
    Ok(all)
}

/// The oldest inactive job of each flow, in the order of the flows' turns.
fn heads(
    db: &Connection,
    partition: &Partition,
    cursor: &UpcomingCursor,
    active: &HashSet<i64>,
    want: usize,
) -> SqlResult<Vec<(Vec<u8>, ReadyJob)>> {
    let mut heads = Vec::new();
    let mut first: Option<Vec<u8>> = None;
    let mut at = cursor.after_flow.clone();
    while heads.len() < want {
        let Some(flow) = flow_after(db, partition, at.as_deref())? else { break };
        if first.as_ref() == Some(&flow) {
            break;
        }
        first.get_or_insert_with(|| flow.clone());
        if let Some(due) = oldest_inactive(db, partition, &flow, cursor.after_seq, active)? {
            heads.push((flow.clone(), due));
        }
        at = Some(flow);
    }
    Ok(heads)
}

/// The next flow with a ready job; the first one follows the last.
fn flow_after(
    db: &Connection,
    partition: &Partition,
    at: Option<&[u8]>,
) -> SqlResult<Option<Vec<u8>>> {
    let (queue, route, class) = (&partition.queue, &partition.route, &partition.class);
    if let Some(at) = at {
        let mut next = db.prepare_cached(
            "SELECT flow FROM jobs WHERE state = 'ready' AND queue = ?1 AND route = ?2
               AND class = ?3 AND flow > ?4 ORDER BY flow LIMIT 1",
        )?;
        let beyond =
            next.query_row(params![queue, route, class, at], |row| row.get(0)).optional()?;
        if beyond.is_some() {
            return Ok(beyond);
        }
    }
    let mut first = db.prepare_cached(
        "SELECT flow FROM jobs WHERE state = 'ready' AND queue = ?1 AND route = ?2 AND class = ?3
         ORDER BY flow LIMIT 1",
    )?;
    first.query_row([queue, route, class], |row| row.get(0)).optional()
}

/// The oldest job of a flow that is not active and has a higher sequence number than `after`.
fn oldest_inactive(
    db: &Connection,
    partition: &Partition,
    flow: &[u8],
    after: i64,
    active: &HashSet<i64>,
) -> SqlResult<Option<ReadyJob>> {
    let mut statement = db.prepare_cached(
        "SELECT seq, id FROM jobs WHERE state = 'ready' AND queue = ?1 AND route = ?2
           AND class = ?3 AND flow = ?4 AND seq > ?5 ORDER BY seq",
    )?;
    let row = |row: &Row<'_>| Ok(ReadyJob { seq: row.get(0)?, id: row.get(1)? });
    let mut found = statement
        .query_map(params![partition.queue, partition.route, partition.class, flow, after], row)?;
    found.find(|job| job.as_ref().map_or(true, |job| !active.contains(&job.seq))).transpose()
}

pub fn totals(db: &Connection) -> SqlResult<Vec<QueueTotal>> {
    let sql = "SELECT queue, state, jobs, bytes FROM totals WHERE jobs > 0";
    let row = |row: &Row<'_>| {
        Ok(QueueTotal {
            queue: row.get(0)?,
            state: row.get(1)?,
            jobs: row.get(2)?,
            bytes: row.get(3)?,
        })
    };
    db.prepare_cached(sql)?.query_map([], row)?.collect()
}

/// When the oldest ready job of a queue was accepted.
pub fn oldest(db: &Connection, queue: &str) -> SqlResult<Option<Millis>> {
    let sql = "SELECT accepted FROM jobs WHERE queue = ?1 AND state = 'ready' ORDER BY seq LIMIT 1";
    db.prepare_cached(sql)?.query_row([queue], |row| row.get(0)).optional()
}

/// Callbacks that are due now, and when the next one is.
pub fn due_callbacks(
    db: &Connection,
    now: Millis,
) -> SqlResult<(Vec<PendingCallback>, Option<Millis>)> {
    let mut statement = db.prepare_cached(
        "SELECT c.seq, j.id, j.queue, c.url, c.attempts, c.due FROM callbacks c JOIN jobs j USING (seq)
         WHERE c.state = 'waiting' AND c.due <= ?1 ORDER BY c.due LIMIT 64",
    )?;
    let row = |row: &Row<'_>| {
        Ok(PendingCallback {
            seq: row.get(0)?,
            id: row.get(1)?,
            queue: row.get(2)?,
            url: row.get(3)?,
            attempts: row.get(4)?,
            due: row.get(5)?,
        })
    };
    let due = statement.query_map([now], row)?.collect::<SqlResult<Vec<_>>>()?;
    let next = "SELECT min(due) FROM callbacks WHERE state = 'waiting' AND due > ?1";
    let next = db.prepare_cached(next)?.query_row([now], |row| row.get(0))?;
    Ok((due, next))
}

/// A value that was created together with the store.
pub fn note<const N: usize>(db: &Connection, name: &str) -> SqlResult<[u8; N]> {
    db.query_row("SELECT value FROM notes WHERE name = ?1", [name], |row| row.get(0))
}

// === values in columns ===

impl ToSql for JobId {
    fn to_sql(&self) -> SqlResult<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.0)))
    }
}

impl FromSql for JobId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(JobId)
    }
}

impl ToSql for Millis {
    fn to_sql(&self) -> SqlResult<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0))
    }
}

impl FromSql for Millis {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Millis)
    }
}

impl ToSql for CallbackState {
    fn to_sql(&self) -> SqlResult<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for CallbackState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        CallbackState::from_word(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for JobState {
    fn to_sql(&self) -> SqlResult<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        JobState::from_word(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}
