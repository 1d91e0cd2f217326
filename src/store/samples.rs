//! Stored samples of metrics, at three resolutions (`levels.rs`).
//!
//! A time has a row for each metric, so that a chart reads little else, and before them a row without
//! a metric, which says how much of the time was sampled.

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::levels::{self, DAY, LeveledTables, Resolution, SqlResult};
use super::writer::StoreError;
use crate::resilience::stats::metric_sample::{MetricSample, SampleReader, SectionReader};

/// Bytes of all samples.
pub const MAX_SAMPLE_BYTES: u64 = 64 << 20;
/// Series that the store numbers. A series that no sample had for 90 days makes room for another.
const MAX_STORED_SERIES: u32 = 16_384;

/// Bits of the metric in the id of a row.
const METRIC_BITS: u32 = 8;
/// Metrics that fit: those that can have a row.
pub const MAX_METRICS: usize = (1 << METRIC_BITS) - 1;

/// The tables of the samples.
#[derive(Debug)]
struct Samples;

impl LeveledTables for Samples {
    const TABLES: [&'static str; 3] = ["samples_10s", "samples_1m", "samples_1h"];
    const BYTES: &'static str = "sample_bytes";
    const SERIES_BITS: u32 = METRIC_BITS;
    type Merged = MetricSample;

    fn merge(merged: &mut MetricSample, stored: &[u8]) {
        // A damaged sample is left out.
        if let Ok(later) = MetricSample::decode(stored) {
            merged.merge(later);
        }
    }

    fn encode(merged: &MetricSample) -> Vec<u8> {
        merged.encode()
    }
}

/// A series of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleSeries {
    pub metric: u16,
    /// As text, in a form of its own for each set of labels.
    pub labels: String,
}

/// The samples of one metric in a time, in order.
#[derive(Clone, Copy, Debug)]
pub struct SampleQuery {
    pub metric: u16,
    /// A time without a row of this resolution is read from finer ones: it was not merged yet.
    pub resolution: Resolution,
    /// Unix time in seconds.
    pub from: u64,
    pub to: u64,
}

/// Reads the samples of a query.
pub trait StoredSamples: Send + 'static {
    /// Each series of the metric comes before any sample.
    fn series(&mut self, number: u32, labels: &str);
    /// `at` is the Unix time in seconds. Of the slots of 10 s, `slots` were sampled. Without a section
    /// the metric had no entry.
    fn sample(&mut self, at: u64, slots: u32, section: Option<SectionReader<'_>>);
}

/// The number of a part of a sample in the id of its row.
fn part_number(part: &MetricSample) -> i64 {
    part.sections.first().map_or(0, |section| i64::from(section.metric) + 1)
}

/// Adds a sample to that of the same time, which exists if the clock was set back.
fn save(db: &Connection, at: u64, parts: &[MetricSample]) -> SqlResult<()> {
    let first = levels::first_id::<Samples>(Resolution::TenSeconds, at);
    let mut rows = Vec::with_capacity(parts.len());
    for part in parts {
        let id = first + part_number(part);
        let stored = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
        let sql = "DELETE FROM samples_10s WHERE id = ?1 RETURNING data";
        let earlier = db.prepare_cached(sql)?.query_row([id], stored).optional()?;
        let data = earlier.map_or_else(
            || part.encode(),
            |earlier| {
                let mut merged = MetricSample::default();
                Samples::merge(&mut merged, &earlier);
                merged.merge(part.clone());
                merged.encode()
            },
        );
        rows.push((id, data));
    }
    levels::insert::<Samples>(db, Resolution::TenSeconds, &rows)
}

/// The numbers of series, which are added if missing; none where there are too many.
fn numbers(db: &Connection, series: &[SampleSeries], now: u64) -> SqlResult<Vec<Option<u32>>> {
    let mut found = Vec::with_capacity(series.len());
    for SampleSeries { metric, labels } in series {
        let sql =
            "UPDATE sample_series SET seen = ?3 WHERE metric = ?1 AND labels = ?2 RETURNING id";
        let number = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
        let known = db.prepare_cached(sql)?.query_row(params![metric, labels, now], number);
        if let Some(known) = known.optional()? {
            found.push(Some(known));
            continue;
        }
        let sql = "INSERT INTO sample_series SELECT min(id), ?1, ?2, ?3 FROM
                       (SELECT 0 AS id UNION ALL SELECT id + 1 FROM sample_series)
                   WHERE id NOT IN (SELECT id FROM sample_series) HAVING min(id) < ?4 RETURNING id";
        let values = params![metric, labels, now, MAX_STORED_SERIES];
        found.push(db.prepare_cached(sql)?.query_row(values, number).optional()?);
    }
    Ok(found)
}

fn trim(db: &Connection, now: u64, max_bytes: u64) -> SqlResult<usize> {
    let deleted = levels::trim::<Samples>(db, now, max_bytes)?;
    let longest = now.saturating_sub(90 * DAY);
    db.prepare_cached("DELETE FROM sample_series WHERE seen < ?1")?.execute([longest])?;
    Ok(deleted)
}

/// Reads the coarse rows, and finer ones for the time after the last of them.
fn read<S: StoredSamples>(db: &Connection, query: SampleQuery, mut into: S) -> SqlResult<S> {
    let sql = "SELECT id, labels FROM sample_series WHERE metric = ?1";
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query([query.metric])?;
    while let Some(row) = rows.next()? {
        into.series(row.get(0)?, row.get_ref(1)?.as_str()?);
    }
    let mut from = query.from;
    let finer = Resolution::ALL.into_iter().rev().filter(|one| *one <= query.resolution);
    for resolution in finer {
        let table = levels::table::<Samples>(resolution);
        let next =
            format!("SELECT id, data FROM {table} WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1");
        let part = format!("SELECT data FROM {table} WHERE id = ?1");
        let (mut next, mut part) = (db.prepare_cached(&next)?, db.prepare_cached(&part)?);
        let id = |at| levels::first_id::<Samples>(resolution, at);
        loop {
            let mut rows = next.query([id(from), id(query.to)])?;
            let Some(row) = rows.next()? else { break };
            let at = levels::time_of::<Samples>(resolution, row.get(0)?);
            from = at + resolution.seconds();
            // A damaged sample is left out.
            let Ok(covered) = SampleReader::new(row.get_ref(1)?.as_blob()?) else { continue };
            let mut rows = part.query([id(at) + 1 + i64::from(query.metric)])?;
            let Some(row) = rows.next()? else {
                into.sample(at, covered.slots, None);
                continue;
            };
            let stored = SampleReader::new(row.get_ref(0)?.as_blob()?);
            if let Ok(section) = stored.and_then(|stored| stored.section(query.metric)) {
                into.sample(at, covered.slots, section);
            }
        }
    }
    Ok(into)
}

/// # Errors
/// If the store cannot be written, or read.
impl Store {
    /// The store's numbers of series; none for a series that has no room.
    pub async fn sample_numbers(
        &self,
        series: Vec<SampleSeries>,
        now: u64,
    ) -> Result<Vec<Option<u32>>, StoreError> {
        self.0.writer.write(move |db| numbers(db, &series, now)).await
    }

    /// Adds a sample of 10 s, with the store's numbers of the series.
    pub async fn save_sample(&self, at: u64, sample: MetricSample) -> Result<(), StoreError> {
        let parts: Vec<_> = sample.into_parts().collect();
        self.0.writer.write(move |db| save(db, at, &parts)).await
    }

    /// Merges the samples of minutes and hours that are over.
    pub async fn merge_samples(&self, now: u64) -> Result<(), StoreError> {
        levels::merge::<Samples>(self, now).await
    }

    /// Deletes what is too old, and the oldest of the finest resolution above `max_bytes`.
    pub async fn trim_samples(&self, now: u64, max_bytes: u64) -> Result<(), StoreError> {
        while self.0.writer.write(move |db| trim(db, now, max_bytes)).await? > 0 {}
        Ok(())
    }

    pub async fn samples<S: StoredSamples>(
        &self,
        query: SampleQuery,
        into: S,
    ) -> Result<S, StoreError> {
        self.0.reader.read(move |db| read(db, query, into)).await
    }

    /// The bytes of all samples.
    pub async fn sample_bytes(&self) -> Result<u64, StoreError> {
        self.0.reader.read(levels::bytes::<Samples>).await
    }
}
