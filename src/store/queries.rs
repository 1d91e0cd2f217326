//! What can be asked of the jobs that are kept.

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::job::{
    CallbackStatus, JobId, JobRecord, JobState, Millis, PendingCallback, ReadyJob, RunnableJob,
    StoredRequest, StoredResponse,
};
use super::transitions::{Partition, line};

type Made<T> = rusqlite::Result<T>;

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub queue: Option<String>,
    pub state: Option<JobState>,
    /// Only those that came before this one.
    pub before: Option<i64>,
    pub limit: usize,
}

/// How many jobs of a queue stand where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTotal {
    pub queue: String,
    pub state: JobState,
    pub jobs: u64,
    pub bytes: u64,
}

const SHOWN: &str = "SELECT j.*, r.method, r.uri, c.url AS callback, c.state AS posted,
    c.attempts AS posts FROM jobs j JOIN requests r USING (seq) LEFT JOIN callbacks c USING (seq)";

pub fn job(db: &Connection, id: JobId) -> Made<Option<JobRecord>> {
    db.prepare_cached(&format!("{SHOWN} WHERE j.id = ?1"))?.query_row([id], shown).optional()
}

/// Jobs, the newest first.
pub fn list(db: &Connection, filter: &JobFilter) -> Made<Vec<JobRecord>> {
    // One view for all that is read: a job that moves meanwhile is told once.
    let _view = db.unchecked_transaction()?;
    let mut statement = db.prepare_cached(&format!("{SHOWN} WHERE j.seq = ?1"))?;
    let newest = newest(db, filter)?.into_iter();
    newest.map(|seq| statement.query_row([seq], shown)).collect()
}

/// Each place is read by the index, newest first, and no further than is wanted: of a million jobs
/// that do not match, none is read.
fn newest(db: &Connection, filter: &JobFilter) -> Made<Vec<i64>> {
    let before = filter.before.unwrap_or(i64::MAX);
    if filter.queue.is_none() && filter.state.is_none() {
        let sql = "SELECT seq FROM jobs WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
        let mut all = db.prepare_cached(sql)?;
        return all.query_map(params![before, filter.limit], |row| row.get(0))?.collect();
    }
    let mut places = db.prepare_cached(
        "SELECT queue, state FROM totals
         WHERE jobs > 0 AND (?1 IS NULL OR queue = ?1) AND (?2 IS NULL OR state = ?2)",
    )?;
    let mut place = db.prepare_cached(
        "SELECT seq FROM jobs WHERE queue = ?1 AND state = ?2 AND seq < ?3
         ORDER BY seq DESC LIMIT ?4",
    )?;
    let mut found: Vec<i64> = Vec::new();
    let mut rows = places.query(params![filter.queue, filter.state])?;
    while let Some(row) = rows.next()? {
        let (queue, state): (String, JobState) = (row.get(0)?, row.get(1)?);
        let of = params![queue, state, before, filter.limit];
        for seq in place.query_map(of, |row| row.get(0))? {
            found.push(seq?);
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(filter.limit);
    Ok(found)
}

fn shown(row: &Row<'_>) -> Made<JobRecord> {
    let callback = |url| {
        Ok::<_, rusqlite::Error>(CallbackStatus {
            url,
            state: row.get("posted")?,
            attempts: row.get("posts")?,
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

/// All that a run of a ready job needs.
pub fn task(db: &Connection, seq: i64) -> Made<Option<RunnableJob>> {
    db.prepare_cached(
        "SELECT j.*, r.method, r.uri, r.headers, r.body
         FROM jobs j JOIN requests r USING (seq) WHERE j.seq = ?1 AND j.state = 'ready'",
    )?
    .query_row([seq], |row| {
        Ok(RunnableJob {
            seq,
            id: row.get("id")?,
            route: row.get("route")?,
            class: row.get("class")?,
            flow: row.get("flow")?,
            request: StoredRequest {
                method: row.get("method")?,
                uri: row.get("uri")?,
                headers: row.get("headers")?,
                body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
            },
            attempts: row.get("attempts")?,
            deliveries: row.get("deliveries")?,
            accepted: row.get("accepted")?,
            expires: row.get("expires")?,
        })
    })
    .optional()
}

pub fn answer(db: &Connection, seq: i64) -> Made<Option<StoredResponse>> {
    db.prepare_cached("SELECT status, headers, body, cut FROM results WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok(StoredResponse {
                status: row.get(0)?,
                headers: row.get(1)?,
                body: Bytes::from(row.get::<_, Vec<u8>>(2)?),
                cut: row.get(3)?,
            })
        })
        .optional()
}

/// Where jobs are ready: from line to line by the index, however many jobs lie in between.
pub fn lines(db: &Connection) -> Made<Vec<Partition>> {
    let mut lines: Vec<Partition> = Vec::new();
    while let Some(line) = line_after(db, lines.last())? {
        lines.push(line);
    }
    Ok(lines)
}

/// One step at a time: by `(queue, route, class) > (..)` SQLite would seek to the line that it was
/// to leave, and read all of it.
fn line_after(db: &Connection, at: Option<&Partition>) -> Made<Option<Partition>> {
    let at = at.map_or(["", "", ""], |at| [&at.queue, &at.route, &at.class]);
    let steps =
        ["queue = ?1 AND route = ?2 AND class > ?3", "queue = ?1 AND route > ?2", "queue > ?1"];
    for (step, values) in steps.into_iter().zip([3, 2, 1]) {
        let sql = format!(
            "SELECT queue, route, class FROM jobs WHERE state = 'ready' AND {step}
             ORDER BY queue, route, class LIMIT 1"
        );
        let values = params_from_iter(&at[..values]);
        let found = db.prepare_cached(&sql)?.query_row(values, line).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The next jobs of a line, in the order in which they are to be run: its flows in turn, from the
/// one after `after`, and in a flow the oldest first; none of `taken`, and none that is not newer
/// than `behind`. However many flows there are, no more is read than `want` and `taken`.
pub fn upcoming(
    db: &Connection,
    line: &Partition,
    (after, behind): (Option<&[u8]>, i64),
    taken: &HashSet<i64>,
    want: usize,
) -> Made<Vec<(Vec<u8>, ReadyJob)>> {
    // One view for all that is read: the flows are walked round once.
    let _view = db.unchecked_transaction()?;
    let mut round = heads(db, line, (after, behind), taken, want)?;
    let mut all = round.clone();
    while !round.is_empty() && all.len() < want {
        let mut following = Vec::new();
        for (flow, last) in round {
            if all.len() + following.len() == want {
                break;
            }
            if let Some(due) = free(db, line, &flow, last.seq, taken)? {
                following.push((flow, due));
            }
        }
        all.extend_from_slice(&following);
        round = following;
    }
    Ok(all)
}

/// The first free job of each flow, in the order of the flows' turns.
fn heads(
    db: &Connection,
    line: &Partition,
    (after, behind): (Option<&[u8]>, i64),
    taken: &HashSet<i64>,
    want: usize,
) -> Made<Vec<(Vec<u8>, ReadyJob)>> {
    let mut heads = Vec::new();
    let mut begun: Option<Vec<u8>> = None;
    let mut at = after.map(<[u8]>::to_vec);
    while heads.len() < want {
        let Some(flow) = flow_after(db, line, at.as_deref())? else { break };
        if begun.as_ref() == Some(&flow) {
            break;
        }
        begun.get_or_insert_with(|| flow.clone());
        if let Some(due) = free(db, line, &flow, behind, taken)? {
            heads.push((flow.clone(), due));
        }
        at = Some(flow);
    }
    Ok(heads)
}

/// The next flow with a ready job; after the last comes the first.
fn flow_after(db: &Connection, line: &Partition, at: Option<&[u8]>) -> Made<Option<Vec<u8>>> {
    let (queue, route, class) = (&line.queue, &line.route, &line.class);
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

/// The oldest job of a flow behind another that is not taken.
fn free(
    db: &Connection,
    line: &Partition,
    flow: &[u8],
    behind: i64,
    taken: &HashSet<i64>,
) -> Made<Option<ReadyJob>> {
    let mut statement = db.prepare_cached(
        "SELECT seq, id FROM jobs WHERE state = 'ready' AND queue = ?1 AND route = ?2
           AND class = ?3 AND flow = ?4 AND seq > ?5 ORDER BY seq",
    )?;
    let row = |row: &Row<'_>| Ok(ReadyJob { seq: row.get(0)?, id: row.get(1)? });
    let mut found =
        statement.query_map(params![line.queue, line.route, line.class, flow, behind], row)?;
    found.find(|due| due.as_ref().map_or(true, |due| !taken.contains(&due.seq))).transpose()
}

pub fn totals(db: &Connection) -> Made<Vec<QueueTotal>> {
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
pub fn oldest(db: &Connection, queue: &str) -> Made<Option<Millis>> {
    let sql = "SELECT accepted FROM jobs WHERE queue = ?1 AND state = 'ready' ORDER BY seq LIMIT 1";
    db.prepare_cached(sql)?.query_row([queue], |row| row.get(0)).optional()
}

/// Results that are to be posted now, and when the next after these is.
pub fn postings(db: &Connection, now: Millis) -> Made<(Vec<PendingCallback>, Option<Millis>)> {
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
    let due = statement.query_map([now], row)?.collect::<Made<Vec<_>>>()?;
    let next = "SELECT min(due) FROM callbacks WHERE state = 'waiting' AND due > ?1";
    let next = db.prepare_cached(next)?.query_row([now], |row| row.get(0))?;
    Ok((due, next))
}

/// What a store knows of itself: as old as it is.
pub fn note<const N: usize>(db: &Connection, name: &str) -> Made<[u8; N]> {
    db.query_row("SELECT value FROM notes WHERE name = ?1", [name], |row| row.get(0))
}

// === how values lie in columns ===

impl ToSql for JobId {
    fn to_sql(&self) -> Made<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.0)))
    }
}

impl FromSql for JobId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(JobId)
    }
}

impl ToSql for Millis {
    fn to_sql(&self) -> Made<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0))
    }
}

impl FromSql for Millis {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Millis)
    }
}

impl ToSql for JobState {
    fn to_sql(&self) -> Made<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(|why: String| FromSqlError::Other(why.into()))
    }
}
