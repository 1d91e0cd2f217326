//! What can be asked of the jobs that are kept.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::change::{Line, line};
use super::job::{Answer, Callback, Due, JobId, Millis, Posting, Request, Shown, State, Task};

type Made<T> = rusqlite::Result<T>;

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub queue: Option<String>,
    pub state: Option<State>,
    /// Only those that came before this one.
    pub before: Option<i64>,
    pub limit: usize,
}

/// How many jobs of a queue stand where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    pub queue: String,
    pub state: State,
    pub jobs: u64,
    pub bytes: u64,
}

const SHOWN: &str = "SELECT j.*, r.method, r.uri, c.url AS callback, c.state AS posted,
    c.attempts AS posts FROM jobs j JOIN requests r USING (seq) LEFT JOIN callbacks c USING (seq)";

pub fn job(db: &Connection, id: JobId) -> Made<Option<Shown>> {
    db.prepare_cached(&format!("{SHOWN} WHERE j.id = ?1"))?.query_row([id], shown).optional()
}

/// Jobs, the newest first.
pub fn list(db: &Connection, filter: &Filter) -> Made<Vec<Shown>> {
    let sql = format!(
        "{SHOWN} WHERE (?1 IS NULL OR j.queue = ?1) AND (?2 IS NULL OR j.state = ?2)
         AND (?3 IS NULL OR j.seq < ?3) ORDER BY j.seq DESC LIMIT ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement
        .query_map(params![filter.queue, filter.state, filter.before, filter.limit], shown)?;
    rows.collect()
}

fn shown(row: &Row<'_>) -> Made<Shown> {
    let callback = |url| {
        Ok::<_, rusqlite::Error>(Callback {
            url,
            state: row.get("posted")?,
            attempts: row.get("posts")?,
        })
    };
    Ok(Shown {
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
pub fn task(db: &Connection, seq: i64) -> Made<Option<Task>> {
    db.prepare_cached(
        "SELECT j.*, r.method, r.uri, r.headers, r.body
         FROM jobs j JOIN requests r USING (seq) WHERE j.seq = ?1 AND j.state = 'ready'",
    )?
    .query_row([seq], |row| {
        Ok(Task {
            seq,
            id: row.get("id")?,
            route: row.get("route")?,
            class: row.get("class")?,
            flow: row.get("flow")?,
            request: Request {
                method: row.get("method")?,
                uri: row.get("uri")?,
                headers: row.get("headers")?,
                body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
            },
            attempts: row.get("attempts")?,
            accepted: row.get("accepted")?,
            expires: row.get("expires")?,
        })
    })
    .optional()
}

pub fn answer(db: &Connection, seq: i64) -> Made<Option<Answer>> {
    db.prepare_cached("SELECT status, headers, body, cut FROM results WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok(Answer {
                status: row.get(0)?,
                headers: row.get(1)?,
                body: Bytes::from(row.get::<_, Vec<u8>>(2)?),
                cut: row.get(3)?,
            })
        })
        .optional()
}

/// Where jobs are ready.
pub fn lines(db: &Connection) -> Made<Vec<Line>> {
    let sql = "SELECT DISTINCT queue, route, class FROM jobs WHERE state = 'ready'";
    db.prepare_cached(sql)?.query_map([], line)?.collect()
}

/// The next jobs of a line, in the order in which they are to be run: its flows in turn, from the
/// one after `after`, and in a flow the oldest first; none of `taken`.
pub fn upcoming(
    db: &Connection,
    line: &Line,
    after: Option<&[u8]>,
    taken: &HashSet<i64>,
    want: usize,
) -> Made<Vec<(Vec<u8>, Due)>> {
    let flows = flows(db, line, after, want)?;
    let each = want.div_ceil(flows.len().max(1));
    let mut statement = db.prepare_cached(
        "SELECT seq, id FROM jobs WHERE state = 'ready' AND route = ?1 AND class = ?2 AND flow = ?3
         ORDER BY seq LIMIT ?4",
    )?;
    let mut heads = Vec::new();
    for flow in flows {
        let limit = each + taken.len();
        let row = |row: &Row<'_>| Ok(Due { seq: row.get(0)?, id: row.get(1)? });
        let found = statement.query_map(params![line.route, line.class, flow, limit], row)?;
        let free = found.filter(|due| due.as_ref().map_or(true, |due| !taken.contains(&due.seq)));
        heads.push((flow.clone(), free.take(each).collect::<Made<VecDeque<_>>>()?));
    }
    let mut all = Vec::new();
    while heads.iter().any(|(_, due)| !due.is_empty()) && all.len() < want {
        for (flow, due) in &mut heads {
            all.extend(due.pop_front().map(|due| (flow.clone(), due)));
        }
    }
    Ok(all)
}

/// Flows with a ready job, from the one after `after`, round to it.
fn flows(db: &Connection, line: &Line, after: Option<&[u8]>, most: usize) -> Made<Vec<Vec<u8>>> {
    let mut next = db.prepare_cached(
        "SELECT flow FROM jobs WHERE state = 'ready' AND route = ?1 AND class = ?2 AND flow > ?3
         ORDER BY flow LIMIT 1",
    )?;
    let mut first = db.prepare_cached(
        "SELECT flow FROM jobs WHERE state = 'ready' AND route = ?1 AND class = ?2
         ORDER BY flow LIMIT 1",
    )?;
    let mut flows: Vec<Vec<u8>> = Vec::new();
    let mut at = after.map(<[u8]>::to_vec);
    while flows.len() < most {
        let beyond = match &at {
            Some(at) => {
                next.query_row(params![line.route, line.class, at], |row| row.get(0)).optional()?
            }
            None => None,
        };
        let found: Option<Vec<u8>> = match beyond {
            Some(flow) => Some(flow),
            None => {
                first.query_row(params![line.route, line.class], |row| row.get(0)).optional()?
            }
        };
        match found {
            Some(flow) if !flows.contains(&flow) => {
                at = Some(flow.clone());
                flows.push(flow);
            }
            _ => break,
        }
    }
    Ok(flows)
}

pub fn totals(db: &Connection) -> Made<Vec<Total>> {
    let sql = "SELECT queue, state, jobs, bytes FROM totals WHERE jobs > 0";
    let row = |row: &Row<'_>| {
        Ok(Total { queue: row.get(0)?, state: row.get(1)?, jobs: row.get(2)?, bytes: row.get(3)? })
    };
    db.prepare_cached(sql)?.query_map([], row)?.collect()
}

/// When the oldest ready job of a queue was accepted.
pub fn oldest(db: &Connection, queue: &str) -> Made<Option<Millis>> {
    let sql = "SELECT accepted FROM jobs WHERE queue = ?1 AND state = 'ready' ORDER BY seq LIMIT 1";
    db.prepare_cached(sql)?.query_row([queue], |row| row.get(0)).optional()
}

/// Results that are to be posted now, and when the next after these is.
pub fn postings(db: &Connection, now: Millis) -> Made<(Vec<Posting>, Option<Millis>)> {
    let mut statement = db.prepare_cached(
        "SELECT c.seq, j.id, j.queue, c.url, c.attempts FROM callbacks c JOIN jobs j USING (seq)
         WHERE c.state = 'waiting' AND c.due <= ?1 ORDER BY c.due LIMIT 64",
    )?;
    let row = |row: &Row<'_>| {
        Ok(Posting {
            seq: row.get(0)?,
            id: row.get(1)?,
            queue: row.get(2)?,
            url: row.get(3)?,
            attempts: row.get(4)?,
        })
    };
    let due = statement.query_map([now], row)?.collect::<Made<Vec<_>>>()?;
    let next = "SELECT min(due) FROM callbacks WHERE state = 'waiting' AND due > ?1";
    let next = db.prepare_cached(next)?.query_row([now], |row| row.get(0))?;
    Ok((due, next))
}

/// The key that principals are hashed with; as old as the store.
pub fn principal_key(db: &Connection) -> Made<[u8; 32]> {
    let sql = "SELECT value FROM notes WHERE name = 'principal_key'";
    db.query_row(sql, [], |row| row.get(0))
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

impl ToSql for State {
    fn to_sql(&self) -> Made<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(|why: String| FromSqlError::Other(why.into()))
    }
}
