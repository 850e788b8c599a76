//! tar.gz: ustar, GNU long names and PAX paths; everything else is refused.

use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::names::{Kind, Names};
use super::{
    ArchiveError, ArchiveLimits, ArchiveSummary, Rule, Sink, judged, read_up_to, refuse, refuse_whole,
};

const BLOCK: u64 = 512;
/// A long name or a PAX record: paths have 4,095 bytes at the most, and other keys are short.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;
/// Headers, paddings and long names of one entry, over its content.
const OVERHEAD_BYTES_AN_ENTRY: u64 = 16 * 1024;

/// Stops at what the packed bytes may become, whatever is read for.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self
            .inner
            .read(buffer)
            .map_err(|error| judged(error, || refuse_whole(Rule::Damaged)))?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| refuse_whole(Rule::Ratio))?;
        Ok(count)
    }
}

#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

struct Header {
    name: Vec<u8>,
    size: u64,
    executable: bool,
    kind: u8,
}

pub(super) fn unpack(
    file: &mut File,
    length: u64,
    limits: &ArchiveLimits,
    sink: &mut dyn Sink,
) -> Result<ArchiveSummary, ArchiveError> {
    let overhead = OVERHEAD_BYTES_AN_ENTRY * (limits.entries_max as u64 + 1);
    let unpacked_max = limits
        .unpacked_max(length)
        .min(limits.bytes_max.saturating_add(overhead));
    let mut reader = Bounded {
        inner: MultiGzDecoder::new(BufReader::new(file)),
        left: unpacked_max,
    };
    let mut names = Names::default();
    let mut summary = ArchiveSummary::default();
    let mut extensions = Extensions::default();
    while let Some(header) = next_header(&mut reader)? {
        match header.kind {
            b'L' => extensions.path = Some(long_name(&mut reader, &header)?),
            b'x' => pax(&small(&mut reader, &header)?, &mut extensions)?,
            // of the whole archive, such as the commit that git writes; it names nothing
            b'g' => drop(small(&mut reader, &header)?),
            _ => {
                summary.entries += 1;
                if summary.entries > limits.entries_max {
                    return Err(refuse_whole(Rule::TooManyEntries).into());
                }
                let extensions = std::mem::take(&mut extensions);
                entry(
                    &mut reader,
                    &header,
                    extensions,
                    limits,
                    &mut names,
                    &mut summary,
                    length,
                    sink,
                )?;
            }
        }
    }
    // up to the end: it proves the checksum, and what hides behind the last entry is measured too
    io::copy(&mut reader, &mut io::sink())?;
    if summary.entries == 0 {
        return Err(refuse_whole(Rule::NotAnArchive).into());
    }
    Ok(summary)
}

fn entry(
    reader: &mut impl Read,
    header: &Header,
    extensions: Extensions,
    limits: &ArchiveLimits,
    names: &mut Names,
    summary: &mut ArchiveSummary,
    packed: u64,
    sink: &mut dyn Sink,
) -> io::Result<()> {
    let raw = extensions.path.as_deref().unwrap_or(&header.name);
    let kind = match header.kind {
        b'0' | 0 | b'7' if !raw.ends_with(b"/") => Kind::File,
        b'5' | b'0' | 0 => Kind::Folder,
        b'1' | b'2' => return Err(refuse(Rule::Link, raw)),
        _ => return Err(refuse(Rule::Special, raw)),
    };
    if extensions.size.is_some_and(|size| size != header.size) || (kind == Kind::Folder && header.size != 0) {
        return Err(refuse(Rule::LyingSize, raw));
    }
    let path = names.admit(raw, kind, limits).map_err(|rule| refuse(rule, raw))?;
    if kind == Kind::Folder {
        return if path.is_empty() {
            Ok(())
        } else {
            sink.folder(&path)
        };
    }
    summary.files += 1;
    summary.bytes = summary.bytes.saturating_add(header.size);
    if summary.bytes > limits.bytes_max {
        return Err(refuse(Rule::TooLarge, raw));
    }
    if summary.bytes > limits.unpacked_max(packed) {
        return Err(refuse(Rule::Ratio, raw));
    }
    let mut content = reader.take(header.size);
    sink.file(&path, header.executable, &mut content)?;
    if content.limit() > 0 {
        return Err(refuse(Rule::Damaged, raw));
    }
    padding(reader, header.size)
}

fn next_header(reader: &mut impl Read) -> io::Result<Option<Header>> {
    let mut block = [0; BLOCK as usize];
    let read = read_up_to(reader, &mut block)?;
    if read == 0 || (read == block.len() && block.iter().all(|byte| *byte == 0)) {
        return Ok(None);
    }
    let damaged = || refuse_whole(Rule::Damaged);
    if read < block.len() {
        return Err(damaged());
    }
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    if number(&block[148..156]) != Some(sum) {
        return Err(damaged());
    }
    let size = number(&block[124..136]).ok_or_else(damaged)?;
    let mode = number(&block[100..108]).ok_or_else(damaged)?;
    let mut name = text(&block[..100]).to_vec();
    // the POSIX form alone has a prefix; GNU keeps times there
    if &block[257..263] == b"ustar\0" && block[345] != 0 {
        name = [text(&block[345..500]), b"/", &name].concat();
    }
    Ok(Some(Header {
        name,
        size,
        executable: mode & 0o111 != 0,
        kind: block[156],
    }))
}

/// Octal with spaces and NULs around, or GNU's base 256.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        return high
            .iter()
            .skip(1)
            .all(|byte| *byte == 0)
            .then(|| low.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(digits, 8).ok()
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn small(reader: &mut impl Read, header: &Header) -> io::Result<Vec<u8>> {
    if header.size > EXTENSION_BYTES_MAX {
        return Err(refuse_whole(Rule::NameTooLong));
    }
    let mut bytes = vec![0; usize::try_from(header.size).expect("bounded just above")];
    if read_up_to(reader, &mut bytes)? < bytes.len() {
        return Err(refuse_whole(Rule::Damaged));
    }
    padding(reader, header.size)?;
    Ok(bytes)
}

fn long_name(reader: &mut impl Read, header: &Header) -> io::Result<Vec<u8>> {
    small(reader, header).map(|bytes| text(&bytes).to_vec())
}

fn padding(reader: &mut impl Read, size: u64) -> io::Result<()> {
    let mut rest = [0; BLOCK as usize];
    let wanted = usize::try_from(size.next_multiple_of(BLOCK) - size).expect("less than a block");
    if read_up_to(reader, &mut rest[..wanted])? < wanted {
        Err(refuse_whole(Rule::Damaged))
    } else {
        Ok(())
    }
}

/// Records of `LENGTH KEY=VALUE\n`.
fn pax(mut records: &[u8], extensions: &mut Extensions) -> io::Result<()> {
    let damaged = || refuse_whole(Rule::Damaged);
    while !records.is_empty() {
        let space = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(damaged)?;
        let length: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(damaged)?;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(damaged());
        }
        let record = &records[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extensions.path = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value)
                    .ok()
                    .and_then(|digits| digits.parse().ok());
                extensions.size = Some(size.ok_or_else(damaged)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(refuse_whole(Rule::Special)),
            _ => {}
        }
        records = &records[length..];
    }
    Ok(())
}
