//! Files in memory, whole or not there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use common::ids::FileId;
use common::store::{ByteStream, FileMeta, FileQuery, FileStore, FileWriter, NewFile, StoreError};
use sha2::{Digest, Sha256};

use super::{Client, Service, held};

/// Longest piece of a file that is read at once.
const PIECE_BYTES: usize = 64 * 1024;

pub type Files = BTreeMap<FileId, (FileMeta, Bytes)>;

struct Writer {
    files: Arc<Mutex<Files>>,
    file: NewFile,
    bytes: BytesMut,
}

#[async_trait]
impl FileWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>, expected_sha256: Option<&str>) -> Result<FileMeta, StoreError> {
        let Self { files, file, bytes } = *self;
        let bytes = bytes.freeze();
        let meta = FileMeta {
            id: file.id,
            account: file.account,
            owner: file.owner,
            purpose: file.purpose,
            name: file.name,
            content_type: file.content_type,
            bytes: bytes.len() as u64,
            sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)),
            created_at: file.created_at,
        };
        if expected_sha256.is_some_and(|expected| expected != meta.sha256) {
            return Err(StoreError::Corrupt {
                what: "a file's sum".into(),
                source: None,
            });
        }
        let mut files = held(&files);
        if files.contains_key(&meta.id) {
            return Err(StoreError::Exists);
        }
        files.insert(meta.id, (meta.clone(), bytes));
        Ok(meta)
    }
}

#[async_trait]
impl FileStore for Client {
    async fn create(&self, file: NewFile) -> Result<Box<dyn FileWriter>, StoreError> {
        self.call(Service::Rows, "create_file", move |backends, _| {
            if held(&backends.files).contains_key(&file.id) {
                return Err(StoreError::Exists);
            }
            let files = Arc::clone(&backends.files);
            let bytes = BytesMut::new();
            Ok(Box::new(Writer { files, file, bytes }) as Box<dyn FileWriter>)
        })
        .await
    }

    async fn meta(&self, id: FileId) -> Result<Option<FileMeta>, StoreError> {
        self.call(Service::Rows, "file_meta", move |backends, _| {
            Ok(held(&backends.files).get(&id).map(|(meta, _)| meta.clone()))
        })
        .await
    }

    async fn read(&self, id: FileId, start: u64, end: Option<u64>) -> Result<ByteStream, StoreError> {
        self.call(Service::Rows, "read_file", move |backends, _| {
            let files = held(&backends.files);
            let (_, bytes) = files.get(&id).ok_or(StoreError::NotFound)?;
            let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).min(bytes.len());
            let until = place(end.unwrap_or(u64::MAX));
            let bytes = bytes.slice(place(start).min(until)..until);
            let pieces: Vec<Result<Bytes, StoreError>> = (0..bytes.len())
                .step_by(PIECE_BYTES)
                .map(|from| Ok(bytes.slice(from..bytes.len().min(from + PIECE_BYTES))))
                .collect();
            Ok(Box::pin(futures_util::stream::iter(pieces)) as ByteStream)
        })
        .await
    }

    async fn list(&self, query: &FileQuery) -> Result<Vec<FileMeta>, StoreError> {
        let query = query.clone();
        self.call(Service::Rows, "list_files", move |backends, _| {
            let files = held(&backends.files);
            let fits = |meta: &&FileMeta| {
                query
                    .account
                    .as_ref()
                    .is_none_or(|account| *account == meta.account)
                    && query.before.is_none_or(|before| meta.id < before)
            };
            let newest_first = files.values().rev().map(|(meta, _)| meta);
            Ok(newest_first.filter(fits).take(query.limit).cloned().collect())
        })
        .await
    }

    async fn delete(&self, id: FileId) -> Result<(), StoreError> {
        self.call(Service::Rows, "delete_file", move |backends, _| {
            held(&backends.files).remove(&id);
            Ok(())
        })
        .await
    }
}
