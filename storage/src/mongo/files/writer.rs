//! Takes a new file's bytes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use common::store::{FileMeta, FileWriter, NewFile, StoreError};
use common::tasks::Tasks;
use common::time::Timestamp;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use sha2::{Digest, Sha256};

use super::super::link::{Link, in_time};
use super::super::schema;
use super::super::trouble::{Trouble, encode};
use super::{CHUNK_BYTES, sweep};

/// Chunks in one command: a megabyte, so that a file costs few round trips and little memory.
const CHUNKS_TOGETHER: usize = 4;

pub(super) struct Writer {
    new: NewFile,
    link: Arc<Link>,
    /// None once a write has failed or was given up halfway: then nothing more is taken.
    draft: Option<Draft>,
    /// Takes the bytes away again, unless the file is finished.
    undo: Undo,
}

struct Draft {
    waiting: BytesMut,
    chunks: i32,
    bytes: u64,
    sum: Sha256,
}

/// Dropped with its link, it removes the bytes in the background.
struct Undo {
    link: Option<Arc<Link>>,
    place: ObjectId,
    tasks: Tasks,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        // Outside of a runtime nothing can be asked; the mark stays, and a later start finds it.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let place = self.place;
        self.tasks.spawn("store-undo", async move {
            if let Err(trouble) = sweep::remove_bytes(&link, place).await {
                tracing::warn!(%trouble, "an unfinished file's bytes stay until a later start");
            }
        });
    }
}

impl Writer {
    pub(super) async fn begin(
        new: NewFile,
        link: &Arc<Link>,
        tasks: &Tasks,
        now: Timestamp,
    ) -> Result<Self, Trouble> {
        let place = ObjectId::new();
        sweep::mark(link, place, now).await?;
        Ok(Self {
            new,
            link: Arc::clone(link),
            draft: Some(Draft {
                waiting: BytesMut::new(),
                chunks: 0,
                bytes: 0,
                sum: Sha256::new(),
            }),
            undo: Undo {
                link: Some(Arc::clone(link)),
                place,
                tasks: tasks.clone(),
            },
        })
    }

    fn meta(&self, bytes: u64, sha256: String) -> FileMeta {
        let new = self.new.clone();
        FileMeta {
            id: new.id,
            account: new.account,
            owner: new.owner,
            purpose: new.purpose,
            name: new.name,
            content_type: new.content_type,
            bytes,
            sha256,
            created_at: new.created_at,
        }
    }

    /// The record: with it the file is there.
    async fn publish(&self, meta: &FileMeta) -> Result<(), Trouble> {
        let record = doc! {
            "_id": self.undo.place,
            "length": i64::try_from(meta.bytes).unwrap_or(i64::MAX),
            "chunkSize": i32::try_from(CHUNK_BYTES).unwrap_or(i32::MAX),
            "uploadDate": DateTime::from_millis(meta.created_at.as_millis()),
            "filename": &meta.name,
            "metadata": {
                "file": meta.id.to_string(),
                "account": meta.account.as_str(),
                "meta": encode("a file's record", meta)?,
            },
        };
        let command = doc! { "insert": schema::FILES, "documents": [record] };
        match self.link.write(command).await?.whole() {
            Err(Trouble::Refused { code, message }) => {
                // Sent twice, it meets itself; otherwise somebody else's file has the id.
                let ours = super::find(&self.link, meta.id)
                    .await?
                    .is_some_and(|found| found.place == self.undo.place);
                if ours {
                    Ok(())
                } else {
                    Err(Trouble::Refused { code, message })
                }
            }
            other => other.map(drop),
        }
    }
}

impl Draft {
    /// Stores whole chunks, and with `all` the rest too.
    async fn flush(&mut self, link: &Link, place: ObjectId, all: bool) -> Result<(), Trouble> {
        loop {
            let mut documents: Vec<Document> = Vec::new();
            while documents.len() < CHUNKS_TOGETHER {
                let size = match self.waiting.len() {
                    waiting if waiting >= CHUNK_BYTES => CHUNK_BYTES,
                    waiting if all && waiting > 0 => waiting,
                    _ => break,
                };
                let bytes = self.waiting.split_to(size).to_vec();
                let data = Bson::Binary(Binary {
                    subtype: BinarySubtype::Generic,
                    bytes,
                });
                documents.push(doc! {
                    "_id": ObjectId::new(), "files_id": place, "n": self.chunks, "data": data,
                });
                self.chunks = self
                    .chunks
                    .checked_add(1)
                    .ok_or_else(|| Trouble::Full("a file of 2^31 chunks".into()))?;
            }
            if documents.is_empty() {
                return Ok(());
            }
            let command = doc! { "insert": schema::FILE_CHUNKS, "documents": documents, "ordered": false };
            let written = in_time(link.write(command)).await?;
            // The place is ours alone, so a chunk that is there already is the very same one, sent twice.
            if let Some(error) = written.errors.iter().find(|error| !error.is_duplicate()) {
                return Err(error.trouble());
            }
        }
    }
}

#[async_trait]
impl FileWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let mut draft = self.draft.take().ok_or_else(given_up)?;
        draft.sum.update(&bytes);
        draft.bytes += bytes.len() as u64;
        draft.waiting.extend_from_slice(&bytes);
        if draft.waiting.len() >= CHUNKS_TOGETHER * CHUNK_BYTES {
            draft.flush(&self.link, self.undo.place, false).await?;
        }
        self.draft = Some(draft);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, expected_sha256: Option<&str>) -> Result<FileMeta, StoreError> {
        let mut draft = self.draft.take().ok_or_else(given_up)?;
        let sum = std::mem::take(&mut draft.sum).finalize();
        let sha256: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        if expected_sha256.is_some_and(|expected| !expected.eq_ignore_ascii_case(&sha256)) {
            return Err(Trouble::unreadable("the file's bytes do not have the expected SHA-256").into());
        }
        draft.flush(&self.link, self.undo.place, true).await?;
        let meta = self.meta(draft.bytes, sha256);
        match in_time(self.publish(&meta)).await {
            Ok(()) => {}
            // Certainly without a record: the bytes go.
            Err(trouble @ (Trouble::Refused { .. } | Trouble::Full(_))) => return Err(trouble.into()),
            Err(trouble) => {
                // The record may be there yet. The mark stays, and a later start looks again.
                self.undo.link = None;
                return Err(trouble.into());
            }
        }
        self.undo.link = None;
        if let Err(trouble) = in_time(sweep::unmark(&self.link, self.undo.place)).await {
            tracing::debug!(%trouble, "a finished file's mark stays until a later start");
        }
        Ok(meta)
    }
}

fn given_up() -> StoreError {
    #[derive(Debug, thiserror::Error)]
    #[error("an earlier write of this file failed")]
    struct GivenUp;
    StoreError::Unavailable(Box::new(GivenUp))
}
