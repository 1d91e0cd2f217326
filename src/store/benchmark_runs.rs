//! Runs of benchmarks and their baselines; the newest are kept, and every baseline.
//!
//! Without a store the same tables are in memory, for fewer runs, and end with the process.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Store;
use super::job::Millis;
use super::writer::StoreError;

pub(super) const TABLES: &str = include_str!("benchmark_runs.sql");
const MAX_BASELINES: i64 = 200;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct RunLimits {
    /// The newest runs of each benchmark.
    runs: u32,
    /// Bytes of all benchmarks; the oldest runs are deleted first.
    bytes: u64,
}

const IN_STORE: RunLimits = RunLimits { runs: 1000, bytes: 256 << 20 };
const IN_MEMORY: RunLimits = RunLimits { runs: 20, bytes: 32 << 20 };

/// A run as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// Ascending with the time of the start.
    pub id: String,
    pub benchmark: String,
    pub target: String,
    pub state: String,
    /// It was started by the schedule.
    pub scheduled: bool,
    /// When this was written.
    pub at: Millis,
    /// JSON.
    pub report: String,
    /// `None` while it runs.
    pub details: Option<StoredRunDetails>,
}

/// The large parts of a run that has ended.
#[derive(Clone, Debug, Default)]
pub struct StoredRunDetails {
    /// JSON.
    pub report: String,
    pub blocks: Vec<u8>,
}

/// Which runs a list has.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    pub benchmark: Option<String>,
    pub state: Option<String>,
    /// Only runs with a smaller id.
    pub before: Option<String>,
    pub limit: u32,
}

/// The result of setting a baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaselineResult {
    Set,
    UnknownRun,
    /// The run is of this benchmark.
    OtherBenchmark(String),
    /// The run is in this state: it has no figures.
    NotDone(String),
    /// This many are set.
    TooMany(i64),
}

/// The tables of runs: in the store, or in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct BenchmarkRuns(Place);

#[derive(Clone, Debug)]
enum Place {
    Store(Store),
    Memory(Arc<Mutex<Connection>>),
}

/// Ends the runs that an earlier process did not end. They have no figures.
pub(super) fn abort_running(db: &Connection) -> rusqlite::Result<usize> {
    let reason = "the sidecar ended during the run";
    db.execute(
        "UPDATE benchmark_runs SET state = 'aborted', report = CASE WHEN json_valid(report)
             THEN json_set(report, '$.state', 'aborted', '$.reason', ?1) ELSE report END
         WHERE state = 'running'",
        [reason],
    )
}

fn save(db: &Connection, run: &StoredRun, limits: RunLimits) -> rusqlite::Result<()> {
    let ended = run.details.as_ref().map(|_| run.at.0);
    let sizes = run.details.iter().map(|details| details.report.len() + details.blocks.len());
    let bytes = run.report.len() + sizes.sum::<usize>();
    let (id, benchmark, at) = (&run.id, &run.benchmark, run.at.0);
    db.prepare_cached(
        "INSERT INTO benchmark_runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, ended = excluded.ended,
             bytes = excluded.bytes, report = excluded.report WHERE state = 'running'",
    )?
    .execute(params![
        id,
        benchmark,
        run.target,
        run.state,
        run.scheduled,
        at,
        ended,
        bytes,
        run.report
    ])?;
    if let Some(StoredRunDetails { report, blocks }) = &run.details {
        db.prepare_cached("INSERT OR REPLACE INTO benchmark_details VALUES (?1, ?2, ?3)")?
            .execute(params![id, report, blocks])?;
    }
    prune(db, limits)
}

/// Deletes the oldest runs above the limits, but no baseline.
fn prune(db: &Connection, limits: RunLimits) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM benchmark_runs WHERE id IN (SELECT id FROM (
             SELECT id, row_number() OVER (PARTITION BY benchmark ORDER BY id DESC) AS place,
                 sum(bytes) OVER (ORDER BY id DESC) AS total FROM benchmark_runs)
             WHERE place > ?1 OR total > ?2)
         AND id NOT IN (SELECT run FROM benchmark_baselines)",
    )?
    .execute(params![limits.runs, limits.bytes])?;
    Ok(())
}

fn list(db: &Connection, filter: &RunFilter) -> rusqlite::Result<Vec<String>> {
    let RunFilter { benchmark, state, before, limit } = filter;
    let mut read = db.prepare_cached(
        "SELECT report FROM benchmark_runs WHERE (?1 IS NULL OR benchmark = ?1)
             AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR id < ?3)
         ORDER BY id DESC LIMIT ?4",
    )?;
    read.query_map(params![benchmark, state, before, limit], |row| row.get(0))?.collect()
}

fn run(db: &Connection, id: &str) -> rusqlite::Result<Option<(String, StoredRunDetails)>> {
    let read = |row: &Row<'_>| {
        let details = StoredRunDetails {
            report: row.get::<_, Option<_>>(1)?.unwrap_or_default(),
            blocks: row.get::<_, Option<_>>(2)?.unwrap_or_default(),
        };
        Ok((row.get(0)?, details))
    };
    db.prepare_cached(
        "SELECT r.report, d.details, d.blocks
         FROM benchmark_runs r LEFT JOIN benchmark_details d USING (id) WHERE id = ?1",
    )?
    .query_row([id], read)
    .optional()
}

fn scheduled_start(db: &Connection, benchmark: &str) -> rusqlite::Result<Option<Millis>> {
    db.prepare_cached("SELECT max(began) FROM benchmark_runs WHERE benchmark = ?1 AND scheduled")?
        .query_row([benchmark], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Millis)))
}

fn baseline(db: &Connection, benchmark: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT run FROM benchmark_baselines WHERE benchmark = ?1")?
        .query_row([benchmark], |row| row.get(0))
        .optional()
}

fn set_baseline(db: &Connection, benchmark: &str, id: &str) -> rusqlite::Result<BaselineResult> {
    let found: Option<(String, String)> = db
        .prepare_cached("SELECT benchmark, state FROM benchmark_runs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let others = "SELECT count(*) FROM benchmark_baselines WHERE benchmark <> ?1";
    let others: i64 = db.prepare_cached(others)?.query_row([benchmark], |row| row.get(0))?;
    Ok(match found {
        None => BaselineResult::UnknownRun,
        Some((of, _)) if of != benchmark => BaselineResult::OtherBenchmark(of),
        Some((_, state)) if state != "done" => BaselineResult::NotDone(state),
        Some(_) if others >= MAX_BASELINES => BaselineResult::TooMany(others),
        Some(_) => {
            db.prepare_cached("INSERT OR REPLACE INTO benchmark_baselines VALUES (?1, ?2)")?
                .execute([benchmark, id])?;
            BaselineResult::Set
        }
    })
}

impl BenchmarkRuns {
    /// The tables in the store, or in memory without one.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn new(store: Option<Store>) -> Result<BenchmarkRuns, StoreError> {
        let memory = || {
            let db = Connection::open_in_memory()?;
            db.pragma_update(None, "foreign_keys", true)?;
            db.execute_batch(TABLES).map(|()| Place::Memory(Arc::new(Mutex::new(db))))
        };
        let failed = |error: rusqlite::Error| StoreError::Io(error.to_string());
        store
            .map_or_else(memory, |store| Ok(Place::Store(store)))
            .map(BenchmarkRuns)
            .map_err(failed)
    }

    /// The runs outlive the process.
    pub fn is_durable(&self) -> bool {
        matches!(self.0, Place::Store(_))
    }

    async fn write<T: Send + 'static>(
        &self,
        mut change: impl FnMut(&Connection, RunLimits) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.0 {
            Place::Store(store) => store.0.writer.write(move |db| change(db, IN_STORE)).await,
            Place::Memory(db) => {
                change(&db.lock(), IN_MEMORY).map_err(|error| StoreError::Io(error.to_string()))
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.0 {
            Place::Store(store) => store.0.reader.read(query).await,
            Place::Memory(db) => {
                query(&db.lock()).map_err(|error| StoreError::Io(error.to_string()))
            }
        }
    }
}

/// Changes and queries.
///
/// # Errors
/// If the store cannot be read or written.
impl BenchmarkRuns {
    /// Inserts or updates a run, and deletes the oldest above the limits.
    pub async fn save(&self, run: StoredRun) -> Result<(), StoreError> {
        self.write(move |db, limits| save(db, &run, limits)).await
    }

    /// The JSON of runs without details, the newest first.
    pub async fn list(&self, filter: RunFilter) -> Result<Vec<String>, StoreError> {
        self.read(move |db| list(db, &filter)).await
    }

    /// The JSON of a run, and its details.
    pub async fn run(&self, id: String) -> Result<Option<(String, StoredRunDetails)>, StoreError> {
        self.read(move |db| run(db, &id)).await
    }

    /// The last start by the schedule.
    pub async fn scheduled_start(&self, benchmark: String) -> Result<Option<Millis>, StoreError> {
        self.read(move |db| scheduled_start(db, &benchmark)).await
    }

    pub async fn baseline(&self, benchmark: String) -> Result<Option<String>, StoreError> {
        self.read(move |db| baseline(db, &benchmark)).await
    }

    pub async fn set_baseline(
        &self,
        benchmark: String,
        run: String,
    ) -> Result<BaselineResult, StoreError> {
        self.write(move |db, _| set_baseline(db, &benchmark, &run)).await
    }

    /// Returns whether there was one.
    pub async fn clear_baseline(&self, benchmark: String) -> Result<bool, StoreError> {
        let sql = "DELETE FROM benchmark_baselines WHERE benchmark = ?1";
        self.write(move |db, _| Ok(db.prepare_cached(sql)?.execute([&benchmark])? > 0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::store_tests::close;

    fn stored(id: u32, benchmark: &str, state: &str, blocks: usize) -> StoredRun {
        let details = StoredRunDetails { report: "[]".to_owned(), blocks: vec![7; blocks] };
        StoredRun {
            id: format!("{id:04}"),
            benchmark: benchmark.to_owned(),
            target: "route chat".to_owned(),
            state: state.to_owned(),
            scheduled: id.is_multiple_of(2),
            at: Millis(i64::from(id)),
            report: format!("{{\"id\":\"{id:04}\",\"state\":\"{state}\"}}"),
            details: (state != "running").then_some(details),
        }
    }

    fn memory() -> BenchmarkRuns {
        BenchmarkRuns::new(None).expect("tables")
    }

    fn open(folder: &tempfile::TempDir) -> BenchmarkRuns {
        let store = Store::open(folder.path(), Box::new(|_| ())).expect("a store");
        BenchmarkRuns::new(Some(store)).expect("tables")
    }

    async fn ids(runs: &BenchmarkRuns, benchmark: &str) -> Vec<String> {
        let filter = RunFilter {
            benchmark: Some(benchmark.to_owned()),
            limit: 5000,
            ..RunFilter::default()
        };
        let id = |text: &String| text["{\"id\":\"".len()..][..4].to_owned();
        runs.list(filter).await.expect("read").iter().map(id).collect()
    }

    #[tokio::test]
    async fn the_newest_runs_of_each_benchmark_and_every_baseline_are_kept() {
        let runs = memory();
        runs.save(stored(0, "b", "done", 1)).await.expect("written");
        for id in 1..40 {
            runs.save(stored(id, "a", "done", 1)).await.expect("written");
            if id == 5 {
                let set = runs.set_baseline("a".to_owned(), "0005".to_owned()).await;
                assert_eq!(set.expect("written"), BaselineResult::Set);
            }
        }
        let kept = ids(&runs, "a").await;
        assert_eq!((kept.len(), kept[0].as_str(), kept[19].as_str()), (21, "0039", "0020"));
        assert_eq!(kept[20], "0005");
        assert_eq!(ids(&runs, "b").await, ["0000"]);
        assert!(runs.clear_baseline("a".to_owned()).await.expect("written"));
        runs.save(stored(40, "a", "done", 1)).await.expect("written");
        assert_eq!(ids(&runs, "a").await.last().map(String::as_str), Some("0021"));
    }

    #[tokio::test]
    async fn the_oldest_runs_are_deleted_above_the_limit_of_bytes() {
        let runs = memory();
        for id in 0..6 {
            let name = if id < 3 { "a" } else { "b" };
            runs.save(stored(id, name, "done", 10 << 20)).await.expect("written");
        }
        assert_eq!((ids(&runs, "a").await.len(), ids(&runs, "b").await.len()), (0, 3));
    }

    #[tokio::test]
    async fn a_run_that_the_process_did_not_end_is_aborted_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let runs = open(&folder);
        runs.save(stored(1, "a", "done", 1)).await.expect("written");
        runs.save(stored(2, "a", "running", 1)).await.expect("written");
        let BenchmarkRuns(Place::Store(store)) = runs else { panic!("it is in memory") };
        close(store);
        let runs = open(&folder);
        let (report, details) = runs.run("0002".to_owned()).await.expect("read").expect("a run");
        assert!(report.contains("\"aborted\"") && report.contains("the sidecar ended"), "{report}");
        assert!(details.report.is_empty() && details.blocks.is_empty());
        let (report, _) = runs.run("0001".to_owned()).await.expect("read").expect("a run");
        assert!(report.contains("\"done\""), "{report}");
        let start = runs.scheduled_start("a".to_owned()).await.expect("read");
        assert_eq!(start, Some(Millis(2)));
    }

    #[tokio::test]
    async fn only_a_finished_run_of_the_benchmark_is_its_baseline() {
        let runs = memory();
        runs.save(stored(1, "a", "done", 1)).await.expect("written");
        runs.save(stored(2, "a", "aborted", 1)).await.expect("written");
        for (benchmark, run, expected) in [
            ("a", "0009", BaselineResult::UnknownRun),
            ("b", "0001", BaselineResult::OtherBenchmark("a".to_owned())),
            ("a", "0002", BaselineResult::NotDone("aborted".to_owned())),
            ("a", "0001", BaselineResult::Set),
        ] {
            let set = runs.set_baseline(benchmark.to_owned(), run.to_owned()).await;
            assert_eq!(set.expect("written"), expected, "{benchmark} {run}");
        }
        assert_eq!(runs.baseline("a".to_owned()).await.expect("read").as_deref(), Some("0001"));
        assert!(!runs.clear_baseline("b".to_owned()).await.expect("written"));
    }
}
