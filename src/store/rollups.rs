//! Roll-ups of calls, what the detectors have learned from them, and the changes that they found.
//!
//! A roll-up is kept at three resolutions: 10 s for a day, 1 min for a week, 1 h for 90 days. Coarser
//! ones are merged from finer ones when their time is over, by a query of the reader thread, so that
//! the writer only appends rows. All roll-ups together take at most [`MAX_BYTES`]; beyond it the
//! oldest of the finest resolution are deleted.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::writer::StoreError;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::Calls;

/// Bytes of all roll-ups.
pub const MAX_BYTES: u64 = 256 << 20;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Bits of the series in the id of a row.
const SERIES_BITS: u32 = 12;
/// A baseline that was not saved for this long is of another time.
pub const BASELINE_KEPT: u64 = 7 * DAY;
const MAX_BASELINES: u32 = 256;
const MAX_REGRESSIONS: u32 = 1000;
/// Minutes or hours that one change adds.
const MERGED_AT_ONCE: usize = 64;
/// Rows that one change deletes, so that it delays no job.
const DELETED_AT_ONCE: u32 = 2000;

type SqlResult<T> = rusqlite::Result<T>;

/// The length of the time that a roll-up covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    TenSeconds,
    Minute,
    Hour,
}

/// Everything that a roll-up adds to the store.
#[derive(Debug, Default)]
pub struct TrackingBatch {
    /// Unix time in seconds.
    pub at: u64,
    /// The stored form of the calls of each series.
    pub calls: Vec<(SeriesKey, Vec<u8>)>,
    /// The stored form of baselines.
    pub baselines: Vec<(SeriesKey, Vec<u8>)>,
    /// JSON.
    pub regressions: Vec<String>,
}

/// A baseline of an earlier process.
#[derive(Debug)]
pub struct StoredBaseline {
    pub series: SeriesKey,
    pub state: Vec<u8>,
}

/// The points of a series in a time.
#[derive(Clone, Debug)]
pub struct RollUpQuery {
    pub series: SeriesKey,
    pub resolution: Resolution,
    /// Seconds between two points: a multiple of the resolution.
    pub step: u64,
    /// Unix time in seconds: multiples of the step.
    pub from: u64,
    pub to: u64,
}

/// The merged roll-ups of one time.
type MergedRollUps = Vec<(i64, Vec<u8>)>;

impl TrackingBatch {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.baselines.is_empty() && self.regressions.is_empty()
    }
}

impl Resolution {
    /// The finest first.
    pub const ALL: [Resolution; 3] = [Resolution::TenSeconds, Resolution::Minute, Resolution::Hour];

    pub const fn seconds(self) -> u64 {
        match self {
            Resolution::TenSeconds => 10,
            Resolution::Minute => MINUTE,
            Resolution::Hour => HOUR,
        }
    }

    /// How long a roll-up is kept, in seconds.
    pub const fn kept(self) -> u64 {
        match self {
            Resolution::TenSeconds => DAY,
            Resolution::Minute => 7 * DAY,
            Resolution::Hour => 90 * DAY,
        }
    }

    /// How long it is kept even if there is no room: until it was merged.
    const fn kept_at_least(self) -> u64 {
        match self {
            Resolution::TenSeconds => 10 * MINUTE,
            Resolution::Minute => 2 * HOUR,
            Resolution::Hour => 0,
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Resolution::TenSeconds => "rollups_10s",
            Resolution::Minute => "rollups_1m",
            Resolution::Hour => "rollups_1h",
        }
    }

    /// The least id of a row at or after a time.
    fn first_id(self, at: u64) -> i64 {
        let number = i64::try_from(at.div_ceil(self.seconds())).unwrap_or(i64::MAX);
        number.saturating_mul(1 << SERIES_BITS)
    }
}

fn number_of(id: i64) -> u64 {
    u64::try_from(id >> SERIES_BITS).unwrap_or(0)
}

fn save(db: &Connection, batch: &TrackingBatch) -> SqlResult<()> {
    for (key, data) in &batch.calls {
        if let Some(series) = series_id(db, key, batch.at)? {
            let id = Resolution::TenSeconds.first_id(batch.at) + series;
            insert(db, Resolution::TenSeconds, &[(id, data.clone())])?;
        }
    }
    for (key, state) in &batch.baselines {
        if let Some(series) = series_id(db, key, batch.at)? {
            let sql = "INSERT OR REPLACE INTO series_baselines VALUES (?1, ?2, ?3)";
            db.prepare_cached(sql)?.execute(params![series, batch.at, state])?;
        }
    }
    for record in &batch.regressions {
        let sql = "INSERT INTO regressions (record) VALUES (?1)";
        db.prepare_cached(sql)?.execute([record])?;
        let sql = "DELETE FROM regressions WHERE seq <= (SELECT max(seq) FROM regressions) - ?1";
        db.prepare_cached(sql)?.execute([MAX_REGRESSIONS])?;
    }
    Ok(())
}

/// The id of a series, which is created if missing; none if there are too many.
fn series_id(db: &Connection, key: &SeriesKey, now: u64) -> SqlResult<Option<i64>> {
    let sql = "SELECT id, seen FROM series WHERE route = ?1 AND provider = ?2 AND model = ?3";
    let SeriesKey { route, provider, model } = key;
    let known = db.prepare_cached(sql)?.query_row([route, provider, model], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?))
    });
    if let Some((id, seen)) = known.optional()? {
        if seen + HOUR <= now {
            let sql = "UPDATE series SET seen = ?2 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, now])?;
        }
        return Ok(Some(id));
    }
    let sql = "SELECT min(id) FROM (SELECT 0 AS id UNION ALL SELECT id + 1 FROM series)
               WHERE id NOT IN (SELECT id FROM series)";
    let id: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    if id >> SERIES_BITS != 0 {
        return Ok(None);
    }
    let sql = "INSERT INTO series VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute(params![id, route, provider, model, now])?;
    Ok(Some(id))
}

/// A roll-up that exists already stays: the clock was set back.
fn insert(db: &Connection, resolution: Resolution, rows: &[(i64, Vec<u8>)]) -> SqlResult<()> {
    let table = resolution.table();
    let sql = format!("INSERT INTO {table} VALUES (?1, ?2) ON CONFLICT DO NOTHING");
    let mut insert = db.prepare_cached(&sql)?;
    rows.iter().try_for_each(|(id, data)| insert.execute(params![id, data]).map(|_| ()))
}

/// Merges the roll-ups of the next time, not before `from`, that is over. Returns its end.
fn merge_next(
    db: &Connection,
    fine: Resolution,
    coarse: Resolution,
    from: u64,
    now: u64,
) -> SqlResult<Option<(u64, MergedRollUps)>> {
    let sql = format!("SELECT min(id) FROM {} WHERE id >= ?1", fine.table());
    let first: Option<i64> =
        db.prepare_cached(&sql)?.query_row([fine.first_id(from)], |row| row.get(0))?;
    let Some(first) = first else { return Ok(None) };
    let start = number_of(first) * fine.seconds() / coarse.seconds() * coarse.seconds();
    let end = start + coarse.seconds();
    if end > now {
        return Ok(None);
    }
    let sql = format!(
        "SELECT id & ?1 AS series, data FROM {} WHERE id >= ?2 AND id < ?3 ORDER BY series",
        fine.table()
    );
    let mut select = db.prepare_cached(&sql)?;
    let mask = (1_i64 << SERIES_BITS) - 1;
    let mut rows = select.query(params![mask, fine.first_id(start), fine.first_id(end)])?;
    let (mut merged, mut open) = (Vec::new(), None::<(i64, Box<Calls>)>);
    while let Some(row) = rows.next()? {
        let series: i64 = row.get(0)?;
        if open.as_ref().is_none_or(|(of, _)| *of != series) {
            merged.extend(open.take());
            open = Some((series, Box::default()));
        }
        if let Some((_, calls)) = &mut open {
            // A damaged roll-up is left out.
            let _ = calls.merge_stored(row.get_ref(1)?.as_blob()?);
        }
    }
    merged.extend(open);
    let stored = merged.into_iter().map(|(series, calls)| {
        let mut data = Vec::new();
        calls.encode(&mut data);
        (coarse.first_id(start) + series, data)
    });
    Ok(Some((end, stored.collect())))
}

/// Deletes roll-ups that are too old or do not fit. Returns how many; 0 once there are none.
fn trim(db: &Connection, now: u64, max_bytes: u64) -> SqlResult<usize> {
    let delete = |resolution: Resolution, age: u64| {
        let table = resolution.table();
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < ?1 ORDER BY id LIMIT ?2)"
        );
        let before = resolution.first_id(now.saturating_sub(age));
        db.prepare_cached(&sql)?.execute(params![before, DELETED_AT_ONCE])
    };
    let mut deleted = 0;
    for resolution in Resolution::ALL {
        deleted += delete(resolution, resolution.kept())?;
    }
    for resolution in Resolution::ALL {
        if deleted == 0 && bytes(db)? > max_bytes {
            deleted += delete(resolution, resolution.kept_at_least())?;
        }
    }
    let (longest, baselines) = (now.saturating_sub(90 * DAY), now.saturating_sub(BASELINE_KEPT));
    db.prepare_cached("DELETE FROM series WHERE seen < ?1")?.execute([longest])?;
    db.prepare_cached(
        "DELETE FROM series_baselines WHERE saved < ?1 OR series NOT IN
             (SELECT series FROM series_baselines ORDER BY saved DESC LIMIT ?2)",
    )?
    .execute(params![baselines, MAX_BASELINES])?;
    Ok(deleted)
}

fn bytes(db: &Connection) -> SqlResult<u64> {
    let read = |row: &rusqlite::Row<'_>| row.get(0);
    db.prepare_cached("SELECT bytes FROM rollup_bytes")?.query_row([], read)
}

fn baselines(db: &Connection) -> SqlResult<Vec<StoredBaseline>> {
    let sql = "SELECT route, provider, model, state FROM series_baselines
               JOIN series ON series.id = series_baselines.series";
    let mut select = db.prepare_cached(sql)?;
    let rows = select.query_map([], |row| {
        let series = SeriesKey { route: row.get(0)?, provider: row.get(1)?, model: row.get(2)? };
        Ok(StoredBaseline { series, state: row.get(3)? })
    })?;
    rows.collect()
}

/// Merges the roll-ups of each step that has some.
fn points<T>(
    db: &Connection,
    query: &RollUpQuery,
    point: impl Fn(u64, &Calls) -> T,
) -> SqlResult<Vec<T>> {
    let RollUpQuery { series: SeriesKey { route, provider, model }, resolution, step, .. } = query;
    let sql = "SELECT id FROM series WHERE route = ?1 AND provider = ?2 AND model = ?3";
    let id = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let series = db.prepare_cached(sql)?.query_row([route, provider, model], id).optional()?;
    let Some(series) = series else { return Ok(Vec::new()) };
    let sql = format!("SELECT data FROM {} WHERE id = ?1", resolution.table());
    let mut select = db.prepare_cached(&sql)?;
    let mut found = Vec::new();
    let mut start = query.from;
    while start < query.to {
        let mut calls = None::<Box<Calls>>;
        for at in (start..start + step).step_by(resolution.seconds() as usize) {
            let mut rows = select.query([resolution.first_id(at) + series])?;
            if let Some(row) = rows.next()? {
                let calls = calls.get_or_insert_default();
                let _ = calls.merge_stored(row.get_ref(0)?.as_blob()?);
            }
        }
        found.extend(calls.map(|calls| point(start, &calls)));
        start += step;
    }
    Ok(found)
}

/// # Errors
/// If the store cannot be written, or read.
impl Store {
    /// Adds a roll-up.
    pub async fn save_tracking(&self, batch: Arc<TrackingBatch>) -> Result<(), StoreError> {
        self.0.writer.write(move |db| save(db, &batch)).await
    }

    /// Merges the roll-ups of minutes and hours that are over.
    pub async fn merge_roll_ups(&self, now: u64) -> Result<(), StoreError> {
        for (fine, coarse) in
            [(Resolution::TenSeconds, Resolution::Minute), (Resolution::Minute, Resolution::Hour)]
        {
            let sql = format!("SELECT max(id) FROM {}", coarse.table());
            let last =
                move |db: &Connection| db.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0));
            let last = self.0.reader.read(last).await?;
            let mut from = last.map_or(0, |id| (number_of(id) + 1) * coarse.seconds());
            let next = |from| move |db: &_| merge_next(db, fine, coarse, from, now);
            let mut merged = Vec::new();
            while let Some((end, rows)) = self.0.reader.read(next(from)).await? {
                from = end;
                merged.push(rows);
                if merged.len() == MERGED_AT_ONCE {
                    self.insert_roll_ups(coarse, std::mem::take(&mut merged)).await?;
                }
            }
            self.insert_roll_ups(coarse, merged).await?;
        }
        Ok(())
    }

    async fn insert_roll_ups(
        &self,
        resolution: Resolution,
        rows: Vec<MergedRollUps>,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let write = move |db: &Connection| rows.iter().try_for_each(|r| insert(db, resolution, r));
        self.0.writer.write(write).await
    }

    /// Deletes what is too old, and the oldest of the finest resolution above `max_bytes`.
    pub async fn trim_roll_ups(&self, now: u64, max_bytes: u64) -> Result<(), StoreError> {
        while self.0.writer.write(move |db| trim(db, now, max_bytes)).await? > 0 {}
        Ok(())
    }

    /// The points of a series, each made of the calls of a step.
    pub async fn roll_ups<T: Send + 'static>(
        &self,
        query: RollUpQuery,
        point: impl Fn(u64, &Calls) -> T + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        self.0.reader.read(move |db| points(db, &query, point)).await
    }

    /// The bytes of all roll-ups.
    pub async fn roll_up_bytes(&self) -> Result<u64, StoreError> {
        self.0.reader.read(bytes).await
    }

    pub async fn baselines(&self) -> Result<Vec<StoredBaseline>, StoreError> {
        self.0.reader.read(baselines).await
    }

    /// The regressions and recoveries, the oldest first.
    pub async fn regressions(&self) -> Result<Vec<String>, StoreError> {
        let read = |db: &Connection| {
            let mut select = db.prepare_cached("SELECT record FROM regressions ORDER BY seq")?;
            select.query_map([], |row| row.get(0))?.collect()
        };
        self.0.reader.read(read).await
    }
}
