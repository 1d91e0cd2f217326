//! The store's directory: permissions, lock, and the version of the tables.
//!
//! `DIR/outrigger.db` is an SQLite database in WAL mode (<https://sqlite.org/wal.html>); the `sqlite3`
//! command can read it. `DIR/lock` is locked while a sidecar uses the directory: a second one would
//! run the same jobs.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

/// One entry per version of the tables. The SQL of an entry never changes; new ones are appended.
pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("schema.sql"),
    include_str!("partition_index.sql"),
    include_str!("store_name.sql"),
    include_str!("episodes.sql"),
    include_str!("tracking.sql"),
    super::benchmark_runs::TABLES,
    include_str!("history.sql"),
];
/// SQLite's `application_id`: "OutR".
const APPLICATION_ID: i64 = 0x4f75_7452;
/// Automatic checkpoint. It comes only if the checkpoint thread falls behind (`writer.rs`).
const WAL_PAGES: u32 = 65_536;

/// Why the store cannot be used. Nothing was changed then.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    #[error(
        "{} is in use{} (stop that sidecar, or set another directory with --data)",
        .0.display(), .1.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    Locked(PathBuf, Option<u32>),
    #[error(
        "{} was written by a newer outrigger (table version {}, expected at most {}; run the newer one, or set another directory with --data)",
        .0.display(), .1, MIGRATIONS.len()
    )]
    Newer(PathBuf, i64),
    #[error(
        "{} is damaged or not a store of outrigger: {} (move it away, or restore a backup made with `outrigger backup`)",
        .0.display(), .1
    )]
    Damaged(PathBuf, String),
}

/// A directory that this process has locked.
#[derive(Debug)]
pub struct StoreDirectory {
    pub path: PathBuf,
    _lock: File,
}

impl StoreDirectory {
    /// Locks a directory. Creates it if missing, readable only by its owner.
    ///
    /// # Errors
    /// If it cannot be created, or another process has locked it.
    pub fn lock(path: &Path) -> Result<StoreDirectory, OpenError> {
        let io = |error| OpenError::Io(path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let name = path.join("lock");
        let io = |error| OpenError::Io(name.clone(), error);
        let mut lock = private(&name).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = lock.read_to_string(&mut text);
                return Err(OpenError::Locked(path.to_owned(), text.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let write_pid = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        // The process id is for error messages only: a full disk does not prevent the start.
        let _ = write_pid(&mut lock);
        Ok(StoreDirectory { path: path.to_owned(), _lock: lock })
    }

    pub fn database(&self) -> PathBuf {
        database(&self.path)
    }

    /// Opens the database for writing, migrates its tables, and checks it.
    ///
    /// # Errors
    /// If it cannot be opened, is newer than this program, or is damaged.
    pub fn prepare(&self) -> Result<Connection, OpenError> {
        let path = self.database();
        let io = |error| OpenError::Io(path.clone(), error);
        let file = private(&path).map_err(io)?;
        let damaged = |error: rusqlite::Error| self.error(&error);
        let version = {
            let reader = reader(&path).map_err(damaged)?;
            // The last connection to close checkpoints the WAL; the database may be another program's.
            reader
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .map_err(damaged)?;
            version(&reader, &path)?
        };
        // It may be a copy with other permissions.
        if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
        }
        drop(file);
        let mut db = self.writer().map_err(damaged)?;
        migrate(&mut db, version).map_err(damaged)?;
        let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let found: String = db.query_row("PRAGMA quick_check(1)", [], check).map_err(damaged)?;
        if found == "ok" { Ok(db) } else { Err(OpenError::Damaged(path, found)) }
    }

    /// Opens a connection for writing; one at a time.
    ///
    /// # Errors
    /// If the database cannot be opened.
    pub fn writer(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(self.database(), flags)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "foreign_keys", true)?;
        db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(db)
    }

    /// Converts an error of SQLite.
    pub fn error(&self, error: &rusqlite::Error) -> OpenError {
        use rusqlite::ErrorCode::{
            CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure,
        };
        let path = self.database();
        match error.sqlite_error_code() {
            Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure) => {
                OpenError::Io(path, io::Error::other(error.to_string()))
            }
            _ => OpenError::Damaged(path, error.to_string()),
        }
    }
}

/// The path of the database in a store's directory.
pub fn database(directory: &Path) -> PathBuf {
    directory.join("outrigger.db")
}

/// Opens a connection for reading.
///
/// # Errors
/// If the database cannot be opened.
pub fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "query_only", true)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// The version of a database's tables; 0 if it is empty.
///
/// # Errors
/// If it belongs to another program, or is newer.
fn version(db: &Connection, path: &Path) -> Result<i64, OpenError> {
    let damaged = |why: String| OpenError::Damaged(path.to_owned(), why);
    let number = |name: &str| {
        let read = db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        read.map_err(|error| damaged(error.to_string()))
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let empty = || {
        let tables = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
        tables.map(|tables: i64| tables == 0).map_err(|error| damaged(error.to_string()))
    };
    match (application, version) {
        (APPLICATION_ID, _) if version <= MIGRATIONS.len() as i64 => Ok(version),
        (APPLICATION_ID, _) => Err(OpenError::Newer(path.to_owned(), version)),
        // Most programs set neither number.
        (0, 0) if empty()? => Ok(0),
        _ => Err(damaged("the database belongs to another program".to_owned())),
    }
}

fn migrate(db: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(version).unwrap_or(0);
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let step = db.transaction()?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", index as i64 + 1)?;
        step.commit()?;
    }
    Ok(())
}

/// Writes a copy of the store's current state. A sidecar may be using the store.
///
/// # Errors
/// If the store cannot be read, or the copy exists or cannot be written.
pub fn backup(directory: &Path, to: &Path) -> Result<(), OpenError> {
    let path = database(directory);
    let missing = |error| OpenError::Io(path.clone(), error);
    std::fs::metadata(&path).map_err(missing)?;
    let damaged = |error: rusqlite::Error| OpenError::Damaged(path.clone(), error.to_string());
    let db = reader(&path).map_err(damaged)?;
    version(&db, &path)?;
    let io = |error| OpenError::Io(to.to_owned(), error);
    let name = to.to_str().ok_or_else(|| io(io::Error::other("its name is not UTF-8")))?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(io)?;
    db.pragma_update(None, "query_only", false).map_err(damaged)?;
    let copied = db.execute("VACUUM INTO ?1", [name]).map(|_| ());
    copied.map_err(|error| {
        // An incomplete copy could be mistaken for a backup.
        let _ = std::fs::remove_file(to);
        io(io::Error::other(error.to_string()))
    })
}

/// Opens a file that only its owner may read; creates it if missing.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
