//! Room at the end of a write-ahead log, so that a commit need not make its file longer.
//!
//! Making a file longer is a change of its metadata, which has to reach the disk too before a commit is durable: a
//! commit within the file's length takes half as long. SQLite reads only frames whose checksums follow from its
//! header, so zeros at the end are nothing to it. Failure costs time alone: the next commit makes its own room.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Made at once: some hundred commits of one job each, and less than a millisecond's work.
const STEP: usize = 1024 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

pub(super) struct WalRoom {
    path: PathBuf,
    file: Option<File>,
    /// As long as we made it; a longer file was made so by a commit.
    length: u64,
}

impl WalRoom {
    /// Of a database's log. The file need not be there yet.
    pub(super) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            file: None,
            length: 0,
        }
    }

    /// Whether a commit made the log longer, or it was cut: then [`Self::keep_ahead`] has something to do.
    pub(super) fn is_used_up(&self) -> bool {
        match &self.file {
            Some(file) => file.metadata().is_ok_and(|now| now.len() != self.length),
            None => true,
        }
    }

    /// To be called between commits.
    pub(super) fn keep_ahead(&mut self) {
        if let Err(error) = self.extend() {
            tracing::debug!(%error, "no room was made in a write-ahead log");
            self.file = None;
        }
    }

    fn extend(&mut self) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().write(true).open(&self.path)?;
                self.length = 0;
                self.file.insert(file)
            }
        };
        let length = file.metadata()?.len();
        if length <= self.length {
            // Unused room, or the log began anew in the same file.
            self.length = length;
            return Ok(());
        }
        for step in 0..(STEP / ZEROS.len()) as u64 {
            file.write_all_at(&ZEROS, length + step * ZEROS.len() as u64)?;
        }
        file.sync_data()?;
        self.length = length + STEP as u64;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn database(place: &Path) -> (PathBuf, Connection) {
        let path = place.join("test.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (n INTEGER)",
        )
        .unwrap();
        (path, db)
    }

    #[test]
    fn commits_find_room_and_are_there_after_a_kill() {
        let place = tempfile::tempdir().unwrap();
        let (path, db) = database(place.path());
        let mut room = WalRoom::of(&path);
        let mut lengths = std::collections::BTreeSet::new();
        for number in 0..100 {
            db.execute("INSERT INTO t VALUES (?1)", [number]).unwrap();
            room.keep_ahead();
            lengths.insert(room.file.as_ref().unwrap().metadata().unwrap().len());
        }
        assert_eq!(lengths.len(), 1, "a commit made the file longer: {lengths:?}");
        // What a killed process leaves: both files as they are, copied while nothing is closed.
        let copy = tempfile::tempdir().unwrap();
        for end in ["", "-wal"] {
            let name = format!("test.sqlite{end}");
            std::fs::copy(place.path().join(&name), copy.path().join(&name)).unwrap();
        }
        let (_, again) = database(copy.path());
        let count: i64 = again
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 100);
    }

    #[test]
    fn a_log_that_is_not_there_costs_nothing() {
        let place = tempfile::tempdir().unwrap();
        let mut room = WalRoom::of(&place.path().join("none.sqlite"));
        room.keep_ahead();
        assert!(room.file.is_none());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
