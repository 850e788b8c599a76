//! Log segments: large append-only files that all attempts share, so that one `fdatasync` serves a whole group.
//!
//! Order of a write: bytes, `fdatasync`, then the commit of the index rows that name them. A crash between the two
//! leaves bytes that nobody names, which the next write overwrites or the next opening forgets. A segment is deleted
//! once no row names it. After a failed sync the segment is given up: what the kernel did with its pages is unknown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::store::StoreError;
use rusqlite::{Connection, params};

use super::folder::sync_dir;
use super::sqlite::{io, sql};
use super::writer::State;

/// A segment that has reached this size is followed by another: small enough to be freed soon, large enough to be few.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// What the log lane's thread owns: the index, the segment that grows, and the group's bytes.
pub(super) struct LogState {
    db: Connection,
    folder: PathBuf,
    segment: i64,
    /// None until the first write after opening or after the last one was given up.
    file: Option<File>,
    /// Durable and named bytes of the segment.
    length: u64,
    /// Of the group under way.
    buffer: Vec<u8>,
    /// Changes of the number of chunks in use, by segment.
    live: BTreeMap<i64, i64>,
    /// Segments that nothing names after this commit.
    free: Vec<i64>,
}

impl LogState {
    /// Forgets what no row names.
    pub(super) fn open(db: Connection, folder: PathBuf) -> Result<Self, StoreError> {
        db.execute("DELETE FROM segments WHERE live = 0", [])
            .map_err(sql)?;
        let mut named = std::collections::BTreeSet::new();
        {
            let mut statement = db.prepare("SELECT id FROM segments").map_err(sql)?;
            let ids = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(sql)?;
            for id in ids {
                named.insert(id.map_err(sql)?);
            }
        }
        let mut last = named.last().copied().unwrap_or(0);
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let id = number(&entry.path());
            last = last.max(id.unwrap_or(0));
            if id.is_some_and(|id| !named.contains(&id)) {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        Ok(Self {
            db,
            folder,
            // Every opening begins a new segment: the old one's tail may hold bytes that nobody names.
            segment: last + 1,
            file: None,
            length: 0,
            buffer: Vec::new(),
            live: BTreeMap::new(),
            free: Vec::new(),
        })
    }

    /// Takes bytes into the group; where they will lie.
    pub(super) fn place(&mut self, bytes: &[u8]) -> (i64, u64) {
        let at = self.length + self.buffer.len() as u64;
        self.buffer.extend_from_slice(bytes);
        *self.live.entry(self.segment).or_default() += 1;
        (self.segment, at)
    }

    pub(super) fn forget(&mut self, segment: i64, chunks: i64) {
        *self.live.entry(segment).or_default() -= chunks;
    }

    fn write(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path(&self.folder, self.segment))
                .map_err(io)?;
            sync_dir(&self.folder).map_err(io)?;
            self.file = Some(file);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&self.buffer, self.length).map_err(io)?;
            if let Err(error) = file.sync_data() {
                self.file = None;
                self.segment += 1;
                self.length = 0;
                return Err(io(error));
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), StoreError> {
        for (segment, change) in &self.live {
            let left: i64 = self
                .db
                .prepare_cached(
                    "INSERT INTO segments (id, live) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET live = live + ?2 RETURNING live",
                )
                .and_then(|mut statement| statement.query_row(params![segment, change], |row| row.get(0)))
                .map_err(sql)?;
            if left <= 0 && *segment != self.segment {
                self.db
                    .prepare_cached("DELETE FROM segments WHERE id = ?1")
                    .and_then(|mut statement| statement.execute([segment]))
                    .map_err(sql)?;
                self.free.push(*segment);
            }
        }
        Ok(())
    }
}

impl State for LogState {
    fn db(&self) -> &Connection {
        &self.db
    }

    fn before_commit(&mut self) -> Result<(), StoreError> {
        self.write()?;
        self.count()
    }

    fn committed(&mut self) {
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        // A group of the largest chunks need not keep its memory for the quiet time after it.
        self.buffer.shrink_to(1024 * 1024);
        self.live.clear();
        for segment in self.free.drain(..) {
            if let Err(error) = fs::remove_file(path(&self.folder, segment)) {
                tracing::warn!(%error, segment, "a log segment that nothing names stays until the next start");
            }
        }
        if self.length >= SEGMENT_BYTES {
            self.file = None;
            self.segment += 1;
            self.length = 0;
        }
    }

    fn rolled_back(&mut self) {
        if !self.buffer.is_empty()
            && let Some(file) = &self.file
            && let Err(error) = file.set_len(self.length)
        {
            tracing::warn!(%error, "a log segment keeps bytes that nobody names until it is written on");
        }
        self.buffer.clear();
        self.live.clear();
        self.free.clear();
    }
}

pub(super) fn path(folder: &Path, segment: i64) -> PathBuf {
    folder.join(format!("{segment:010}.log"))
}

fn number(path: &Path) -> Option<i64> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}
