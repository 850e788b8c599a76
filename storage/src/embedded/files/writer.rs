//! Takes a new file's bytes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use common::ids::FileId;
use common::store::{FileMeta, FileWriter, NewFile, StoreError};
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::super::folder::sync_dir;
use super::super::readers::blocking;
use super::super::sqlite::{corrupt, encode, io, sql};
use super::super::writer::Lane;

pub(super) struct Writer {
    new: NewFile,
    lane: Lane<Connection>,
    folder: PathBuf,
    place: String,
    /// None once a write has failed or was given up halfway: then nothing more is taken.
    draft: Option<Draft>,
}

/// The bytes so far. Dropped, it takes its file along, on whatever thread it is at that moment.
struct Draft {
    file: File,
    path: PathBuf,
    bytes: u64,
    sum: Sha256,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing of this name any more, and that is right as well.
        let _ = fs::remove_file(&self.path);
    }
}

impl Writer {
    pub(super) fn begin(
        new: NewFile,
        lane: Lane<Connection>,
        folder: PathBuf,
        unfinished: &Path,
    ) -> Result<Self, StoreError> {
        // Two writers of one id must not meet: the row decides which of them is the file.
        let place = format!("{}.{:x}", new.id, FileId::random().as_u128());
        let path = unfinished.join(&place);
        let file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        Ok(Self {
            new,
            lane,
            folder,
            place,
            draft: Some(Draft {
                file,
                path,
                bytes: 0,
                sum: Sha256::new(),
            }),
        })
    }
}

#[async_trait]
impl FileWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let mut draft = self.draft.take().ok_or_else(given_up)?;
        let write = move || {
            draft.file.write_all(&bytes).map_err(io)?;
            draft.sum.update(&bytes);
            draft.bytes += bytes.len() as u64;
            Ok(draft)
        };
        self.draft = Some(blocking(write).await?);
        Ok(())
    }

    async fn finish(self: Box<Self>, expected_sha256: Option<&str>) -> Result<FileMeta, StoreError> {
        let Self {
            new,
            lane,
            folder,
            place,
            draft,
        } = *self;
        let draft = draft.ok_or_else(given_up)?;
        let expected = expected_sha256.map(str::to_ascii_lowercase);
        let path = folder.join(&place);
        let settled = path.clone();
        let (bytes, sha256) = blocking(move || settle(draft, expected.as_deref(), &settled, &folder)).await?;
        let meta = FileMeta {
            id: new.id,
            account: new.account,
            owner: new.owner,
            purpose: new.purpose,
            name: new.name,
            content_type: new.content_type,
            bytes,
            sha256,
            created_at: new.created_at,
        };
        let doc = encode("a file's record", &meta)?;
        let (id, account) = (meta.id.as_u128().to_be_bytes(), meta.account.as_str().to_owned());
        let insert = move |db: &mut Connection| {
            db.prepare_cached("INSERT INTO files (id, account, place, doc) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut statement| statement.execute(params![id, account, place, doc]))
                .map(drop)
                .map_err(sql)
        };
        match lane.write(1, insert).await {
            Ok(()) => Ok(meta),
            Err(error) => {
                if matches!(error, StoreError::Exists | StoreError::Full(_)) {
                    // Certainly without a row. Of an unknown write the next opening knows more than we do.
                    blocking(move || fs::remove_file(&path).map_err(io)).await?;
                }
                Err(error)
            }
        }
    }
}

/// Makes the bytes durable under their last name; how many they are, and their sum.
fn settle(
    mut draft: Draft,
    expected: Option<&str>,
    path: &Path,
    folder: &Path,
) -> Result<(u64, String), StoreError> {
    let sum = std::mem::take(&mut draft.sum).finalize();
    let sha256: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    if expected.is_some_and(|expected| expected != sha256) {
        return Err(corrupt("the file's bytes do not have the expected SHA-256"));
    }
    draft.file.sync_all().map_err(io)?;
    fs::rename(&draft.path, path).map_err(io)?;
    sync_dir(folder).map_err(io)?;
    Ok((draft.bytes, sha256))
}

fn given_up() -> StoreError {
    #[derive(Debug, thiserror::Error)]
    #[error("an earlier write of this file failed")]
    struct GivenUp;
    StoreError::Unavailable(Box::new(GivenUp))
}
