//! Files, in GridFS's layout (bucket `files`), so that its ordinary tools read them too.
//!
//! Order of a new file: a mark in `files.unfinished`, the bytes, the record, then the mark goes. The record makes the
//! file visible and is unique by the file's id, so a file appears whole or not at all and is never replaced. What a
//! crash leaves has its mark, and the next opening a day later removes it.

mod stream;
mod sweep;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::FileId;
use common::store::{ByteStream, FileMeta, FileQuery, FileStore, FileWriter, NewFile, StoreError};
use common::tasks::Tasks;
use common::time::SharedClock;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, RawDocument, doc};

pub(super) use self::sweep::sweep;
use self::writer::Writer;
use super::link::{Link, Question, in_time};
use super::schema;
use super::trouble::{Trouble, decode};

/// Longest list.
const LIST_MAX: usize = 1_000;
/// Bytes of one chunk, GridFS's own default: with its document below the power of two that the server allocates.
const CHUNK_BYTES: usize = 255 * 1024;

pub(super) struct Files {
    link: Arc<Link>,
    clock: SharedClock,
    tasks: Tasks,
}

impl Files {
    pub(super) fn new(link: &Arc<Link>, clock: &SharedClock, tasks: &Tasks) -> Self {
        Self {
            link: Arc::clone(link),
            clock: Arc::clone(clock),
            tasks: tasks.clone(),
        }
    }
}

#[async_trait]
impl FileStore for Files {
    async fn create(&self, file: NewFile) -> Result<Box<dyn FileWriter>, StoreError> {
        if self.meta(file.id).await?.is_some() {
            return Err(StoreError::Exists);
        }
        let now = self.clock.now();
        let writer = Writer::begin(file, &self.link, &self.tasks, now);
        Ok(Box::new(in_time(writer).await?))
    }

    async fn meta(&self, id: FileId) -> Result<Option<FileMeta>, StoreError> {
        Ok(find(&self.link, id).await?.map(|found| found.meta))
    }

    async fn read(&self, id: FileId, start: u64, end: Option<u64>) -> Result<ByteStream, StoreError> {
        let found = find(&self.link, id).await?.ok_or(StoreError::NotFound)?;
        let end = end.unwrap_or(found.meta.bytes).min(found.meta.bytes);
        Ok(stream::of(Arc::clone(&self.link), found, start, end))
    }

    async fn list(&self, query: &FileQuery) -> Result<Vec<FileMeta>, StoreError> {
        let mut filter = Document::new();
        if let Some(account) = &query.account {
            filter.insert("metadata.account", account.as_str());
        }
        if let Some(before) = query.before {
            filter.insert("metadata.file", doc! { "$lt": before.to_string() });
        }
        let question = Question::new(schema::FILES, filter)
            .sorted(doc! { "metadata.file": -1 })
            .at_most(query.limit.min(LIST_MAX));
        let found = self.link.ask(question, |row| Found::of(row).map(Some)).await?;
        Ok(found.into_iter().map(|found| found.meta).collect())
    }

    async fn delete(&self, id: FileId) -> Result<(), StoreError> {
        // Deleting what is not there is done already.
        let Some(found) = find(&self.link, id).await? else {
            return Ok(());
        };
        in_time(sweep::mark(&self.link, found.place, self.clock.now())).await?;
        in_time(sweep::forget_record(&self.link, found.place)).await?;
        // The record is gone, and with it the file; of what fails from here on the mark tells.
        if let Err(trouble) = sweep::remove_bytes(&self.link, found.place).await {
            tracing::warn!(%trouble, "a deleted file's bytes stay until a later start");
        }
        Ok(())
    }
}

/// A file that is there.
struct Found {
    meta: FileMeta,
    /// GridFS's own id of the bytes; made by us, never by the uploader.
    place: ObjectId,
    chunk_bytes: u64,
}

impl Found {
    fn of(row: &RawDocument) -> Result<Self, Trouble> {
        let meta: FileMeta = decode("a file's record", row.get_document("metadata")?.get_str("meta")?)?;
        let chunk_bytes = u64::try_from(row.get_i32("chunkSize")?)
            .ok()
            .filter(|size| *size > 0);
        Ok(Self {
            meta,
            place: row.get_object_id("_id")?,
            chunk_bytes: chunk_bytes.ok_or_else(|| Trouble::unreadable("a file's chunk size"))?,
        })
    }
}

async fn find(link: &Link, id: FileId) -> Result<Option<Found>, Trouble> {
    let question = Question::new(schema::FILES, doc! { "metadata.file": id.to_string() });
    link.ask_one(question, Found::of).await
}
