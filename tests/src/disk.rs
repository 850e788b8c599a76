//! Small file systems of a test's own, in a file on a loop device; and letting go of mounts that were left.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::scripts::run;

/// The smallest that ext4 gives out on a disk of this size.
const BLOCK_BYTES: u64 = 1024;

/// An ext4 file system of a fixed size, unmounted when nobody holds it any more. Needs root.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn of_mib(size: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("jw-disk-").tempdir()?;
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image)?.set_len(u64::from(size) << 20)?;
        // no blocks kept back for root: this test is root, and wants to see the disk full
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        std::fs::create_dir(disk.root())?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(disk.root()))?;
        Ok(disk)
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Takes all space but this, to about a piece of the smallest size; with 0 down to the last block.
    ///
    /// # Errors
    /// When it cannot be taken for another reason than that there is none.
    pub fn fill_but(&self, left: u64) -> Result<()> {
        let ballast = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        let (mut taken, mut piece) = (ballast.metadata()?.len(), 64 << 20);
        while piece >= BLOCK_BYTES {
            let free = rustix::fs::statvfs(self.root())?;
            if free.f_bavail * free.f_frsize < left + piece {
                piece /= 2;
                continue;
            }
            match fallocate(&ballast, FallocateFlags::empty(), taken, piece) {
                Ok(()) => taken += piece,
                // the file system's own notes of what is where need room too
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When nothing was taken.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.root().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount_below(self.folder.path());
    }
}

/// Unmounts everything at or below `folder`, innermost first.
pub fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with(folder))
        .collect();
    points.sort_unstable();
    for point in points.into_iter().rev() {
        let _ = run(Command::new("umount").args(["--lazy", point]));
    }
}
