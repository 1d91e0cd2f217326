//! Stored events: the newest, for 30 days.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::Store;
use super::writer::StoreError;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct EventLimits {
    events: u64,
    bytes: u64,
    /// Microseconds, the unit of an id.
    age: u64,
}

const KEPT: EventLimits =
    EventLimits { events: 100_000, bytes: 32 << 20, age: 30 * 24 * 3600 * 1_000_000 };
/// Events that one change deletes, so that it delays no job.
const DELETED_AT_ONCE: u32 = 1000;

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub id: u64,
    pub kind: String,
    pub key: String,
    /// JSON.
    pub record: String,
}

/// Which events a list has, the newest first.
#[derive(Clone, Debug, Default)]
pub struct StoredEventQuery {
    /// None: all.
    pub kinds: Vec<String>,
    /// The beginning of the key.
    pub key: String,
    pub before: Option<u64>,
    pub after: u64,
    pub limit: usize,
}

fn save(db: &Connection, events: &[StoredEvent]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO events VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let mut insert = db.prepare_cached(sql)?;
    for StoredEvent { id, kind, key, record } in events {
        insert.execute(params![id, kind, key, record])?;
    }
    Ok(())
}

/// Deletes events that are too old, too many or too large. Returns how many; 0 once there are none.
fn trim(db: &Connection, now: u64, limits: EventLimits) -> rusqlite::Result<usize> {
    let sql =
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id < ?1 ORDER BY id LIMIT ?2)";
    let mut delete = db.prepare_cached(sql)?;
    let deleted = delete.execute(params![now.saturating_sub(limits.age), DELETED_AT_ONCE])?;
    if deleted > 0 {
        return Ok(deleted);
    }
    let sizes = |row: &rusqlite::Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?));
    let (events, bytes) =
        db.prepare_cached("SELECT events, bytes FROM event_sizes")?.query_row([], sizes)?;
    let beyond = events.saturating_sub(limits.events).min(u64::from(DELETED_AT_ONCE));
    match beyond {
        0 if bytes > limits.bytes => delete.execute(params![i64::MAX, DELETED_AT_ONCE / 10]),
        0 => Ok(0),
        beyond => delete.execute(params![i64::MAX, beyond]),
    }
}

fn list(db: &Connection, query: &StoredEventQuery) -> rusqlite::Result<Vec<String>> {
    let StoredEventQuery { kinds, key, before, after, limit } = query;
    let kinds = kinds.join(",");
    let sql = "SELECT record FROM events WHERE id > ?1 AND id < ?2
                   AND (?3 = '' OR instr(',' || ?3 || ',', ',' || kind || ',') > 0)
                   AND substr(key, 1, length(?4)) = ?4
               ORDER BY id DESC LIMIT ?5";
    let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
    let after = i64::try_from(*after).unwrap_or(i64::MAX);
    let mut select = db.prepare_cached(sql)?;
    let rows = select.query_map(params![after, before, kinds, key, limit], |row| row.get(0))?;
    rows.collect()
}

/// # Errors
/// If the store cannot be written, or read.
impl Store {
    /// Adds events. One that exists already stays.
    pub async fn save_events(&self, events: Arc<Vec<StoredEvent>>) -> Result<(), StoreError> {
        self.0.writer.write(move |db| save(db, &events)).await
    }

    /// Deletes the events that are beyond the bounds. `now` is in microseconds.
    pub async fn trim_events(&self, now: u64) -> Result<(), StoreError> {
        while self.0.writer.write(move |db| trim(db, now, KEPT)).await? > 0 {}
        Ok(())
    }

    /// The records of events, the newest first.
    pub async fn events(&self, query: StoredEventQuery) -> Result<Vec<String>, StoreError> {
        self.0.reader.read(move |db| list(db, &query)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, kind: &str, key: &str) -> StoredEvent {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        StoredEvent { id, kind, key, record: id.to_string() }
    }

    async fn store_with(folder: &tempfile::TempDir, events: Vec<StoredEvent>) -> Store {
        let store = Store::open(folder.path(), Box::new(|_| ())).expect("a store");
        store.save_events(Arc::new(events)).await.expect("written");
        store
    }

    #[tokio::test]
    async fn events_are_listed_by_kind_key_and_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = [
            (1, "policy", "a"),
            (2, "breaker", "openai/x"),
            (3, "breaker", "other"),
            (4, "hold", "openai"),
        ];
        let events = all.map(|(id, kind, key)| event(id, kind, key)).to_vec();
        let store = store_with(&folder, events).await;
        let query = |kinds: &[&str], key: &str, before, after| StoredEventQuery {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            key: key.to_owned(),
            before,
            after,
            limit: 3,
        };
        let list = |query| async { store.events(query).await.expect("read") };
        assert_eq!(list(query(&[], "", None, 0)).await, ["4", "3", "2"]);
        assert_eq!(list(query(&[], "", Some(2), 0)).await, ["1"]);
        assert_eq!(list(query(&["breaker", "policy"], "", None, 1)).await, ["3", "2"]);
        assert_eq!(list(query(&[], "openai", None, 0)).await, ["4", "2"]);
        assert_eq!(list(query(&["break"], "", None, 0)).await, [""; 0]);
    }

    #[tokio::test]
    async fn the_oldest_events_beyond_a_bound_are_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let store =
            store_with(&folder, (0..3_000).map(|id| event(id, "policy", "k")).collect()).await;
        let trim = |now, limits| {
            let store = store.clone();
            async move {
                while store.0.writer.write(move |db| trim(db, now, limits)).await.expect("trimmed")
                    > 0
                {}
                let left = StoredEventQuery { limit: 5_000, ..StoredEventQuery::default() };
                store.events(left).await.expect("read")
            }
        };
        let limits = EventLimits { events: 2_500, bytes: 1 << 20, age: 10_000 };
        let left = trim(3_000, limits).await;
        assert_eq!((left.len(), &*left[0], &*left[2_499]), (2_500, "2999", "500"));
        assert_eq!(trim(12_000, limits).await.len(), 1_000);
        let left = trim(3_000, EventLimits { bytes: 10_000, ..limits }).await;
        assert!(left.len() < 400 && left[0] == "2999", "{}", left.len());
    }
}
