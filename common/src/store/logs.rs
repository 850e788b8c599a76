//! The home of log chunks.

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use crate::ids::AttemptId;
use crate::log::{LogChunk, MissingLogs, Stream};
use crate::time::Timestamp;

/// Persistent home of log chunks. The key is (attempt, stream, seq): a repeat changes nothing, and a stale agent can
/// only lengthen its own attempt's log.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// Stores chunks durably; answers in the order of `chunks`.
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError>;

    /// Chunks of both streams (or one) in the order in which they were stored, from `from` on, up to about
    /// `bytes_max` of payload but at least one chunk if there is any.
    async fn read(
        &self,
        attempt: AttemptId,
        stream: Option<Stream>,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<LogPage, StoreError>;

    /// Bytes `start..end` of one stream as stored, in the order of `seq`, at most `end - start` of them; fewer at the
    /// end.
    async fn read_range(
        &self,
        attempt: AttemptId,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError>;

    /// What is stored of an attempt.
    async fn extent(&self, attempt: AttemptId) -> Result<LogExtent, StoreError>;

    /// Which of the chunks `0..until` of each stream (stdout, stderr) are not stored.
    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError>;

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    Stored,
    Repeat,
}

/// A place in an attempt's log, both streams together, in the order of storing; 0 is the beginning. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// Of this chunk; reading goes on at the next higher.
    pub position: LogPosition,
    pub stored_at: Timestamp,
    pub chunk: LogChunk,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    pub chunks: Vec<StoredChunk>,
    /// Where to go on reading; equal to `from` when nothing new is there.
    pub next: LogPosition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogExtent {
    pub stdout: StreamExtent,
    pub stderr: StreamExtent,
    /// After the last chunk.
    pub end: LogPosition,
}

impl LogExtent {
    pub const fn of(&self, stream: Stream) -> &StreamExtent {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamExtent {
    pub chunks: u64,
    pub bytes: u64,
    /// The first chunk number that is not stored, all before it being there.
    pub next_seq: u64,
}
