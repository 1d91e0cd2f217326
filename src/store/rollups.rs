//! Roll-ups of calls, what the detectors have learned from them, and the changes that they found.
//!
//! A roll-up is kept at three resolutions: 10 s for a day, 1 min for a week, 1 h for 90 days. Coarser
//! ones are merged from finer ones when their time is over, by a query of the reader thread, so that
//! the writer only appends rows. All roll-ups together take at most [`MAX_BYTES`]; beyond it the
//! oldest of the finest resolution are deleted.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::levels::{self, DAY, HOUR, LeveledTables, Resolution, SqlResult};
use super::writer::StoreError;
use crate::resilience::baseline::SeriesKey;
use crate::resilience::baseline::calls::Calls;

/// Bytes of all roll-ups.
pub const MAX_BYTES: u64 = 256 << 20;
/// Bits of the series in the id of a row.
const SERIES_BITS: u32 = 12;
/// A baseline that was not saved for this long is of another time.
pub const BASELINE_KEPT: u64 = 7 * DAY;
const MAX_BASELINES: u32 = 256;
const MAX_REGRESSIONS: u32 = 1000;

/// The tables of the roll-ups.
#[derive(Debug)]
struct RollUps;

impl LeveledTables for RollUps {
    const TABLES: [&'static str; 3] = ["rollups_10s", "rollups_1m", "rollups_1h"];
    const BYTES: &'static str = "rollup_bytes";
    const SERIES_BITS: u32 = SERIES_BITS;
    type Merged = Box<Calls>;

    fn merge(calls: &mut Box<Calls>, stored: &[u8]) {
        // A damaged roll-up is left out.
        let _ = calls.merge_stored(stored);
    }

    fn encode(calls: &Box<Calls>) -> Vec<u8> {
        let mut data = Vec::new();
        calls.encode(&mut data);
        data
    }
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

impl TrackingBatch {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.baselines.is_empty() && self.regressions.is_empty()
    }
}

fn save(db: &Connection, batch: &TrackingBatch) -> SqlResult<()> {
    for (key, data) in &batch.calls {
        if let Some(series) = series_id(db, key, batch.at)? {
            let id = levels::first_id::<RollUps>(Resolution::TenSeconds, batch.at) + series;
            levels::insert::<RollUps>(db, Resolution::TenSeconds, &[(id, data.clone())])?;
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

/// Deletes roll-ups that are too old or do not fit, and what belongs to none. Returns how many
/// roll-ups; 0 once there are none.
fn trim(db: &Connection, now: u64, max_bytes: u64) -> SqlResult<usize> {
    let deleted = levels::trim::<RollUps>(db, now, max_bytes)?;
    let (longest, baselines) = (now.saturating_sub(90 * DAY), now.saturating_sub(BASELINE_KEPT));
    db.prepare_cached("DELETE FROM series WHERE seen < ?1")?.execute([longest])?;
    db.prepare_cached(
        "DELETE FROM series_baselines WHERE saved < ?1 OR series NOT IN
             (SELECT series FROM series_baselines ORDER BY saved DESC LIMIT ?2)",
    )?
    .execute(params![baselines, MAX_BASELINES])?;
    Ok(deleted)
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
    let sql = format!("SELECT data FROM {} WHERE id = ?1", levels::table::<RollUps>(*resolution));
    let mut select = db.prepare_cached(&sql)?;
    let mut found = Vec::new();
    let mut start = query.from;
    while start < query.to {
        let mut calls = None::<Box<Calls>>;
        for at in (start..start + step).step_by(resolution.seconds() as usize) {
            let mut rows = select.query([levels::first_id::<RollUps>(*resolution, at) + series])?;
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
        levels::merge::<RollUps>(self, now).await
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
        self.0.reader.read(levels::bytes::<RollUps>).await
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
