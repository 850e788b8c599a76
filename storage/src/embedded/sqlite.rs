//! SQLite as we use it: settings, numbered migrations, and what its errors mean.
//!
//! A database is of one schema version, kept in `user_version`. Migrations only go forward; a database that a newer
//! program has written is refused with a sentence instead of being guessed at.

use std::path::Path;
use std::time::Duration;

use common::store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// One database file and the steps that made its schema, oldest first.
pub(super) struct Schema {
    pub(super) file: &'static str,
    steps: &'static [&'static str],
}

pub(super) const JOBS: Schema = Schema {
    file: "jobs.sqlite",
    steps: &[include_str!("../../migrations/jobs/0001_jobs.sql")],
};
pub(super) const CONTROL: Schema = Schema {
    file: "control.sqlite",
    steps: &[
        include_str!("../../migrations/control/0001_control.sql"),
        include_str!("../../migrations/control/0002_keys_by_user.sql"),
    ],
};
pub(super) const LOGS: Schema = Schema {
    file: "logs.sqlite",
    steps: &[include_str!("../../migrations/logs/0001_logs.sql")],
};

/// Only a checkpoint or a recovery at start ever holds a lock against us; both are shorter than this.
const BUSY: Duration = Duration::from_secs(10);
/// Statements kept prepared on a connection: more than we have.
const STATEMENTS: usize = 64;
/// Pages (4 KiB) of write-ahead log before the writer moves them into the database: 32 MiB, so that a page which many
/// jobs change is moved once and not for each group.
const CHECKPOINT_PAGES: u32 = 8_192;

/// The writing connection, its schema brought up to date.
pub(super) fn open_writer(folder: &Path, schema: &Schema) -> Result<Connection, StoreError> {
    let mut db = Connection::open(folder.join(schema.file)).map_err(sql)?;
    settle(&db)?;
    let setting = format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -32768;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
    );
    db.execute_batch(&setting).map_err(sql)?;
    migrate(&mut db, schema)?;
    Ok(db)
}

/// A connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(sql)?;
    settle(&db)?;
    Ok(db)
}

/// What holds for every connection.
fn settle(db: &Connection) -> Result<(), StoreError> {
    db.busy_timeout(BUSY).map_err(sql)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Plans do not depend on bound values, or SQLite would plan some statements anew at each use.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
        .map_err(sql)
}

fn migrate(db: &mut Connection, schema: &Schema) -> Result<(), StoreError> {
    let found: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sql)?;
    let known = schema.steps.len();
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= known)
        .ok_or_else(|| {
            corrupt(format!(
                "{} is of schema version {found}, this program knows versions up to {known}: run the newer program \
                 that wrote it",
                schema.file
            ))
        })?;
    for (number, step) in schema.steps.iter().enumerate().skip(done) {
        let transaction = db.transaction().map_err(sql)?;
        transaction.execute_batch(step).map_err(sql)?;
        transaction
            .pragma_update(
                None,
                "user_version",
                i64::try_from(number + 1).unwrap_or(i64::MAX),
            )
            .map_err(sql)?;
        transaction.commit().map_err(sql)?;
    }
    Ok(())
}

/// What an error of SQLite means to a caller.
pub(super) fn sql(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(Box::new(error)),
        Some(ErrorCode::ConstraintViolation) => StoreError::Exists,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt {
            what: "the database file".into(),
            source: Some(Box::new(error)),
        },
        _ => match error {
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                StoreError::Corrupt {
                    what: "a column".into(),
                    source: Some(Box::new(error)),
                }
            }
            other => StoreError::Unavailable(Box::new(other)),
        },
    }
}

/// What an error of the file system means to a caller.
pub(super) fn io(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StoreError::Full(Box::new(error))
        }
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

pub(super) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        what: what.into(),
        source: None,
    }
}

/// A document as it was stored.
pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &str, doc: &str) -> Result<T, StoreError> {
    serde_json::from_str(doc).map_err(|error| StoreError::Corrupt {
        what: what.into(),
        source: Some(Box::new(error)),
    })
}

pub(super) fn encode<T: serde::Serialize>(what: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt {
        what: what.into(),
        source: Some(Box::new(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_a_newer_program_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let db = open_writer(folder.path(), &JOBS).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        drop(db);
        let refusal = open_writer(folder.path(), &JOBS).unwrap_err().to_string();
        assert!(
            refusal.contains("99") && refusal.contains("newer program"),
            "{refusal}"
        );
    }

    #[test]
    fn a_migrated_database_opens_again_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for schema in [&JOBS, &CONTROL, &LOGS] {
            drop(open_writer(folder.path(), schema).unwrap());
            let db = open_writer(folder.path(), schema).unwrap();
            let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
            assert_eq!(version as usize, schema.steps.len());
            let mode: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!((mode.as_str(), synchronous), ("wal", 2));
        }
    }
}
