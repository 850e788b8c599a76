//! Files: bytes in a folder under names of our own making, an index row each.
//!
//! Order of a new file: bytes into `unfinished/`, sync, rename, sync of the folder, then the row. The row makes it
//! visible, so a file appears whole or not at all; what a crash leaves without a row is removed at the next opening.

mod stream;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use common::ids::FileId;
use common::store::{ByteStream, FileMeta, FileQuery, FileStore, FileWriter, NewFile, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

use super::folder::Folder;
use super::readers::{Readers, blocking};
use super::sqlite::{decode, io, sql};
use super::writer::Lane;

/// Longest list.
const LIST_MAX: usize = 1_000;

pub(super) struct Files {
    lane: Lane<Connection>,
    readers: Arc<Readers>,
    folder: PathBuf,
    unfinished: PathBuf,
}

impl Files {
    pub(super) fn new(lane: Lane<Connection>, readers: Arc<Readers>, folder: &Folder) -> Self {
        Self {
            lane,
            readers,
            folder: folder.files(),
            unfinished: folder.unfinished(),
        }
    }
}

#[async_trait]
impl FileStore for Files {
    async fn create(&self, file: NewFile) -> Result<Box<dyn FileWriter>, StoreError> {
        if self.meta(file.id).await?.is_some() {
            return Err(StoreError::Exists);
        }
        let (lane, folder, unfinished) = (self.lane.clone(), self.folder.clone(), self.unfinished.clone());
        let begin = move || writer::Writer::begin(file, lane, folder, &unfinished);
        Ok(Box::new(blocking(begin).await?))
    }

    async fn meta(&self, id: FileId) -> Result<Option<FileMeta>, StoreError> {
        let meta = move |db: &Connection| Ok(find(db, id)?.map(|(meta, _)| meta));
        self.readers.read(meta).await
    }

    async fn read(&self, id: FileId, start: u64, end: Option<u64>) -> Result<ByteStream, StoreError> {
        let folder = self.folder.clone();
        let open = move |db: &Connection| {
            let (meta, place) = find(db, id)?.ok_or(StoreError::NotFound)?;
            // Open once, the bytes stay readable to the end even if the file is deleted meanwhile.
            let file = std::fs::File::open(folder.join(place)).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => StoreError::NotFound,
                _ => io(error),
            })?;
            Ok((file, end.unwrap_or(meta.bytes).min(meta.bytes)))
        };
        let (file, end) = self.readers.read(open).await?;
        Ok(stream::of(file, start, end))
    }

    async fn list(&self, query: &FileQuery) -> Result<Vec<FileMeta>, StoreError> {
        let query = query.clone();
        self.readers.read(move |db| list(db, &query)).await
    }

    async fn delete(&self, id: FileId) -> Result<(), StoreError> {
        let forget = move |db: &mut Connection| {
            db.prepare_cached("DELETE FROM files WHERE id = ?1 RETURNING place")
                .and_then(|mut statement| {
                    statement
                        .query_row([id.as_u128().to_be_bytes()], |row| row.get::<_, String>(0))
                        .optional()
                })
                .map_err(sql)
        };
        // Deleting what is not there is done already.
        let Some(place) = self.lane.write(1, forget).await? else {
            return Ok(());
        };
        let path = self.folder.join(place);
        blocking(move || {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, "a deleted file's bytes stay until the next start");
            }
            Ok(())
        })
        .await
    }
}

fn find(db: &Connection, id: FileId) -> Result<Option<(FileMeta, String)>, StoreError> {
    let found: Option<(String, String)> = db
        .prepare_cached("SELECT doc, place FROM files WHERE id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([id.as_u128().to_be_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(sql)?;
    found
        .map(|(doc, place)| Ok((decode("a file's record", &doc)?, place)))
        .transpose()
}

fn list(db: &Connection, query: &FileQuery) -> Result<Vec<FileMeta>, StoreError> {
    let before = query.before.map_or([0xff; 16], |id| id.as_u128().to_be_bytes());
    let limit = i64::try_from(query.limit.min(LIST_MAX)).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let docs: Vec<String> = match &query.account {
        Some(account) => db
            .prepare_cached("SELECT doc FROM files WHERE account = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3")
            .and_then(|mut statement| {
                statement
                    .query_map(params![account.as_str(), before, limit], read)?
                    .collect()
            }),
        None => db
            .prepare_cached("SELECT doc FROM files WHERE id < ?1 ORDER BY id DESC LIMIT ?2")
            .and_then(|mut statement| statement.query_map(params![before, limit], read)?.collect()),
    }
    .map_err(sql)?;
    docs.iter().map(|doc| decode("a file's record", doc)).collect()
}

/// Removes what a crash has left: unfinished files, and finished ones without a row.
pub(super) fn sweep(db: &Connection, folder: &Folder) -> Result<(), StoreError> {
    let mut named = HashSet::new();
    {
        let mut statement = db.prepare("SELECT place FROM files").map_err(sql)?;
        let places = statement
            .query_map([], |row| row.get::<_, String>(0))
            .map_err(sql)?;
        for place in places {
            named.insert(std::ffi::OsString::from(place.map_err(sql)?));
        }
    }
    for (part, keep) in [(folder.unfinished(), None), (folder.files(), Some(&named))] {
        for entry in std::fs::read_dir(part).map_err(io)? {
            let entry = entry.map_err(io)?;
            let is_file = entry.file_type().map_err(io)?.is_file();
            if is_file && !keep.is_some_and(|named| named.contains(&entry.file_name())) {
                std::fs::remove_file(entry.path()).map_err(io)?;
            }
        }
    }
    Ok(())
}
