//! Archives that users send, read with suspicion: zip and tar.gz.
//!
//! [`check_archive`] reads one to its end and writes nothing; [`unpack`] gives what is inside to a [`Sink`]. Both keep
//! the same rules, so what was checked at submission is not refused later. Everything that can be told from headers is
//! told before a byte of content is read, every name passes `names`, and no header's size is believed: a reader that
//! yields more, or less, ends in a refusal. Memory is bounded by the limits, whatever the archive says.
//!
//! The readers are strict and our own on purpose: two readers of one format that disagree are how things are
//! smuggled, and the usual ones keep the last of two entries of a name, or read a long name of any length into memory.

mod names;
mod tar;
mod zip;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    pub entries_max: usize,
    /// Unpacked, all files together.
    pub bytes_max: u64,
    /// Unpacked for each packed byte.
    pub ratio_max: u64,
    /// Up to here no ratio is asked for: a file of zeros is nothing bad while it is small.
    pub ratio_floor_bytes: u64,
    /// Folders within folders.
    pub depth_max: usize,
    /// One part of a path, in bytes.
    pub name_bytes_max: usize,
}

impl ArchiveLimits {
    pub const DEFAULT: Self = Self {
        entries_max: 10_000,
        bytes_max: 1024 * 1024 * 1024,
        ratio_max: 100,
        ratio_floor_bytes: 8 * 1024 * 1024,
        depth_max: 32,
        name_bytes_max: 255,
    };

    /// The most that `packed` bytes may become.
    const fn unpacked_max(&self, packed: u64) -> u64 {
        let by_ratio = packed.saturating_mul(self.ratio_max);
        if by_ratio > self.ratio_floor_bytes {
            by_ratio
        } else {
            self.ratio_floor_bytes
        }
    }
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The rule that an archive breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    #[error("it is neither a zip nor a tar.gz")]
    NotAnArchive,
    #[error("it is damaged or cut off")]
    Damaged,
    #[error("it has too many entries")]
    TooManyEntries,
    #[error("unpacked it is too large")]
    TooLarge,
    #[error("it unpacks to more than a hundred times its size")]
    Ratio,
    #[error("its folders are nested too deep")]
    TooDeep,
    #[error("the name is too long")]
    NameTooLong,
    #[error("the name is empty, not UTF-8, or has control characters or backslashes")]
    BadName,
    #[error("the name is absolute")]
    Absolute,
    #[error("the name has `..` in it")]
    Parent,
    #[error("it is a link")]
    Link,
    #[error("it is a device, a pipe or of a kind that is not supported")]
    Special,
    #[error("the name comes twice")]
    Duplicate,
    #[error("the name differs from another only by its case")]
    CaseClash,
    #[error("it is encrypted")]
    Encrypted,
    #[error("its compression is not supported")]
    Method,
    #[error("its size is not what its header says")]
    LyingSize,
    #[error("it overlaps another entry")]
    Overlap,
}

/// An archive that is not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveRefusal {
    pub rule: Rule,
    /// Without control characters and cut to a line; none where the archive as a whole breaks the rule.
    pub entry: Option<String>,
}

impl fmt::Display for ArchiveRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "the archive is refused at `{entry}`: {}", self.rule),
            None => write!(f, "the archive is refused: {}", self.rule),
        }
    }
}

impl std::error::Error for ArchiveRefusal {}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Refused(ArchiveRefusal),
    /// The file could not be read, or the sink could not take it.
    #[error("the archive could not be read or unpacked")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ArchiveError {
    /// Refusals travel through readers as the inner error.
    fn from(error: io::Error) -> Self {
        match error.downcast::<ArchiveRefusal>() {
            Ok(refusal) => Self::Refused(refusal),
            Err(error) => Self::Io(error),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveSummary {
    pub entries: usize,
    pub files: usize,
    /// Unpacked, all files together.
    pub bytes: u64,
}

/// Takes what is inside, in order. Paths are relative, clean, and name each thing once; folders that an archive only
/// implies are not told.
pub trait Sink {
    /// # Errors
    /// Whatever keeps the folder from being made; ends the unpacking.
    fn folder(&mut self, path: &str) -> io::Result<()>;

    /// Reads `content` to its end.
    ///
    /// # Errors
    /// Those of `content` as they are, and what keeps the file from being made.
    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> io::Result<()>;
}

/// Reads the whole archive and writes nothing. Blocks for as long as unpacking takes.
///
/// # Errors
/// [`ArchiveError::Refused`] with the first rule that is broken.
pub fn check_archive(path: &Path) -> Result<ArchiveSummary, ArchiveError> {
    unpack(&mut File::open(path)?, &ArchiveLimits::DEFAULT, &mut Nowhere)
}

/// Gives what is inside `file` to `sink`. A refusal may come after some of it was given: check first where that matters.
///
/// # Errors
/// [`ArchiveError`].
pub fn unpack(
    file: &mut File,
    limits: &ArchiveLimits,
    sink: &mut dyn Sink,
) -> Result<ArchiveSummary, ArchiveError> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut mark = [0; 4];
    let read = read_up_to(file, &mut mark)?;
    file.seek(SeekFrom::Start(0))?;
    match &mark[..read] {
        [0x1f, 0x8b, ..] => tar::unpack(file, length, limits, sink),
        b"PK\x03\x04" | b"PK\x05\x06" => zip::unpack(file, length, limits, sink),
        _ => Err(ArchiveError::Refused(ArchiveRefusal {
            rule: Rule::NotAnArchive,
            entry: None,
        })),
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn folder(&mut self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _path: &str, _executable: bool, content: &mut dyn Read) -> io::Result<()> {
        io::copy(content, &mut io::sink()).map(|_| ())
    }
}

fn refuse(rule: Rule, raw_name: &[u8]) -> io::Error {
    io::Error::other(ArchiveRefusal {
        rule,
        entry: Some(names::printable(raw_name)),
    })
}

fn refuse_whole(rule: Rule) -> io::Error {
    io::Error::other(ArchiveRefusal { rule, entry: None })
}

/// What decoders say of bad bytes becomes this refusal; trouble with the disk stays what it is.
fn judged(error: io::Error, refusal: impl FnOnce() -> io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => refusal(),
        _ => error,
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
