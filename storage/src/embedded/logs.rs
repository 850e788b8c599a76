//! Log chunks: bytes in segments, the index in a database of its own, so that a flood of output and the commits of
//! jobs never wait for each other.
//!
//! The callers' bytes that are under way are bounded by [`BYTES_UNDER_WAY_MAX`]; past it an append waits.

mod append;
mod read;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::ids::AttemptId;
use common::log::{LogChunk, MissingLogs, Stream};
use common::store::{Appended, LogExtent, LogPage, LogPosition, LogStore, StoreError};
use common::time::Timestamp;
use tokio::sync::Semaphore;

use super::folder::Folder;
use super::readers::Readers;
use super::segments::LogState;
use super::writer::Lane;

/// Payload of all appends that wait or are being written: four groups.
const BYTES_UNDER_WAY_MAX: u32 = 32 * 1024 * 1024;
/// What a chunk weighs beside its payload: its rows.
const CHUNK_WEIGHT: usize = 256;
/// Index rows removed in one transaction of a purge, so that a long log's end does not hold up living ones.
const PURGE_STEP: u32 = 5_000;

pub(super) struct Logs {
    lane: Lane<LogState>,
    readers: Arc<Readers>,
    folder: PathBuf,
    under_way: Arc<Semaphore>,
}

impl Logs {
    pub(super) fn new(lane: Lane<LogState>, readers: Arc<Readers>, folder: &Folder) -> Self {
        Self {
            lane,
            readers,
            folder: folder.logs(),
            under_way: Arc::new(Semaphore::new(BYTES_UNDER_WAY_MAX as usize)),
        }
    }
}

#[async_trait]
impl LogStore for Logs {
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError> {
        let weight: usize = chunks.iter().map(|chunk| chunk.bytes.len() + CHUNK_WEIGHT).sum();
        let share = u32::try_from(weight).unwrap_or(u32::MAX).min(BYTES_UNDER_WAY_MAX);
        let permit = Arc::clone(&self.under_way)
            .acquire_many_owned(share)
            .await
            .map_err(|closed| StoreError::Unavailable(Box::new(closed)))?;
        let work = move |state: &mut LogState| {
            // Lives as long as the bytes do.
            let _held = &permit;
            append::append(state, &chunks, now)
        };
        self.lane.write(weight, work).await
    }

    async fn read(
        &self,
        attempt: AttemptId,
        stream: Option<Stream>,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<LogPage, StoreError> {
        // Followers ask again at each hint, mostly for nothing.
        if self
            .readers
            .look(move |db| read::is_end(db, attempt, from))
            .await?
        {
            return Ok(LogPage {
                chunks: Vec::new(),
                next: from,
            });
        }
        let folder = self.folder.clone();
        self.readers
            .read(move |db| read::page(db, &folder, attempt, stream, from, bytes_max))
            .await
    }

    async fn read_range(
        &self,
        attempt: AttemptId,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        let folder = self.folder.clone();
        self.readers
            .read(move |db| read::range(db, &folder, attempt, stream, start, end))
            .await
    }

    async fn extent(&self, attempt: AttemptId) -> Result<LogExtent, StoreError> {
        self.readers.look(move |db| read::extent(db, attempt)).await
    }

    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError> {
        self.readers
            .read(move |db| read::missing(db, attempt, until))
            .await
    }

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError> {
        let mut more = true;
        while more {
            let step = move |state: &mut LogState| append::purge(state, attempt, PURGE_STEP);
            more = self.lane.write(PURGE_STEP as usize * CHUNK_WEIGHT, step).await?;
        }
        Ok(())
    }
}
