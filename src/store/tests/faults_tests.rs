//! Tests of the store under faults: exactly the acknowledged changes are kept.

use std::fs::{self, File, OpenOptions};
use std::future::poll_fn;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

use super::open;
use super::store_tests::*;
use super::*;
use crate::clock;

/// Small pages, so that a commit has few bytes.
const PAGE: usize = 512;
/// A page and its header in the journal.
const FRAME: usize = PAGE + 24;
const BEFORE: u64 = 5;

/// A store's files as they were when it was killed.
struct Killed {
    database: Vec<u8>,
    journal: Vec<u8>,
    /// Offset of the last commit in the journal.
    last: usize,
}

fn journal(directory: &Path) -> std::path::PathBuf {
    directory.join("outrigger.db-wal")
}

fn ids(some: impl IntoIterator<Item = u64>) -> Vec<JobId> {
    some.into_iter().map(id).collect()
}

impl Killed {
    /// Some jobs, and one more in a commit of its own.
    fn after_one_more() -> Killed {
        let folder = folder();
        let small = Connection::open(open::database(folder.path())).expect("a database");
        small.execute_batch(&format!("PRAGMA page_size = {PAGE}; VACUUM")).expect("small pages");
        drop(small);
        let store = open(folder.path());
        let read = |path: &Path| fs::read(path).expect("a file");
        run(async {
            for n in 1..=BEFORE {
                accepted(&store, job(n)).await;
            }
            let last = read(&journal(folder.path())).len();
            accepted(&store, job(BEFORE + 1)).await;
            let (database, journal) =
                (read(&open::database(folder.path())), read(&journal(folder.path())));
            assert!(journal.len() > last && journal.len().is_multiple_of(8));
            Killed { database, journal, last }
        })
    }

    fn put(&self, directory: &Path, journal_bytes: &[u8]) {
        let _ = fs::remove_file(directory.join("outrigger.db-shm"));
        fs::write(open::database(directory), &self.database).expect("written");
        fs::write(journal(directory), journal_bytes).expect("written");
    }

    /// The jobs in a store that is opened with this journal.
    fn found(&self, journal: &[u8]) -> Vec<JobId> {
        let folder = folder();
        self.put(folder.path(), journal);
        let store = open(folder.path());
        run(async {
            assert_totals(&store).await;
            job_ids(&store).await
        })
    }
}

/// Ids read directly with SQLite: opening a store for each byte would take minutes.
fn ids_in_database(directory: &Path) -> Vec<JobId> {
    let db = open::reader(&open::database(directory)).expect("a database");
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    let sql = "SELECT id FROM jobs JOIN requests USING (seq) ORDER BY seq";
    let mut statement = db.prepare(sql).expect("a statement");
    let ids = statement.query_map([], |row| row.get(0)).expect("rows");
    ids.collect::<rusqlite::Result<_>>().expect("ids")
}

#[test]
fn a_journal_cut_at_any_byte_of_its_last_commit_loses_nothing_before_it() {
    let killed = Killed::after_one_more();
    let folder = folder();
    killed.put(folder.path(), &killed.journal);
    let file = OpenOptions::new().write(true).open(journal(folder.path())).expect("a journal");
    let whole = killed.journal.len();
    for cut in (killed.last..=whole).rev() {
        file.set_len(cut as u64).expect("cut");
        let _ = fs::remove_file(folder.path().join("outrigger.db-shm"));
        let most = if cut == whole { BEFORE + 1 } else { BEFORE };
        assert_eq!(ids_in_database(folder.path()), ids(1..=most), "cut at {cut} of {whole}");
    }
    // The same for a whole store, at the edges of frames.
    for frame in (killed.last..=whole).step_by(FRAME) {
        for cut in [frame - 1, frame, frame + 1, frame + 24, frame + FRAME / 2] {
            if (killed.last..=whole).contains(&cut) {
                let most = if cut == whole { BEFORE + 1 } else { BEFORE };
                assert_eq!(killed.found(&killed.journal[..cut]), ids(1..=most), "cut at {cut}");
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_the_last_commit_loses_that_commit_and_nothing_before_it() {
    let killed = Killed::after_one_more();
    // Coprime with the size of a frame, so that every part of one is hit.
    for at in (killed.last..killed.journal.len()).step_by(149) {
        let mut journal = killed.journal.clone();
        journal[at] ^= 1 << (at % 8);
        assert_eq!(killed.found(&journal), ids(1..=BEFORE), "byte {at}");
    }
}

#[test]
fn a_job_that_ran_at_a_kill_is_ready_again_at_its_old_position() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        let mut seqs = Vec::new();
        for n in 1..=3 {
            seqs.push(accepted(&store, job(n)).await);
        }
        leased(&store, seqs[0]).await;
        leased(&store, seqs[2]).await;
    });
    close(store);
    let store = open(folder.path());
    assert_eq!(store.recovered(), 2);
    run(async {
        let next = store
            .upcoming(partition(), UpcomingCursor::default(), HashSet::new(), 9)
            .await
            .expect("a read");
        assert_eq!(next.iter().map(|(_, due)| due.id).collect::<Vec<_>>(), ids(1..=3));
        assert_eq!(shown(&store, id(1)).await.deliveries, 1);
        assert_totals(&store).await;
    });
}

// === the disk ===

/// Limits the database to this many pages.
async fn limit_pages(store: &Store, pages: &'static str) {
    let limit = move |db: &Connection| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        db.query_row(&sql, [], |row| row.get::<_, i64>(0))
    };
    store.0.writer.write(limit).await.expect("a limit");
}

/// A job whose body does not fit into free pages.
fn big(n: u64) -> NewJob {
    let mut big = job(n);
    big.request.body = bytes::Bytes::from(vec![b'x'; 200_000]);
    big
}

#[test]
fn a_full_disk_rejects_only_what_does_not_fit_and_recovers_when_there_is_space() {
    let folder = folder();
    let (store, commits) = open_observed(folder.path());
    run(async {
        accepted(&store, job(1)).await;
        let seq = accepted(&store, job(2)).await;
        // SQLite raises the limit to the present size.
        limit_pages(&store, "1").await;
        for _ in 0..3 {
            let full = accept(&store, big(3)).await.expect_err("no room");
            assert!(matches!(full, StoreError::Full), "{full}");
            assert_eq!(full.to_string(), "the store's disk is full");
        }
        assert_eq!(job_ids(&store).await, ids([1, 2]));
        assert_totals(&store).await;
        assert!(store.job(id(3)).await.expect("a read").is_none());
        // Changes that need no space succeed.
        let lease = leased(&store, seq).await;
        assert!(store.park(lease, None).await.expect("parked"));
        limit_pages(&store, "1000000").await;
        assert_eq!(accept(&store, big(3)).await.expect("accepted"), EnqueueResult::New);
        assert_eq!(shown(&store, id(3)).await.bytes, 200_000);
        assert_totals(&store).await;
    });
    assert_eq!(commits.lock().iter().filter(|(_, failed)| *failed).count(), 3);
    close(store);
    assert_eq!(open(folder.path()).recovered(), 0);
}

#[test]
fn an_unwritable_database_is_reopened_with_each_change() {
    let folder = folder();
    let store = open(folder.path());
    let (at, away) = (open::database(folder.path()), folder.path().join("away"));
    run(async {
        accepted(&store, job(1)).await;
        let read_only = |db: &Connection| db.pragma_update(None, "query_only", true);
        store.0.writer.write(read_only).await.expect("set");
        let failed = accept(&store, job(2)).await.expect_err("read-only");
        assert!(matches!(&failed, StoreError::Io(why) if why.contains("readonly")), "{failed}");
        // It is reopened; every change fails until that succeeds.
        fs::rename(&at, &away).expect("moved");
        for _ in 0..2 {
            let failed = accept(&store, job(2)).await.expect_err("no file");
            assert!(matches!(&failed, StoreError::Io(why) if why.contains("open")), "{failed}");
        }
        assert!(!at.exists(), "a new database was made beside the old one");
        fs::rename(&away, &at).expect("moved");
        assert_eq!(accept(&store, job(2)).await.expect("accepted"), EnqueueResult::New);
        assert_eq!(job_ids(&store).await, ids([1, 2]));
        assert_totals(&store).await;
    });
    close(store);
    run(async { assert_eq!(job_ids(&open(folder.path())).await, ids([1, 2])) });
}

#[test]
fn a_reopened_write_connection_syncs_too() {
    let folder = folder();
    let store = open(folder.path());
    let number = |db: &Connection, name: &str| db.pragma_query_value(None, name, |row| row.get(0));
    run(async {
        for again in [false, true] {
            let read = move |db: &Connection| -> rusqlite::Result<(i64, i64, String)> {
                let mode = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
                Ok((number(db, "synchronous")?, number(db, "foreign_keys")?, mode))
            };
            let settings = store.0.writer.write(read).await.expect("settings");
            assert_eq!(settings, (2, 1, "wal".to_owned()), "reopened: {again}");
            let fails = |db: &Connection| db.execute("no statement", []);
            store.0.writer.write(fails).await.expect_err("an error");
        }
    });
}

// === batches ===

type Accepting = Pin<Box<dyn Future<Output = Result<EnqueueResult, StoreError>>>>;

/// Enqueues all jobs in one commit, while the writer is busy with another.
async fn at_once(store: &Store, jobs: Vec<NewJob>) -> Vec<Result<EnqueueResult, StoreError>> {
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let writer = store.0.writer.clone();
    let busy = tokio::spawn(async move {
        let hold = move |_: &Connection| {
            begun.send(()).expect("a test");
            wait.recv().map_err(|_| rusqlite::Error::QueryReturnedNoRows)
        };
        writer.write(hold).await
    });
    tokio::task::yield_now().await;
    begins.recv().expect("the writer is busy");
    let mut waiting: Vec<Accepting> = Vec::new();
    for job in jobs {
        let store = store.clone();
        let mut accepting: Accepting = Box::pin(async move { accept(&store, job).await });
        let first = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        waiting.push(accepting);
    }
    go.send(()).expect("a writer");
    busy.await.expect("no panic").expect("held");
    let mut outcomes = Vec::new();
    for accepting in waiting {
        outcomes.push(accepting.await);
    }
    outcomes
}

#[test]
fn a_failed_change_fails_no_other_change_of_its_batch() {
    let folder = folder();
    let (store, commits) = open_observed(folder.path());
    run(async {
        accepted(&store, job(1)).await;
        commits.lock().clear();
        // The fourth has an id that is taken.
        let jobs = [2, 3, 4, 1, 5, 6].map(job).to_vec();
        let outcomes = at_once(&store, jobs).await;
        let refused: Vec<bool> = outcomes.iter().map(Result::is_err).collect();
        assert_eq!(refused, [false, false, false, true, false, false]);
        assert_eq!(job_ids(&store).await, ids(1..=6));
        assert_totals(&store).await;
        let one = |failed| (1, failed);
        let alone = [one(false), one(false), one(false), one(true), one(false), one(false)];
        assert_eq!(*commits.lock(), [&[(1, false), (6, true)][..], &alone].concat());
    });
}

#[test]
fn a_change_that_fits_a_full_disk_succeeds_in_a_batch_with_one_that_does_not() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        // A deleted big job leaves space for a few small ones.
        accepted(&store, big(1)).await;
        store.cancel(id(1), None, NOW).await.expect("cancelled");
        assert_eq!(store.purge("jobs".to_owned(), JobState::Cancelled).await.expect("purged"), 1);
        limit_pages(&store, "1").await;
        let mut bigger = big(3);
        bigger.request.body = bytes::Bytes::from(vec![b'x'; 400_000]);
        let outcomes = at_once(&store, vec![job(2), bigger, job(4)]).await;
        assert!(matches!(outcomes[..], [Ok(_), Err(StoreError::Full), Ok(_)]), "{outcomes:?}");
        assert_eq!(job_ids(&store).await, ids([2, 4]));
        assert_totals(&store).await;
    });
}

// === directory and files ===

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn refused(path: &Path) -> OpenError {
    Store::open(path, Box::new(|_| {})).expect_err("it cannot be used")
}

#[test]
fn only_the_owner_may_read_a_store() {
    let folder = folder();
    let below = folder.path().join("state").join("outrigger");
    let store = open(&below);
    run(accepted(&store, job(1)));
    assert_eq!((mode(&below), mode(&folder.path().join("state"))), (0o700, 0o700));
    for name in ["outrigger.db", "outrigger.db-wal", "outrigger.db-shm", "lock"] {
        assert_eq!(mode(&below.join(name)), 0o600, "{name}");
    }
    close(store);
    let database = open::database(&below);
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).expect("a mode");
    let store = open(&below);
    run(accepted(&store, job(2)));
    assert_eq!((mode(&database), mode(&journal(&below))), (0o600, 0o600));
}

#[test]
fn a_store_that_is_in_use_names_the_process() {
    let folder = folder();
    let store = open(folder.path());
    let error = refused(folder.path());
    let own = std::process::id();
    assert!(matches!(&error, OpenError::Locked(_, Some(pid)) if *pid == own), "{error}");
    let message = error.to_string();
    assert!(
        message.contains(&format!("is in use by process {own} (stop that sidecar")),
        "{message}"
    );
    run(accepted(&store, job(1)));
    close(store);
    run(async { assert_eq!(job_ids(&open(folder.path())).await, ids([1])) });
}

/// The database and its journal: paths, modes and bytes.
fn bytes_of(directory: &Path) -> Vec<(std::path::PathBuf, u32, Vec<u8>)> {
    let paths = [open::database(directory), journal(directory)];
    let there = paths.into_iter().filter(|path| path.exists());
    there.map(|path| (path.clone(), mode(&path), fs::read(&path).expect("a file"))).collect()
}

#[test]
fn a_store_of_a_newer_version_is_rejected_and_unchanged() {
    let killed = {
        let folder = folder();
        let store = open(folder.path());
        run(async {
            accepted(&store, job(1)).await;
            let newer = |db: &Connection| db.pragma_update(None, "user_version", 99);
            store.0.writer.write(newer).await.expect("a version");
        });
        bytes_of(folder.path())
    };
    let folder = folder();
    for (path, _, bytes) in &killed {
        fs::write(folder.path().join(path.file_name().expect("a name")), bytes).expect("written");
    }
    let before = bytes_of(folder.path());
    assert_eq!(before.len(), 2, "a database and its journal");
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Newer(_, 99)), "{error}");
    let message = error.to_string();
    let expected = format!("table version 99, expected at most {}", open::MIGRATIONS.len());
    assert!(message.contains(&expected), "{message}");
    assert_eq!(bytes_of(folder.path()), before);
}

#[test]
fn a_database_of_another_program_is_rejected_and_unchanged() {
    for application in [0, 1234] {
        let folder = folder();
        let db = Connection::open(open::database(folder.path())).expect("a database");
        db.execute_batch("CREATE TABLE bookmarks (url TEXT)").expect("a table");
        db.pragma_update(None, "application_id", application).expect("an id");
        drop(db);
        let before = bytes_of(folder.path());
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::Damaged(..)), "{error}");
        assert!(error.to_string().contains("the database belongs to another program"), "{error}");
        assert_eq!(bytes_of(folder.path()), before);
    }
}

#[test]
fn a_damaged_database_is_rejected() {
    let folder = folder();
    let store = open(folder.path());
    run(async {
        for n in 0..50 {
            accepted(&store, big(n)).await;
        }
    });
    close(store);
    let (path, whole) = (open::database(folder.path()), folder.path().join("whole"));
    // If two connections are closed at once, each may leave the journal to the other, and its intact
    // pages would repair the damage.
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let db = Connection::open(&path).expect("a database");
    // SQLite does not wait for a checkpoint of the store that is still running.
    let until = clock::now() + PATIENCE;
    while db.query_row(checkpoint, [], |row| row.get(0)) != Ok(0_i64) {
        assert!(clock::now() < until, "no checkpoint");
        std::thread::yield_now();
    }
    drop(db);
    fs::copy(&path, &whole).expect("copied");
    let length = fs::metadata(&path).expect("a file").len();
    let damages: [fn(&mut File, u64); 4] = [
        |file, _| file.write_all(b"this is a text and no database").expect("written"),
        |file, length| file.set_len(length / 2).expect("cut"),
        |file, _| {
            // A page of the first table.
            file.seek(SeekFrom::Start(4096)).expect("there");
            file.write_all(&[0xff; 4096]).expect("written");
        },
        |file, _| file.set_len(50).expect("cut"),
    ];
    for damage in damages {
        fs::copy(&whole, &path).expect("copied");
        damage(&mut OpenOptions::new().write(true).open(&path).expect("a file"), length);
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::Damaged(..)), "{error}");
        assert!(error.to_string().contains("restore a backup"), "{error}");
    }
    fs::copy(&whole, &path).expect("copied");
    run(async { assert_eq!(open(folder.path()).totals().await.expect("totals")[0].jobs, 50) });
}

#[test]
fn a_path_that_cannot_be_a_store_is_rejected() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "a file").expect("written");
    assert!(matches!(refused(&file), OpenError::Io(..)));
    let taken = folder.path().join("taken");
    fs::DirBuilder::new().mode(0o700).create(&taken).expect("a folder");
    fs::create_dir(open::database(&taken)).expect("a folder");
    assert!(matches!(refused(&taken), OpenError::Io(..)));
}

// === versions and copies ===

#[test]
fn a_store_of_the_first_version_is_migrated_with_its_jobs() {
    let folder = folder();
    let db = Connection::open(open::database(folder.path())).expect("a database");
    db.execute_batch(include_str!("../schema.sql")).expect("the first tables");
    db.pragma_update(None, "application_id", 0x4f75_7452).expect("an id");
    db.pragma_update(None, "user_version", 1).expect("a version");
    assert_eq!(
        transitions::enqueue(&db, &job(1), ROOM, NOW).expect("accepted"),
        EnqueueResult::New
    );
    let key = queries::note::<32>(&db, "principal_key").expect("a key");
    drop(db);
    let store = open(folder.path());
    assert_eq!(store.principal_key(), &key);
    run(async {
        accepted(&store, job(2)).await;
        assert_eq!(store.partitions().await.expect("partitions"), [partition()]);
        let next = store
            .upcoming(partition(), UpcomingCursor::default(), HashSet::new(), 9)
            .await
            .expect("a read");
        assert_eq!(next.iter().map(|(_, due)| due.id).collect::<Vec<_>>(), ids([1, 2]));
    });
    close(store);
    let db = Connection::open(open::database(folder.path())).expect("a database");
    let version: usize =
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
    assert_eq!(version, open::MIGRATIONS.len());
    drop(db);
    // An empty file becomes a store, which keeps its key.
    let folder = self::folder();
    fs::write(open::database(folder.path()), "").expect("a file");
    let store = open(folder.path());
    let (key, name) = (*store.principal_key(), store.name());
    run(accepted(&store, job(1)));
    close(store);
    let store = open(folder.path());
    assert_eq!((store.principal_key(), store.name()), (&key, name));
    run(async { assert_eq!(job_ids(&store).await, ids([1])) });
}

#[test]
fn a_backup_made_while_jobs_arrive_is_a_store() {
    let (folder, elsewhere) = (folder(), folder());
    let store = open(folder.path());
    let (to, copies) = (open::database(elsewhere.path()), folder.path().to_owned());
    run(async {
        for n in 1..=50 {
            accepted(&store, job(n)).await;
        }
        let (copied, mut done) = oneshot::channel();
        let copying = to.clone();
        std::thread::spawn(move || copied.send(backup(&copies, &copying)));
        let mut n = 50;
        let copied = loop {
            n += 1;
            accepted(&store, job(n)).await;
            if let Ok(copied) = done.try_recv() {
                break copied;
            }
        };
        copied.expect("a copy");
        assert_eq!(mode(&to), 0o600);
        let before = fs::read(&to).expect("a copy");
        let error = backup(folder.path(), &to).expect_err("it is there");
        assert!(error.to_string().contains("exists"), "{error}");
        assert_eq!(fs::read(&to).expect("a copy"), before);
        let copy = open(elsewhere.path());
        let there = job_ids(&copy).await;
        assert!(there.len() >= 50 && there.len() as u64 <= n, "{} of {n}", there.len());
        assert_eq!(there, ids(1..=there.len() as u64));
        assert_totals(&copy).await;
        assert_eq!(copy.principal_key(), store.principal_key());
    });
}

#[test]
fn a_failed_backup_leaves_no_file() {
    let (from, to): (TempDir, TempDir) = (folder(), folder());
    let name = to.path().join("copy.db");
    assert!(matches!(backup(from.path(), &name), Err(OpenError::Io(..))));
    assert!(!open::database(from.path()).exists() && !name.exists());
    fs::write(open::database(from.path()), "this is a text and no database").expect("a file");
    assert!(matches!(backup(from.path(), &name), Err(OpenError::Damaged(..))));
    assert!(!name.exists());
    let nowhere = to.path().join("no such folder").join("copy.db");
    let store = folder();
    close(open(store.path()));
    assert!(matches!(backup(store.path(), &nowhere), Err(OpenError::Io(..))));
}
