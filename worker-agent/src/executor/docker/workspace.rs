//! `/workspace` of each container: a file with a file system of the size that the job asked for.
//!
//! A sparse file with ext4, mounted without setuid and devices: full is ENOSPC for the job and nothing for the node.
//! Where the agent is not root or loop devices are not to be had it is a plain folder, which the description says as
//! `no_disk_quota`. All calls block; all are told a container's name and keep below one folder.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use super::container::JobUser;

const IMAGE: &str = "disk.img";
const MOUNT: &str = "mnt";
/// mkfs.ext4 makes nothing smaller.
const PROBE_MIB: u32 = 8;
/// Mounts over one another that are undone before giving up; there is one.
const UNMOUNTS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("the workspace cannot be made")]
    Io(#[from] io::Error),
    #[error("{program} failed: {said}")]
    Program { program: &'static str, said: String },
}

#[derive(Debug)]
pub struct Workspaces {
    folder: PathBuf,
    quota: bool,
}

impl Workspaces {
    /// Below `state`. Tries whether quotas can be had.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("workspaces");
        std::fs::create_dir_all(&folder)?;
        let mut workspaces = Self {
            folder,
            quota: rustix::process::geteuid().is_root(),
        };
        if workspaces.quota {
            let probe = format!("probe-{:x}", rand::random::<u64>());
            if let Err(error) = workspaces.create(&probe, PROBE_MIB, JobUser { uid: 0, gid: 0 }) {
                tracing::warn!(%error, "workspaces cannot be limited in size");
                workspaces.quota = false;
            }
            workspaces.remove(&probe)?;
        }
        Ok(workspaces)
    }

    pub const fn has_quota(&self) -> bool {
        self.quota
    }

    /// What is mounted at `/workspace`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).join(MOUNT)
    }

    /// # Errors
    /// [`WorkspaceError`]; what was made by then is left to [`Self::remove`].
    pub fn create(&self, name: &str, disk_mib: u32, user: JobUser) -> Result<PathBuf, WorkspaceError> {
        let place = self.folder.join(name);
        let mount = place.join(MOUNT);
        std::fs::create_dir(&place)?;
        std::fs::create_dir(&mount)?;
        if !self.quota {
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(&mount, Some(user.uid), Some(user.gid))?;
            }
            return Ok(mount);
        }
        let image = place.join(IMAGE);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&image)?;
        file.set_len(u64::from(disk_mib) * 1024 * 1024)?;
        drop(file);
        program(
            "mkfs.ext4",
            Command::new("mkfs.ext4")
                // no journal: nobody reads it after a crash
                .args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E"])
                .arg(format!(
                    "lazy_itable_init=1,nodiscard,root_owner={}:{}",
                    user.uid, user.gid
                ))
                .arg(&image),
        )?;
        program(
            "mount",
            Command::new("mount")
                .args(["-t", "ext4", "-o", "loop,nosuid,nodev,noatime"])
                .arg(&image)
                .arg(&mount),
        )?;
        // mkfs makes it root's, and the job would find a folder that it cannot open
        match std::fs::remove_dir(mount.join("lost+found")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(mount),
        }
    }

    /// Nothing in it can be changed from now on, by the kernel's word. Needs every writer to have ended.
    ///
    /// # Errors
    /// When something still writes, or where there is no file system of its own.
    pub fn freeze(&self, name: &str) -> io::Result<()> {
        use rustix::mount::{MountFlags, mount_remount};
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        if self.quota {
            Ok(mount_remount(self.path(name), flags, "")?)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Takes it away, however far it came. Of a file system of its own nothing is opened.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        if name.is_empty() {
            // It would be the folder of them all.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = self.folder.join(name);
        let mount = place.join(MOUNT);
        for _ in 0..UNMOUNTS_MAX {
            match unmount(&mount, UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(rustix::io::Errno::BUSY) => {
                    unmount(&mount, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?
                }
                // not mounted, not there, or not ours to mount
                Err(_) => break,
            }
        }
        let image = place.join(IMAGE);
        let made = if image.exists() {
            std::fs::remove_file(&image)
                .or_else(unless_gone)
                .and_then(|()| std::fs::remove_dir(&mount))
                .and_then(|()| std::fs::remove_dir(&place))
        } else {
            // follows no link: std opens each folder with O_NOFOLLOW
            std::fs::remove_dir_all(&place)
        };
        made.or_else(unless_gone)
    }

    /// Names of those that are there, from this agent's earlier lives too.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.folder)?
            .filter_map(|entry| {
                entry
                    .map(|entry| entry.file_name().into_string().ok())
                    .transpose()
            })
            .collect()
    }
}

/// Somebody else may be at it too.
fn unless_gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn program(name: &'static str, command: &mut Command) -> Result<(), WorkspaceError> {
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| WorkspaceError::Program {
            program: name,
            said: error.to_string(),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(WorkspaceError::Program {
        program: name,
        said: said.trim().chars().take(300).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: JobUser = JobUser {
        uid: 66_000,
        gid: 66_000,
    };

    #[test]
    fn what_is_made_is_the_users_empty_and_goes_without_a_trace() {
        let state = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::open(state.path()).unwrap();
        let mount = workspaces.create("jw-a-1", 16, USER).unwrap();
        assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
        if rustix::process::geteuid().is_root() {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(std::fs::metadata(&mount).unwrap().uid(), USER.uid);
        }
        std::fs::create_dir(mount.join("left")).unwrap();
        assert_eq!(workspaces.names().unwrap(), ["jw-a-1"]);
        assert!(workspaces.remove("").is_err());
        assert_eq!(workspaces.names().unwrap(), ["jw-a-1"]);
        workspaces.remove("jw-a-1").unwrap();
        assert_eq!(workspaces.names().unwrap(), Vec::<String>::new());
        workspaces.remove("jw-a-1").unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*state.path().to_string_lossy()), "{mounts}");
    }

    #[test]
    fn with_a_quota_it_is_full_at_its_size_and_can_be_frozen() {
        let state = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::open(state.path()).unwrap();
        if !workspaces.has_quota() {
            return;
        }
        let mount = workspaces.create("jw-a-2", 16, USER).unwrap();
        let full = std::fs::write(mount.join("big"), vec![1; 32 * 1024 * 1024]);
        let freeze = workspaces.freeze("jw-a-2");
        let frozen = std::fs::write(mount.join("small"), "x");
        workspaces.remove("jw-a-2").unwrap();
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        freeze.unwrap();
        assert_eq!(frozen.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
