//! zip: the central directory is read first and whole, and must agree with every local header.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::DeflateDecoder;

use super::names::{Kind, Names};
use super::{
    ArchiveError, ArchiveLimits, ArchiveSummary, Rule, Sink, judged, read_up_to, refuse, refuse_whole,
};

const END_LEN: usize = 22;
const COMMENT_MAX: u64 = 65_535;
const CENTRAL_LEN: usize = 46;
const LOCAL_LEN: u64 = 30;
/// All entries' names and extra fields; 10,000 entries of 1.6 KiB.
const CENTRAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Flags: encrypted, strongly, or with the directory hidden.
const ENCRYPTED: u16 = 0x2041;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

struct Entry {
    raw_name: Vec<u8>,
    path: String,
    kind: Kind,
    executable: bool,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    header_at: u64,
    data_at: u64,
}

pub(super) fn unpack(
    file: &mut File,
    length: u64,
    limits: &ArchiveLimits,
    sink: &mut dyn Sink,
) -> Result<ArchiveSummary, ArchiveError> {
    let (mut entries, central_at) = central_directory(file, length, limits)?;
    for entry in &mut entries {
        local_header(file, entry)?;
    }
    overlaps(&entries, central_at)?;
    let mut summary = ArchiveSummary {
        entries: entries.len(),
        ..ArchiveSummary::default()
    };
    for entry in entries.iter().filter(|entry| entry.kind == Kind::File) {
        summary.files += 1;
        summary.bytes = summary.bytes.saturating_add(entry.size);
        if summary.bytes > limits.bytes_max {
            return Err(refuse(Rule::TooLarge, &entry.raw_name).into());
        }
        if summary.bytes > limits.unpacked_max(length) {
            return Err(refuse(Rule::Ratio, &entry.raw_name).into());
        }
    }
    for entry in &entries {
        match entry.kind {
            Kind::Folder if entry.path.is_empty() => {}
            Kind::Folder => sink.folder(&entry.path)?,
            Kind::File => content(file, entry, sink)?,
        }
    }
    Ok(summary)
}

fn damaged() -> io::Error {
    refuse_whole(Rule::Damaged)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn central_directory(file: &mut File, length: u64, limits: &ArchiveLimits) -> io::Result<(Vec<Entry>, u64)> {
    let tail_len = length.min(COMMENT_MAX + END_LEN as u64);
    file.seek(SeekFrom::Start(length - tail_len))?;
    let mut tail = vec![0; usize::try_from(tail_len).expect("at most 64 KiB")];
    file.read_exact(&mut tail)
        .map_err(|error| judged(error, damaged))?;
    // the one whose comment reaches exactly to the end of the file
    let end_at = (0..(tail.len() + 1).saturating_sub(END_LEN))
        .rev()
        .find(|at| {
            tail[*at..].starts_with(b"PK\x05\x06")
                && at + END_LEN + usize::from(u16_at(&tail, at + 20)) == tail.len()
        })
        .ok_or_else(damaged)?;
    let end = &tail[end_at..];
    let count = usize::from(u16_at(end, 10));
    let (central_len, central_at) = (u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    if count > limits.entries_max {
        return Err(refuse_whole(Rule::TooManyEntries));
    }
    // one disk, nothing before or between; zip64 says all ones here and is for what is over our limits anyway
    let one_disk = u16_at(end, 4) == 0 && u16_at(end, 6) == 0 && usize::from(u16_at(end, 8)) == count;
    if !one_disk
        || central_len > CENTRAL_BYTES_MAX
        || central_at + central_len != length - tail_len + end_at as u64
    {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(central_at))?;
    let mut central = vec![0; usize::try_from(central_len).expect("bounded just above")];
    file.read_exact(&mut central)
        .map_err(|error| judged(error, damaged))?;
    let mut names = Names::default();
    let mut rest = central.as_slice();
    let mut entries = Vec::with_capacity(count);
    while !rest.is_empty() {
        if entries.len() == count {
            return Err(damaged());
        }
        entries.push(central_entry(&mut rest, &mut names, limits)?);
    }
    if entries.len() == count {
        Ok((entries, central_at))
    } else {
        Err(damaged())
    }
}

fn central_entry(rest: &mut &[u8], names: &mut Names, limits: &ArchiveLimits) -> io::Result<Entry> {
    if rest.len() < CENTRAL_LEN || !rest.starts_with(b"PK\x01\x02") {
        return Err(damaged());
    }
    let (head, tail) = rest.split_at(CENTRAL_LEN);
    let name_len = usize::from(u16_at(head, 28));
    let skip = name_len + usize::from(u16_at(head, 30)) + usize::from(u16_at(head, 32));
    if tail.len() < skip {
        return Err(damaged());
    }
    let raw_name = tail[..name_len].to_vec();
    *rest = &tail[skip..];
    if u16_at(head, 8) & ENCRYPTED != 0 {
        return Err(refuse(Rule::Encrypted, &raw_name));
    }
    let method = u16_at(head, 10);
    if !matches!(method, STORED | DEFLATED) {
        return Err(refuse(Rule::Method, &raw_name));
    }
    let (packed, size, header_at) = (u32_at(head, 20), u32_at(head, 24), u32_at(head, 42));
    if [packed, size, header_at].contains(&u32::MAX) {
        return Err(refuse(Rule::TooLarge, &raw_name));
    }
    let mode = if u16_at(head, 4) >> 8 == 3 {
        u32_at(head, 38) >> 16
    } else {
        0
    };
    let is_folder = raw_name.ends_with(b"/");
    let kind = match mode & 0o170_000 {
        0o120_000 => return Err(refuse(Rule::Link, &raw_name)),
        0 | 0o100_000 if !is_folder => Kind::File,
        0 | 0o040_000 if is_folder => Kind::Folder,
        _ => return Err(refuse(Rule::Special, &raw_name)),
    };
    let lies = (kind == Kind::Folder && size != 0) || (method == STORED && packed != size);
    if lies {
        return Err(refuse(Rule::LyingSize, &raw_name));
    }
    let path = names
        .admit(&raw_name, kind, limits)
        .map_err(|rule| refuse(rule, &raw_name))?;
    Ok(Entry {
        raw_name,
        path,
        kind,
        executable: mode & 0o111 != 0,
        method,
        crc: u32_at(head, 16),
        packed: packed.into(),
        size: size.into(),
        header_at: header_at.into(),
        data_at: 0,
    })
}

fn local_header(file: &mut File, entry: &mut Entry) -> io::Result<()> {
    file.seek(SeekFrom::Start(entry.header_at))?;
    let mut head = [0; LOCAL_LEN as usize];
    let read = read_up_to(file, &mut head)?;
    let name_len = usize::from(u16_at(&head, 26));
    if read < head.len()
        || !head.starts_with(b"PK\x03\x04")
        || name_len != entry.raw_name.len()
        || u16_at(&head, 8) != entry.method
    {
        return Err(refuse(Rule::Damaged, &entry.raw_name));
    }
    let mut name = vec![0; name_len];
    if read_up_to(file, &mut name)? < name_len || name != entry.raw_name {
        return Err(refuse(Rule::Damaged, &entry.raw_name));
    }
    if u16_at(&head, 6) & ENCRYPTED != 0 {
        return Err(refuse(Rule::Encrypted, &entry.raw_name));
    }
    // with bit 3 the sizes stand behind the content, and the central directory alone has them here
    let declared = (u32_at(&head, 18), u32_at(&head, 22));
    let streamed = u16_at(&head, 6) & 8 != 0 || declared == (u32::MAX, u32::MAX);
    if !streamed && (u64::from(declared.0), u64::from(declared.1)) != (entry.packed, entry.size) {
        return Err(refuse(Rule::LyingSize, &entry.raw_name));
    }
    entry.data_at = entry.header_at + LOCAL_LEN + name_len as u64 + u64::from(u16_at(&head, 28));
    Ok(())
}

/// Entries that share bytes are how a small file becomes a huge one.
fn overlaps(entries: &[Entry], central_at: u64) -> io::Result<()> {
    let mut ordered: Vec<&Entry> = entries.iter().collect();
    ordered.sort_by_key(|entry| entry.header_at);
    for (place, entry) in ordered.iter().enumerate() {
        let next = ordered.get(place + 1).map_or(central_at, |next| next.header_at);
        if entry.data_at + entry.packed > next {
            return Err(refuse(Rule::Overlap, &entry.raw_name));
        }
    }
    Ok(())
}

/// Yields exactly what the header promised, or a refusal.
struct Checked<'a, R> {
    inner: R,
    entry: &'a Entry,
    read: u64,
    crc: crc32fast::Hasher,
}

impl<'a, R: Read> Checked<'a, R> {
    fn new(inner: R, entry: &'a Entry) -> Self {
        Self {
            inner,
            entry,
            read: 0,
            crc: crc32fast::Hasher::new(),
        }
    }
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self
            .inner
            .read(buffer)
            .map_err(|error| judged(error, || refuse(Rule::Damaged, &self.entry.raw_name)))?;
        self.read += count as u64;
        self.crc.update(&buffer[..count]);
        let lies =
            self.read > self.entry.size || (count == 0 && !buffer.is_empty() && self.read < self.entry.size);
        if lies {
            return Err(refuse(Rule::LyingSize, &self.entry.raw_name));
        }
        if count == 0 && !buffer.is_empty() && self.crc.clone().finalize() != self.entry.crc {
            return Err(refuse(Rule::Damaged, &self.entry.raw_name));
        }
        Ok(count)
    }
}

fn content(file: &mut File, entry: &Entry, sink: &mut dyn Sink) -> io::Result<()> {
    file.seek(SeekFrom::Start(entry.data_at))?;
    let packed = BufReader::new(file.take(entry.packed));
    if entry.method == STORED {
        return sink.file(&entry.path, entry.executable, &mut Checked::new(packed, entry));
    }
    let mut unpacked = DeflateDecoder::new(packed);
    sink.file(
        &entry.path,
        entry.executable,
        &mut Checked::new(&mut unpacked, entry),
    )?;
    // what stands behind the end of the packed stream is nobody's
    if unpacked.total_in() == entry.packed {
        Ok(())
    } else {
        Err(refuse(Rule::LyingSize, &entry.raw_name))
    }
}
