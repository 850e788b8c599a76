//! The home of inputs and artifacts.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::ids::{AccountId, AttemptId, FileId, UserId};
use crate::time::Timestamp;

pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// Persistent home of files. A file appears whole or not at all, and never changes.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// Begins a file. [`StoreError::Exists`] when a file of this id is there.
    async fn create(&self, file: NewFile) -> Result<Box<dyn FileWriter>, StoreError>;
    async fn meta(&self, id: FileId) -> Result<Option<FileMeta>, StoreError>;
    /// The bytes `start..end` (to the end of the file without), as a stream; [`StoreError::NotFound`].
    async fn read(&self, id: FileId, start: u64, end: Option<u64>) -> Result<ByteStream, StoreError>;
    /// Newest first.
    async fn list(&self, query: &FileQuery) -> Result<Vec<FileMeta>, StoreError>;
    async fn delete(&self, id: FileId) -> Result<(), StoreError>;
}

/// Takes a file's bytes. Dropped without [`FileWriter::finish`], it leaves nothing behind.
#[async_trait]
pub trait FileWriter: Send {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;
    /// Makes the file durable and visible. With an expected SHA-256 that does not fit: [`StoreError::Corrupt`], and
    /// nothing is kept.
    async fn finish(self: Box<Self>, expected_sha256: Option<&str>) -> Result<FileMeta, StoreError>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub id: FileId,
    pub account: AccountId,
    pub owner: UserId,
    pub purpose: FilePurpose,
    /// As the uploader called it; never used as a path.
    pub name: String,
    pub content_type: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FilePurpose {
    Upload,
    Artifact { attempt: AttemptId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub id: FileId,
    pub account: AccountId,
    pub owner: UserId,
    pub purpose: FilePurpose,
    pub name: String,
    pub content_type: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct FileQuery {
    pub account: Option<AccountId>,
    /// Only files older than this one.
    pub before: Option<FileId>,
    pub limit: usize,
}
