//! Puts a job's inputs into its workspace: files as they are, archives unpacked.
//!
//! An archive is checked whole before the first byte of it is written, so a refused one leaves nothing. What is made
//! gets the job's user, through the descriptor that made it; nothing is ever changed that was there before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use common::archive::{ArchiveError, ArchiveLimits, Sink, check_archive, unpack};
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use super::beneath;
use crate::executor::LocalInput;

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The job's own doing; it would not work elsewhere either.
    #[error("{message}")]
    Bad { message: String },
    #[error("{message}")]
    Io {
        message: String,
        #[source]
        source: io::Error,
    },
}

/// Blocking. `owner` is set where the agent may; `folder`, the job's working directory below the workspace, is made.
///
/// # Errors
/// [`PlaceError`]; the workspace is to be thrown away then.
pub fn place(
    root: &Path,
    inputs: &[LocalInput],
    folder: Option<&str>,
    owner: Option<(u32, u32)>,
    disk_bytes: u64,
) -> Result<(), PlaceError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull => PlaceError::Bad {
            message: format!(
                "the inputs do not fit into {} MiB of disk",
                disk_bytes / 1024 / 1024
            ),
        },
        _ => PlaceError::Io {
            message: "the inputs cannot be placed".to_owned(),
            source,
        },
    };
    let target = Target {
        root: beneath::root(root).map_err(|error| io(error.into()))?,
        owner: owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid))),
    };
    let mut left = disk_bytes;
    for input in inputs {
        let name = &input.wanted.path;
        let placed = if input.wanted.unpack {
            unpack_into(&target, name, &input.local, left)
        } else {
            place_file(&target, name, &input.local, left).map_err(ArchiveError::Io)
        };
        left -= placed.map_err(|error| match error {
            ArchiveError::Refused(refusal) => PlaceError::Bad {
                message: format!("input `{name}`: {refusal}"),
            },
            ArchiveError::Io(error) if error.kind() == io::ErrorKind::AlreadyExists => PlaceError::Bad {
                message: format!("input `{name}`: there is something of this name already"),
            },
            ArchiveError::Io(error) if error.kind() == io::ErrorKind::NotADirectory => PlaceError::Bad {
                message: format!("input `{name}`: a file stands where a folder is needed"),
            },
            ArchiveError::Io(error) => io(error),
        })?;
    }
    if let Some(folder) = folder {
        target.folders(folder).map_err(io)?;
    }
    Ok(())
}

/// How many bytes it became; at most `left`.
fn unpack_into(target: &Target, name: &str, local: &Path, left: u64) -> Result<u64, ArchiveError> {
    check_archive(local)?;
    let limits = ArchiveLimits {
        bytes_max: ArchiveLimits::DEFAULT.bytes_max.min(left),
        ..ArchiveLimits::DEFAULT
    };
    let mut sink = Below {
        base: target.folders(name)?,
        owner: target.owner,
    };
    unpack(&mut File::open(local)?, &limits, &mut sink).map(|summary| summary.bytes)
}

/// How many bytes it has; at most `left`.
fn place_file(target: &Target, path: &str, local: &Path, left: u64) -> io::Result<u64> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let base = target.folders(folder)?;
    let mode = Mode::from_raw_mode(0o644);
    let mut file = beneath::create_new(&base, name, mode)?;
    // one byte more than fits tells that it does not, with and without a file system of the workspace's own
    let bytes = io::copy(&mut File::open(local)?.take(left.saturating_add(1)), &mut file)?;
    if bytes > left {
        return Err(io::ErrorKind::StorageFull.into());
    }
    own(&file, target.owner)?;
    // whatever the agent's umask is
    fchmod(&file, mode)?;
    Ok(bytes)
}

struct Target {
    root: OwnedFd,
    owner: Option<(Uid, Gid)>,
}

impl Target {
    fn folders(&self, path: &str) -> io::Result<OwnedFd> {
        let owner = self.owner;
        Ok(beneath::make_folders(&self.root, path, |made| {
            own_raw(made, owner)
        })?)
    }
}

fn own(made: impl std::os::fd::AsFd, owner: Option<(Uid, Gid)>) -> io::Result<()> {
    Ok(own_raw(made, owner)?)
}

fn own_raw(made: impl std::os::fd::AsFd, owner: Option<(Uid, Gid)>) -> rustix::io::Result<()> {
    owner.map_or(Ok(()), |(uid, gid)| fchown(made, Some(uid), Some(gid)))
}

struct Below {
    base: OwnedFd,
    owner: Option<(Uid, Gid)>,
}

impl Sink for Below {
    fn folder(&mut self, path: &str) -> io::Result<()> {
        let owner = self.owner;
        beneath::make_folders(&self.base, path, |made| own_raw(made, owner))?;
        Ok(())
    }

    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> io::Result<()> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let owner = self.owner;
        let folder = beneath::make_folders(&self.base, folder, |made| own_raw(made, owner))?;
        // the executable bit is all that is kept of a mode: no setuid, nothing unreadable
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let mut file = beneath::create_new(&folder, name, mode)?;
        io::copy(content, &mut file)?;
        own(&file, self.owner)?;
        Ok(fchmod(&file, mode)?)
    }
}
