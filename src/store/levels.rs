//! Histories at three resolutions: 10 s for a day, 1 min for a week, 1 h for 90 days.
//!
//! Coarser rows are merged from finer ones when their time is over, by a query of the reader thread,
//! so that the writer only appends rows. The id of a row is its time in units of its resolution,
//! followed by the bits of its series. Beyond a number of bytes, which triggers count, the oldest
//! rows of the finest resolution are deleted.

use rusqlite::{Connection, params};

use super::Store;
use super::writer::StoreError;

pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 3600;
pub(super) const DAY: u64 = 24 * HOUR;
/// Minutes or hours that one change adds.
const MERGED_AT_ONCE: usize = 64;
/// Rows that one change deletes, so that it delays no job.
const DELETED_AT_ONCE: u32 = 2000;

pub(super) type SqlResult<T> = rusqlite::Result<T>;

/// The length of the time that a row covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    TenSeconds,
    Minute,
    Hour,
}

/// A history at each resolution.
pub(super) trait LeveledTables: 'static {
    /// Columns: `id` and `data`.
    const TABLES: [&'static str; 3];
    /// The table with the bytes of all rows.
    const BYTES: &'static str;
    /// Bits of the series, or of the metric with all its series, in the id of a row.
    const SERIES_BITS: u32;
    type Merged: Default;

    /// Adds a later stored row.
    fn merge(merged: &mut Self::Merged, stored: &[u8]);
    fn encode(merged: &Self::Merged) -> Vec<u8>;
}

/// The merged rows of one time.
type MergedRows = Vec<(i64, Vec<u8>)>;

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

    /// How long a row is kept, in seconds.
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
}

pub(super) fn table<L: LeveledTables>(resolution: Resolution) -> &'static str {
    L::TABLES[resolution as usize]
}

/// The least id of a row at or after a time.
pub(super) fn first_id<L: LeveledTables>(resolution: Resolution, at: u64) -> i64 {
    let number = i64::try_from(at.div_ceil(resolution.seconds())).unwrap_or(i64::MAX);
    number.saturating_mul(1 << L::SERIES_BITS)
}

/// The time of a row.
pub(super) fn time_of<L: LeveledTables>(resolution: Resolution, id: i64) -> u64 {
    let number = u64::try_from(id >> L::SERIES_BITS).unwrap_or(0);
    number.saturating_mul(resolution.seconds())
}

/// A row that exists already stays: the clock was set back.
pub(super) fn insert<L: LeveledTables>(
    db: &Connection,
    resolution: Resolution,
    rows: &[(i64, Vec<u8>)],
) -> SqlResult<()> {
    let table = table::<L>(resolution);
    let sql = format!("INSERT INTO {table} VALUES (?1, ?2) ON CONFLICT DO NOTHING");
    let mut insert = db.prepare_cached(&sql)?;
    rows.iter().try_for_each(|(id, data)| insert.execute(params![id, data]).map(|_| ()))
}

/// Merges the rows of minutes and hours that are over.
///
/// # Errors
/// If the store cannot be read or written.
pub(super) async fn merge<L: LeveledTables>(store: &Store, now: u64) -> Result<(), StoreError> {
    for (fine, coarse) in
        [(Resolution::TenSeconds, Resolution::Minute), (Resolution::Minute, Resolution::Hour)]
    {
        // Rows of the future are of a clock that was set back since.
        let sql = format!("SELECT max(id) FROM {} WHERE id < ?1", table::<L>(coarse));
        let end = first_id::<L>(coarse, now.saturating_add(1));
        let last =
            move |db: &Connection| db.query_row(&sql, [end], |row| row.get::<_, Option<i64>>(0));
        let last = store.0.reader.read(last).await?;
        let mut from = last.map_or(0, |id| time_of::<L>(coarse, id) + coarse.seconds());
        let next = |from| move |db: &_| merge_next::<L>(db, fine, coarse, from, now);
        let mut merged = Vec::new();
        while let Some((end, rows)) = store.0.reader.read(next(from)).await? {
            from = end;
            merged.push(rows);
            if merged.len() == MERGED_AT_ONCE {
                insert_all::<L>(store, coarse, std::mem::take(&mut merged)).await?;
            }
        }
        insert_all::<L>(store, coarse, merged).await?;
    }
    Ok(())
}

/// Merges the rows of the next time, not before `from`, that is over. Returns its end.
fn merge_next<L: LeveledTables>(
    db: &Connection,
    fine: Resolution,
    coarse: Resolution,
    from: u64,
    now: u64,
) -> SqlResult<Option<(u64, MergedRows)>> {
    let table = table::<L>(fine);
    let sql = format!("SELECT min(id) FROM {table} WHERE id >= ?1");
    let from = first_id::<L>(fine, from);
    let first: Option<i64> = db.prepare_cached(&sql)?.query_row([from], |row| row.get(0))?;
    let Some(first) = first else { return Ok(None) };
    let start = time_of::<L>(fine, first) / coarse.seconds() * coarse.seconds();
    let end = start + coarse.seconds();
    if end > now {
        return Ok(None);
    }
    let sql = format!(
        "SELECT id & ?1 AS series, data FROM {table} WHERE id >= ?2 AND id < ?3 ORDER BY series, id"
    );
    let mut select = db.prepare_cached(&sql)?;
    let mask = (1_i64 << L::SERIES_BITS) - 1;
    let range = (first_id::<L>(fine, start), first_id::<L>(fine, end));
    let mut rows = select.query(params![mask, range.0, range.1])?;
    let (mut merged, mut open) = (Vec::new(), None::<(i64, L::Merged)>);
    while let Some(row) = rows.next()? {
        let series: i64 = row.get(0)?;
        if open.as_ref().is_none_or(|(of, _)| *of != series) {
            merged.extend(open.take());
            open = Some((series, L::Merged::default()));
        }
        if let Some((_, all)) = &mut open {
            L::merge(all, row.get_ref(1)?.as_blob()?);
        }
    }
    merged.extend(open);
    let start = first_id::<L>(coarse, start);
    let rows = merged.into_iter().map(|(series, all)| (start + series, L::encode(&all)));
    Ok(Some((end, rows.collect())))
}

async fn insert_all<L: LeveledTables>(
    store: &Store,
    resolution: Resolution,
    rows: Vec<MergedRows>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let write = move |db: &Connection| rows.iter().try_for_each(|r| insert::<L>(db, resolution, r));
    store.0.writer.write(write).await
}

/// Deletes rows that are too old or do not fit. Returns how many; 0 once there are none.
pub(super) fn trim<L: LeveledTables>(
    db: &Connection,
    now: u64,
    max_bytes: u64,
) -> SqlResult<usize> {
    let delete = |resolution: Resolution, age: u64| {
        let table = table::<L>(resolution);
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < ?1 ORDER BY id LIMIT ?2)"
        );
        let before = first_id::<L>(resolution, now.saturating_sub(age));
        db.prepare_cached(&sql)?.execute(params![before, DELETED_AT_ONCE])
    };
    let mut deleted = 0;
    for resolution in Resolution::ALL {
        deleted += delete(resolution, resolution.kept())?;
    }
    for resolution in Resolution::ALL {
        if deleted == 0 && bytes::<L>(db)? > max_bytes {
            deleted += delete(resolution, resolution.kept_at_least())?;
        }
    }
    Ok(deleted)
}

/// The bytes of all rows.
pub(super) fn bytes<L: LeveledTables>(db: &Connection) -> SqlResult<u64> {
    let sql = format!("SELECT bytes FROM {}", L::BYTES);
    db.prepare_cached(&sql)?.query_row([], |row| row.get(0))
}
