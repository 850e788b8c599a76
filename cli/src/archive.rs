//! Packs a folder into a tar.gz while it is being sent: nothing is written to this machine's disk.
//!
//! Nothing from outside of the folder is packed. Workers refuse links in archives, so a link to a file in the folder is
//! packed as a file; any other link, a device, a socket or a pipe is left out and told. The order is the names', owners
//! and set-id bits are dropped, so the same folder gives the same archive. A file that changes its length while it is
//! read breaks the upload instead of damaging it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Most files and folders in one archive: enough for a source tree with its dependencies, and a mistake such as `/`
/// is noticed within seconds.
pub const ENTRIES_MAX: usize = 200_000;

/// What was looked at before packing.
#[derive(Debug, Default)]
pub struct Plan {
    entries: Vec<Entry>,
    /// Of all files, before compression.
    pub bytes: u64,
    /// What is left out, each with its reason, as sentences.
    pub left_out: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    /// Below the folder; also the name in the archive.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File {
        bytes: u64,
        /// Where it lies, no link among its parts.
        place: PathBuf,
    },
    Folder,
}

/// Why a folder could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("could not read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` holds more than {ENTRIES_MAX} files and folders", .0.display())]
    TooMany(PathBuf),
    #[error("`{}` changed while it was packed", .0.display())]
    Changed(PathBuf),
    #[error("the archive could not be written")]
    Write(#[source] io::Error),
}

impl Plan {
    /// Looks at `folder` and decides what is packed.
    ///
    /// # Errors
    /// Something cannot be read, or there is too much.
    pub fn of(folder: &Path) -> Result<Self, ArchiveError> {
        let mut plan = Self::default();
        let mut open = vec![PathBuf::new()];
        while let Some(below) = open.pop() {
            for name in names_in(&folder.join(&below))? {
                let path = below.join(name);
                if plan.entries.len() >= ENTRIES_MAX {
                    return Err(ArchiveError::TooMany(folder.to_owned()));
                }
                if plan.add(folder, &path)? {
                    open.push(path);
                }
            }
        }
        plan.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(plan)
    }

    pub fn files(&self) -> usize {
        let is_file = |entry: &&Entry| matches!(entry.kind, Kind::File { .. });
        self.entries.iter().filter(is_file).count()
    }

    /// Whether it is a folder to be looked into.
    fn add(&mut self, folder: &Path, path: &Path) -> Result<bool, ArchiveError> {
        let full = folder.join(path);
        let read = |source| ArchiveError::Read {
            path: full.clone(),
            source,
        };
        let found = std::fs::symlink_metadata(&full).map_err(read)?;
        let kind = found.file_type();
        let kind = if kind.is_dir() {
            Kind::Folder
        } else if kind.is_file() {
            Kind::File {
                bytes: found.len(),
                place: full.clone(),
            }
        } else if kind.is_symlink() {
            match file_behind(folder, &full) {
                Ok(file) => file,
                Err(why) => {
                    self.left_out.push(format!("`{}`: {why}", path.display()));
                    return Ok(false);
                }
            }
        } else {
            self.left_out
                .push(format!("`{}`: neither a file nor a folder", path.display()));
            return Ok(false);
        };
        if let Kind::File { bytes, .. } = &kind {
            self.bytes = self.bytes.saturating_add(*bytes);
        }
        let is_folder = matches!(kind, Kind::Folder);
        self.entries.push(Entry {
            path: path.to_owned(),
            kind,
        });
        Ok(is_folder)
    }

    /// Writes the archive. `progress` is told of each part's bytes as they are read.
    ///
    /// # Errors
    /// As [`ArchiveError`] says; what was written until then is no archive.
    pub fn pack(&self, into: impl Write, progress: &mut dyn FnMut(u64)) -> Result<(), ArchiveError> {
        let mut builder = tar::Builder::new(GzEncoder::new(into, Compression::fast()));
        for entry in &self.entries {
            pack_entry(&mut builder, entry, progress)?;
        }
        let compressed = builder.into_inner().map_err(ArchiveError::Write)?;
        compressed
            .finish()
            .and_then(|mut into| into.flush())
            .map_err(ArchiveError::Write)
    }
}

fn names_in(folder: &Path) -> Result<Vec<std::ffi::OsString>, ArchiveError> {
    let read = |source| ArchiveError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        if names.len() >= ENTRIES_MAX {
            return Err(ArchiveError::TooMany(folder.to_owned()));
        }
        names.push(entry.map_err(read)?.file_name());
    }
    Ok(names)
}

/// The file that a link leads to, if that lies in the folder.
fn file_behind(folder: &Path, link: &Path) -> Result<Kind, &'static str> {
    let nowhere = |_| "a link that leads nowhere";
    let place = link.canonicalize().map_err(nowhere)?;
    if !place.starts_with(folder.canonicalize().map_err(nowhere)?) {
        return Err("a link that points out of the folder");
    }
    let found = place.symlink_metadata().map_err(nowhere)?;
    if !found.is_file() {
        return Err("a link to something that is no file");
    }
    Ok(Kind::File {
        bytes: found.len(),
        place,
    })
}

fn pack_entry<W: Write>(
    builder: &mut tar::Builder<W>,
    entry: &Entry,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ArchiveError> {
    let mut header = tar::Header::new_gnu();
    match &entry.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            builder
                .append_data(&mut header, &entry.path, io::empty())
                .map_err(ArchiveError::Write)
        }
        Kind::File { bytes, place } => {
            let (file, found) = open_file(place)?;
            if found.len() != *bytes {
                return Err(ArchiveError::Changed(place.clone()));
            }
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(found.permissions().mode() & 0o777);
            header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
            header.set_size(*bytes);
            let mut reader = Exact {
                file,
                left: *bytes,
                short: false,
                progress,
            };
            let packed = builder.append_data(&mut header, &entry.path, &mut reader);
            if reader.short {
                return Err(ArchiveError::Changed(place.clone()));
            }
            packed.map_err(ArchiveError::Write)
        }
    }
}

/// Opens what was seen as a file: a link or a pipe that has taken its place meanwhile is neither followed nor waited
/// for.
fn open_file(path: &Path) -> Result<(File, Metadata), ArchiveError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .and_then(|file| file.metadata().map(|found| (file, found)))
        .map_err(|source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        })?;
    if opened.1.is_file() {
        Ok(opened)
    } else {
        Err(ArchiveError::Changed(path.to_owned()))
    }
}

/// Exactly the bytes that the header promises, or an error.
struct Exact<'a> {
    file: File,
    left: u64,
    short: bool,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            self.short = true;
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.left -= read as u64;
        (self.progress)(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (tar::EntryType, Vec<u8>, u32)> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().display().to_string();
            let header = entry.header();
            found.insert(path, (header.entry_type(), content, header.mode().unwrap()));
        }
        found
    }

    fn packed(folder: &Path) -> (Plan, Vec<u8>) {
        let plan = Plan::of(folder).unwrap();
        let mut bytes = Vec::new();
        plan.pack(&mut bytes, &mut |_| {}).unwrap();
        (plan, bytes)
    }

    #[test]
    fn a_folder_comes_out_as_it_went_in() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b/empty")).unwrap();
        std::fs::write(folder.path().join("a/run.sh"), "echo hi").unwrap();
        std::fs::set_permissions(
            folder.path().join("a/run.sh"),
            std::fs::Permissions::from_mode(0o4755),
        )
        .unwrap();
        std::fs::write(folder.path().join("a/b/data"), vec![7u8; 100_000]).unwrap();
        let long = format!("a/{}", "n".repeat(200));
        std::fs::write(folder.path().join(&long), "x").unwrap();

        let (plan, bytes) = packed(folder.path());
        let found = unpacked(&bytes);
        assert_eq!(
            found["a/run.sh"],
            (tar::EntryType::Regular, b"echo hi".to_vec(), 0o755)
        );
        assert_eq!(found["a/b/data"].1.len(), 100_000);
        assert_eq!(found[&long].1, b"x");
        assert_eq!(found["a/b/empty"].0, tar::EntryType::Directory);
        assert_eq!((plan.files(), plan.bytes), (3, 100_008));
        assert!(plan.left_out.is_empty());
        assert_eq!(
            packed(folder.path()).1,
            bytes,
            "the same folder gives the same archive"
        );
    }

    #[test]
    fn a_link_to_a_file_in_the_folder_is_that_file_and_any_other_is_left_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        symlink("../file", folder.path().join("sub/inside")).unwrap();
        symlink("../../file", folder.path().join("sub/above")).unwrap();
        symlink("..", folder.path().join("sub/up")).unwrap();
        symlink(outside.path().join("secret"), folder.path().join("absolute")).unwrap();
        symlink(outside.path(), folder.path().join("folder")).unwrap();

        let (plan, bytes) = packed(folder.path());
        let found = unpacked(&bytes);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["file", "sub", "sub/inside"]);
        assert_eq!(found["sub/inside"].0, tar::EntryType::Regular);
        assert_eq!(found["sub/inside"].1, b"x");
        assert_eq!(plan.left_out.len(), 4, "{:?}", plan.left_out);
        assert!(!bytes.windows(6).any(|part| part == b"secret"));
    }

    #[test]
    fn a_file_swapped_for_a_link_while_packing_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        std::fs::write(folder.path().join("other"), "y").unwrap();
        let plan = Plan::of(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join("file")).unwrap();
        symlink("other", folder.path().join("file")).unwrap();
        assert!(matches!(
            plan.pack(io::sink(), &mut |_| {}),
            Err(ArchiveError::Read { .. })
        ));
    }

    #[test]
    fn a_file_that_grows_or_shrinks_breaks_the_archive_instead_of_damaging_it() {
        for changed in ["", "longer than before"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("file"), "content").unwrap();
            let plan = Plan::of(folder.path()).unwrap();
            std::fs::write(folder.path().join("file"), changed).unwrap();
            assert!(matches!(
                plan.pack(io::sink(), &mut |_| {}),
                Err(ArchiveError::Changed(_))
            ));
        }
    }
}
