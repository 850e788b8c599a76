//! The state folder: ours alone (0700), held by one process at a time.
//!
//! The lock is the kernel's and goes with the process, however that ends: there is no stale lock to remove.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use common::store::StoreError;

use super::sqlite;

/// Nobody but the owner looks into it: jobs, their output and password hashes lie here.
const MODE: u32 = 0o700;

pub(super) struct Folder {
    path: PathBuf,
    lock: Mutex<Option<File>>,
}

/// Another process works on the folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state folder {folder} is in use: another process holds its lock; stop that one, or name another folder"
)]
struct InUse {
    folder: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the state folder {folder} cannot be used")]
struct Unusable {
    folder: String,
    source: std::io::Error,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |source: std::io::Error| {
            let kind = source.kind();
            let error = Box::new(Unusable {
                folder: path.display().to_string(),
                source,
            });
            match kind {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    StoreError::Full(error)
                }
                _ => StoreError::Unavailable(error),
            }
        };
        make(path).map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Unavailable(Box::new(InUse {
                    folder: path.display().to_string(),
                })));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let folder = Self {
            path: path.to_owned(),
            lock: Mutex::new(Some(lock)),
        };
        for part in [folder.logs(), folder.files(), folder.unfinished()] {
            make(&part).map_err(unusable)?;
        }
        sync_dir(path).map_err(sqlite::io)?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(super) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    /// Files that are being written.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.path.join("files").join("unfinished")
    }

    /// Lets the next one in.
    pub(super) fn release(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

/// Makes names in a folder durable: a new file is only as lasting as its name.
pub(super) fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let _folder = Folder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn a_second_opener_is_told_which_folder_is_in_use() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::open(parent.path()).unwrap();
        let Err(StoreError::Unavailable(refusal)) = Folder::open(parent.path()) else {
            panic!("the folder was opened twice");
        };
        let sentence = refusal.to_string();
        assert!(
            sentence.contains(&parent.path().display().to_string()),
            "{sentence}"
        );
        assert!(sentence.contains("another process"), "{sentence}");
        first.release();
        assert!(Folder::open(parent.path()).is_ok());
    }
}
