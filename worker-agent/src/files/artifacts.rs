//! Finds what a job left that its globs name. The tree is the job's, so nothing in it is believed.
//!
//! Folder by folder below a held one, each opened by `openat2` without links; regular files with one name on the same
//! file system alone; everything else that a glob names is refused with its reason. Bounded in entries walked, depth,
//! count and bytes, so it ends soon whatever the tree is.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use common::attempt::RefusedArtifact;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, statat};

use super::beneath;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactLimits {
    pub files_max: usize,
    pub file_bytes_max: u64,
    pub total_bytes_max: u64,
    pub depth_max: usize,
    pub entries_walked_max: usize,
    /// Of a path below the root; what a URL carries well.
    pub path_bytes_max: usize,
    /// More refusals are counted in one last line.
    pub refused_max: usize,
}

impl Default for ArtifactLimits {
    fn default() -> Self {
        Self {
            files_max: 1_000,
            file_bytes_max: 1024 * 1024 * 1024,
            total_bytes_max: 4 * 1024 * 1024 * 1024,
            depth_max: 64,
            entries_walked_max: 100_000,
            path_bytes_max: 1_024,
            refused_max: 100,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Below the root; printable UTF-8.
    pub path: String,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub struct Found {
    pub files: Vec<FoundFile>,
    pub refused: Vec<RefusedArtifact>,
}

#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("a pattern of the job is none")]
    Glob(#[from] globset::Error),
    #[error("the workspace cannot be opened")]
    Root(#[from] rustix::io::Errno),
}

/// Blocking. Every process that could change the tree should have ended; if not, a file may be refused or be larger
/// than said, and nothing outside the tree is ever opened.
///
/// # Errors
/// [`CollectError`]; single files are refused one by one.
pub fn collect(root: &Path, globs: &[String], limits: &ArtifactLimits) -> Result<Found, CollectError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(
            GlobBuilder::new(glob.trim_start_matches("./"))
                .literal_separator(true)
                .build()?,
        );
    }
    let root = beneath::root(root)?;
    let mut walk = Walk {
        device: fstat(&root)?.st_dev,
        globs: set.build()?,
        limits: *limits,
        walked: 0,
        bytes: 0,
        refused_more: 0,
        found: Found::default(),
        queue: vec![("".into(), String::new())],
    };
    while let Some((parent, name)) = walk.queue.pop() {
        if !walk.folder(&root, join(&parent, &name).into()) {
            break;
        }
    }
    if walk.refused_more > 0 {
        let reason = format!("{} more were refused", walk.refused_more);
        walk.found.refused.push(RefusedArtifact {
            path: "…".to_owned(),
            reason,
        });
    }
    walk.found.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.found)
}

struct Walk {
    device: u64,
    globs: GlobSet,
    limits: ArtifactLimits,
    walked: usize,
    bytes: u64,
    refused_more: usize,
    found: Found,
    /// Folders to look into, by parent and name; bounded by the entries walked.
    queue: Vec<(Arc<str>, String)>,
}

impl Walk {
    /// False when no more is to be walked.
    fn folder(&mut self, root: &OwnedFd, parent: Arc<str>) -> bool {
        let path: &str = &parent;
        let opened = beneath::open_folder(root, if path.is_empty() { "." } else { path });
        let (folder, entries) =
            match opened.and_then(|folder| Dir::read_from(&folder).map(|entries| (folder, entries))) {
                Ok(opened) => opened,
                Err(error) => {
                    self.refuse(path, &format!("the folder cannot be opened: {error}"));
                    return true;
                }
            };
        for entry in entries {
            let Ok(entry) = entry else {
                self.refuse(path, "the folder cannot be read to its end");
                return true;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.walked += 1;
            if self.walked > self.limits.entries_walked_max {
                self.refuse(
                    "…",
                    &format!(
                        "more than {} entries, the rest is not looked at",
                        self.limits.entries_walked_max
                    ),
                );
                return false;
            }
            let shown = name.to_string_lossy();
            let relative = join(path, &shown);
            if relative.len() > self.limits.path_bytes_max {
                self.refuse(
                    &relative,
                    &format!("the path is longer than {} bytes", self.limits.path_bytes_max),
                );
                continue;
            }
            match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    self.subfolder(&parent, name, &relative);
                }
                Ok(stat) => self.entry(&folder, name, relative, &stat),
                Err(error) => self.refuse_named(&relative, &format!("it cannot be looked at: {error}")),
            }
        }
        true
    }

    fn subfolder(&mut self, parent: &Arc<str>, name: &CStr, path: &str) {
        match name.to_str() {
            Ok(name) if !name.chars().any(char::is_control) => {
                if path.split('/').count() >= self.limits.depth_max {
                    self.refuse(
                        path,
                        &format!("nested deeper than {} folders", self.limits.depth_max),
                    );
                } else {
                    self.queue.push((Arc::clone(parent), name.to_owned()));
                }
            }
            Ok(_) | Err(_) => {
                self.refuse(path, "the folder's name is not UTF-8 or has control characters");
            }
        }
    }

    fn entry(&mut self, folder: &OwnedFd, name: &CStr, path: String, stat: &Stat) {
        if !self.globs.is_match(&path) {
            return;
        }
        let Some(shown) = name
            .to_str()
            .ok()
            .filter(|name| !name.chars().any(char::is_control))
        else {
            self.refuse(&path, "the name is not UTF-8 or has control characters");
            return;
        };
        match self.file_problem(folder, shown, stat) {
            Ok(bytes) => {
                self.bytes += bytes;
                self.found.files.push(FoundFile { path, bytes });
            }
            Err(reason) => self.refuse(&path, &reason),
        }
    }

    /// Its size, or why it is not taken.
    fn file_problem(&self, folder: &OwnedFd, name: &str, stat: &Stat) -> Result<u64, String> {
        kind_problem(stat)?;
        // opened once, to judge what is there and not what stood under the name before
        let file = beneath::open(
            folder,
            name,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
        )
        .map_err(|error| format!("it cannot be opened: {error}"))?;
        let stat = fstat(&file).map_err(|error| format!("it cannot be looked at: {error}"))?;
        kind_problem(&stat)?;
        if stat.st_nlink != 1 {
            return Err("it has more than one name (a hard link)".to_owned());
        }
        if stat.st_dev != self.device {
            return Err("it is on another file system".to_owned());
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if bytes > self.limits.file_bytes_max {
            return Err(format!(
                "{bytes} bytes; a file may have {}",
                self.limits.file_bytes_max
            ));
        }
        if self.bytes.saturating_add(bytes) > self.limits.total_bytes_max {
            return Err(format!("over {} bytes in all", self.limits.total_bytes_max));
        }
        if self.found.files.len() >= self.limits.files_max {
            return Err(format!("more than {} files", self.limits.files_max));
        }
        Ok(bytes)
    }

    fn refuse_named(&mut self, path: &str, reason: &str) {
        if self.globs.is_match(path) {
            self.refuse(path, reason);
        }
    }

    fn refuse(&mut self, path: &str, reason: &str) {
        if self.found.refused.len() >= self.limits.refused_max {
            self.refused_more += 1;
            return;
        }
        let path = path
            .chars()
            .take(255)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        self.found.refused.push(RefusedArtifact {
            path,
            reason: reason.to_owned(),
        });
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn kind_problem(stat: &Stat) -> Result<(), String> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Directory | FileType::Unknown => "no regular file",
    };
    Err(format!("it is {kind}"))
}
