//! Opening below a folder without ever leaving it: `openat2`, by the kernel's own checks.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::{Errno, Result};

/// No way out, by `..`, links or other file systems.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The kernel asks for another try when something was renamed meanwhile.
const TRIES: usize = 16;

/// The folder that everything else is opened below; its path is ours.
pub fn root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

pub fn open(folder: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..TRIES {
        match openat2(folder.as_fd(), path, flags, mode, RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

pub fn open_folder(folder: impl AsFd, path: &str) -> Result<OwnedFd> {
    open(folder, path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// Makes what is missing of `path` and opens the last part; `made` is called with each folder that is new.
pub fn make_folders(root: impl AsFd, path: &str, made: impl Fn(&OwnedFd) -> Result<()>) -> Result<OwnedFd> {
    let mut folder = open_folder(root, ".")?;
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let new = match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        folder = open_folder(&folder, part)?;
        if new {
            made(&folder)?;
        }
    }
    Ok(folder)
}

/// A file that was not there before.
pub fn create_new(folder: impl AsFd, name: &str, mode: Mode) -> Result<File> {
    open(folder, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode).map(File::from)
}
