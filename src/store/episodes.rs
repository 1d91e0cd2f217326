//! Stored episodes of degradation modes; the newest are kept.

use rusqlite::{Connection, params};

use super::Store;
use super::job::Millis;
use super::writer::StoreError;

const MAX_EPISODES: usize = 1000;

/// Inserts or updates an episode; deletes the oldest above the limit.
fn save(db: &Connection, began: Millis, mode: &str, record: &str) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO episodes (began, mode, record) VALUES (?1, ?2, ?3)
         ON CONFLICT (began, mode) DO UPDATE SET record = excluded.record",
    )?
    .execute(params![began.0, mode, record])?;
    db.prepare_cached(
        "DELETE FROM episodes WHERE began < (SELECT min(began) FROM
             (SELECT began FROM episodes ORDER BY began DESC LIMIT ?1))",
    )?
    .execute([MAX_EPISODES])?;
    Ok(())
}

fn all(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut read = db.prepare_cached("SELECT record FROM episodes ORDER BY began, mode")?;
    read.query_map([], |row| row.get(0))?.collect()
}

impl Store {
    /// Inserts or updates an episode, identified by its mode and start; `record` is JSON.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn save_episode(
        &self,
        began: Millis,
        mode: String,
        record: String,
    ) -> Result<(), StoreError> {
        self.0.writer.write(move |db| save(db, began, &mode, &record)).await
    }

    /// All stored episodes, the oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn episodes(&self) -> Result<Vec<String>, StoreError> {
        self.0.reader.read(all).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path(), Box::new(|_| ())).expect("a store")
    }

    #[tokio::test]
    async fn saving_an_episode_again_replaces_its_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        for (began, mode, record) in [(2, "b", "1"), (1, "a", "2"), (2, "b", "3"), (2, "a", "4")] {
            let save = store.save_episode(Millis(began), mode.to_owned(), record.to_owned());
            save.await.expect("written");
        }
        assert_eq!(store.episodes().await.expect("read"), ["2", "4", "3"]);
    }

    #[tokio::test]
    async fn the_oldest_episodes_are_deleted_above_the_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        let save = |n: i64| store.save_episode(Millis(n), "m".to_owned(), n.to_string());
        for n in 0..MAX_EPISODES as i64 + 20 {
            save(n).await.expect("written");
        }
        let episodes = store.episodes().await.expect("read");
        assert_eq!((episodes.len(), episodes[0].as_str()), (MAX_EPISODES, "20"));
    }
}
