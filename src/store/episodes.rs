//! Times that a mode of degradation was in force: the newest are kept.

use rusqlite::{Connection, params};

use super::Store;
use super::job::Millis;
use super::writer::StoreError;

/// That are kept.
const EPISODES: usize = 1000;

/// Writes one down, or what became of it since; the oldest give way.
fn keep(db: &Connection, began: Millis, mode: &str, record: &str) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO episodes (began, mode, record) VALUES (?1, ?2, ?3)
         ON CONFLICT (began, mode) DO UPDATE SET record = excluded.record",
    )?
    .execute(params![began.0, mode, record])?;
    db.prepare_cached(
        "DELETE FROM episodes WHERE began < (SELECT min(began) FROM
             (SELECT began FROM episodes ORDER BY began DESC LIMIT ?1))",
    )?
    .execute([EPISODES])?;
    Ok(())
}

fn all(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut read = db.prepare_cached("SELECT record FROM episodes ORDER BY began, mode")?;
    read.query_map([], |row| row.get(0))?.collect()
}

impl Store {
    /// Writes an episode down, or what became of it since. It is told apart by its mode and when it
    /// began; `record` is JSON.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn keep_episode(
        &self,
        began: Millis,
        mode: String,
        record: String,
    ) -> Result<(), StoreError> {
        self.0.writer.write(move |db| keep(db, began, &mode, &record)).await
    }

    /// Every episode that is kept, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn episodes(&self) -> Result<Vec<String>, StoreError> {
        self.0.reader.read(all).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path(), Box::new(|_| ())).expect("a store")
    }

    #[tokio::test]
    async fn an_episode_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = store(&folder);
        for (began, mode, record) in [(2, "b", "1"), (1, "a", "2"), (2, "b", "3"), (2, "a", "4")] {
            let keep = kept.keep_episode(Millis(began), mode.to_owned(), record.to_owned());
            keep.await.expect("written");
        }
        assert_eq!(kept.episodes().await.expect("read"), ["2", "4", "3"]);
    }

    #[tokio::test]
    async fn the_oldest_give_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = store(&folder);
        let keep = |n: i64| kept.keep_episode(Millis(n), "m".to_owned(), n.to_string());
        for n in 0..EPISODES as i64 + 20 {
            keep(n).await.expect("written");
        }
        let episodes = kept.episodes().await.expect("read");
        assert_eq!((episodes.len(), episodes[0].as_str()), (EPISODES, "20"));
    }
}
