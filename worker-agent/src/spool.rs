//! The attempt's log on the agent's disk: everything that the control plane has not stored yet, within the log's cap.
//!
//! A folder of segments. The *head* takes output until its share of the cap is full and is sent as it grows; what
//! comes after goes to the *tail*, whose oldest segments are dropped, and which is sent when the job has ended
//! ([`Spool::seal`]). So head and tail are kept, and what is missing in the middle is one exact range a stream. Each
//! segment begins with the totals up to it, so the range is known after a restart too, and fully stored segments of
//! the head can be deleted.
//!
//! Nothing here is synced to the disk: an agent that is killed loses nothing, since the kernel holds what was
//! written; a host that dies takes the job with it, and then the end of its log may be missing. A record that was
//! half-written is cut off at opening, and init sends it again.
//!
//! Memory: an index of the segments (their number is bounded by [`SEGMENTS_MAX`] a part), nothing of the log.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::log::{CHUNK_BYTES_MAX, CHUNK_CHARGE_MIN, DroppedRange, LogEnd, Stream, StreamEnd};

use crate::executor::Chunk;

/// Head and tail each have about this many segments: so the part of the tail that is dropped at once is small.
const SEGMENTS_MAX: u64 = 16;

const MAGIC: [u8; 4] = *b"JWS1";
const HEADER_LEN: usize = 4 + 1 + TOTALS_LEN + TOTALS_LEN + 4;
const TOTALS_LEN: usize = 8 * 5;
const RECORD_HEAD_LEN: usize = 4 + 4 + 8 + 1 + 8;

/// A place in the spool; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    segment: u64,
    offset: u64,
}

impl Position {
    /// Grows from segment to segment.
    pub const fn segment(self) -> u64 {
        self.segment
    }
}

/// A record and the place after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    pub chunk: Chunk,
    pub at: Position,
    pub next: Position,
}

#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    head_bytes_max: u64,
    tail_bytes_max: u64,
    segments: VecDeque<Segment>,
    writer: File,
    reader: Option<(u64, File)>,
    totals: Totals,
    /// The totals when the head became full.
    head_end: Option<Totals>,
    head_charge: u64,
    tail_charge: u64,
    sealed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Tail,
}

#[derive(Debug)]
struct Segment {
    index: u64,
    part: Part,
    start: Totals,
    /// Length of the file.
    len: u64,
    charge: u64,
}

/// What came before a place, dropped or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Totals {
    seq: u64,
    chunks: [u64; 2],
    bytes: [u64; 2],
}

impl Spool {
    /// Opens the spool in `folder`, making it if it is not there. `bytes_max` is the cap of the log, of which the
    /// tail gets a quarter.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let tail_bytes_max = bytes_max / 4;
        let mut found = Found::read(folder)?;
        if found.segments.is_empty() {
            found.segments.push_back(create(
                folder,
                0,
                Part::Head,
                Totals::default(),
                Totals::default(),
            )?);
        }
        let last = found.segments.back().expect("there is at least one");
        let mut writer = OpenOptions::new().write(true).open(path_of(folder, last.index))?;
        writer.set_len(last.len)?;
        writer.seek(SeekFrom::End(0))?;
        let charge = |part| {
            found
                .segments
                .iter()
                .filter(|segment| segment.part == part)
                .map(|segment| segment.charge)
                .sum()
        };
        Ok(Self {
            folder: folder.to_owned(),
            head_bytes_max: bytes_max - tail_bytes_max,
            tail_bytes_max,
            // Deleted segments of the head count on: what they held was kept, elsewhere.
            head_charge: found.deleted_head_charge() + charge(Part::Head),
            tail_charge: charge(Part::Tail),
            writer,
            reader: None,
            totals: found.totals,
            head_end: found.head_end,
            segments: found.segments,
            sealed: false,
        })
    }

    /// The last `seq` that was written, or dropped past the cap; 0 for none.
    pub const fn last_seq(&self) -> u64 {
        self.totals.seq
    }

    /// Where reading begins.
    pub fn start(&self) -> Position {
        let segment = self.segments.front().map_or(0, |segment| segment.index);
        Position {
            segment,
            offset: HEADER_LEN as u64,
        }
    }

    /// Writes a chunk; one that was written before changes nothing.
    ///
    /// # Errors
    /// When the disk refuses, or the chunk is larger than a chunk may be.
    pub fn append(&mut self, chunk: &Chunk) -> io::Result<()> {
        if chunk.seq <= self.totals.seq {
            return Ok(());
        }
        if chunk.bytes.len() > CHUNK_BYTES_MAX {
            return Err(io::Error::other("a chunk is larger than a chunk may be"));
        }
        let charge = (chunk.bytes.len() as u64).max(CHUNK_CHARGE_MIN);
        self.make_room(charge)?;
        let record = encode_record(chunk);
        self.writer.write_all(&record)?;
        let segment = self.segments.back_mut().expect("there is at least one");
        segment.len += record.len() as u64;
        segment.charge += charge;
        match segment.part {
            Part::Head => self.head_charge += charge,
            Part::Tail => self.tail_charge += charge,
        }
        self.totals.add(chunk);
        self.drop_old_tail()
    }

    /// Nothing more will be written: from now on the tail can be read.
    pub const fn seal(&mut self) {
        self.sealed = true;
    }

    /// What to say of the log: everything that came, and what of it was dropped.
    pub fn log_end(&self) -> LogEnd {
        let first_tail = self.segments.iter().find(|segment| segment.part == Part::Tail);
        let mut end = LogEnd::default();
        for stream in Stream::ALL {
            let place = stream.index();
            let dropped = match (self.head_end, first_tail) {
                (Some(head), Some(tail)) if tail.start.chunks[place] > head.chunks[place] => {
                    Some(DroppedRange {
                        from: head.chunks[place],
                        until: tail.start.chunks[place],
                        bytes: tail.start.bytes[place] - head.bytes[place],
                    })
                }
                _ => None,
            };
            *end.of_mut(stream) = StreamEnd {
                chunks: self.totals.chunks[place],
                bytes: self.totals.bytes[place],
                dropped,
            };
        }
        end
    }

    /// Records from `from` on, up to about `bytes_max` of payload but at least one if there is any to be sent now.
    ///
    /// # Errors
    /// When the disk refuses or a record is broken.
    pub fn read(&mut self, from: Position, bytes_max: usize) -> io::Result<Vec<Spooled>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut at = from;
        while bytes < bytes_max || found.is_empty() {
            let Some(place) = self.settle(at) else { break };
            let (chunk, len) = self.read_record(place)?;
            at = Position {
                offset: place.offset + len,
                ..place
            };
            // An empty chunk costs a frame as well.
            bytes += chunk.bytes.len() + RECORD_HEAD_LEN;
            found.push(Spooled {
                chunk,
                at: place,
                next: at,
            });
        }
        Ok(found)
    }

    /// Deletes what lies wholly before `position`: it is stored.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn release(&mut self, position: Position) -> io::Result<()> {
        while let [first, _, ..] = self.segments.make_contiguous()
            && first.index < position.segment
            && (first.part == Part::Head || self.sealed)
        {
            // The first segment of the tail tells where the dropped range ends, so the tail stays until the end.
            if first.part == Part::Tail {
                break;
            }
            self.delete_first()?;
        }
        Ok(())
    }

    /// The place of the next readable record at or after `at`.
    fn settle(&self, at: Position) -> Option<Position> {
        self.segments
            .iter()
            .filter(|segment| segment.part == Part::Head || self.sealed)
            .filter(|segment| segment.index >= at.segment)
            .map(|segment| {
                let offset = if segment.index == at.segment {
                    at.offset.max(HEADER_LEN as u64)
                } else {
                    HEADER_LEN as u64
                };
                (
                    Position {
                        segment: segment.index,
                        offset,
                    },
                    segment.len,
                )
            })
            .find(|(place, len)| place.offset < *len)
            .map(|(place, _)| place)
    }

    fn read_record(&mut self, place: Position) -> io::Result<(Chunk, u64)> {
        if self
            .reader
            .as_ref()
            .is_none_or(|(index, _)| *index != place.segment)
        {
            self.reader = Some((place.segment, File::open(path_of(&self.folder, place.segment))?));
        }
        let (_, file) = self.reader.as_ref().expect("opened just now");
        let mut head = [0; RECORD_HEAD_LEN];
        file.read_exact_at(&mut head, place.offset)?;
        let len = record_len(&head).ok_or_else(broken)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, place.offset + RECORD_HEAD_LEN as u64)?;
        let chunk = decode_record(&head, bytes).ok_or_else(broken)?;
        Ok((chunk, (RECORD_HEAD_LEN + len) as u64))
    }

    /// Sees to it that the last segment is one that `charge` more belongs into.
    fn make_room(&mut self, charge: u64) -> io::Result<()> {
        let last = self.segments.back().expect("there is at least one");
        let (full, part) = match last.part {
            Part::Head if self.head_charge + charge > self.head_bytes_max => {
                self.head_end = Some(self.totals);
                (true, Part::Tail)
            }
            Part::Head => (last.charge >= segment_bytes(self.head_bytes_max), Part::Head),
            Part::Tail => (last.charge >= segment_bytes(self.tail_bytes_max), Part::Tail),
        };
        if full {
            let index = last.index + 1;
            let head_end = self.head_end.unwrap_or_default();
            self.segments
                .push_back(create(&self.folder, index, part, self.totals, head_end)?);
            self.writer = OpenOptions::new()
                .append(true)
                .open(path_of(&self.folder, index))?;
        }
        Ok(())
    }

    fn drop_old_tail(&mut self) -> io::Result<()> {
        while self.tail_charge > self.tail_bytes_max {
            let mut tail = self
                .segments
                .iter()
                .enumerate()
                .filter(|(_, segment)| segment.part == Part::Tail);
            let (Some((place, oldest)), Some(_)) = (tail.next(), tail.next()) else {
                break;
            };
            let (index, charge) = (oldest.index, oldest.charge);
            drop(tail);
            self.tail_charge -= charge;
            self.segments.remove(place);
            remove_file(&path_of(&self.folder, index))?;
        }
        Ok(())
    }

    fn delete_first(&mut self) -> io::Result<()> {
        if let Some(first) = self.segments.pop_front() {
            remove_file(&path_of(&self.folder, first.index))?;
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, chunk: &Chunk) {
        let place = chunk.stream.index();
        self.seq = chunk.seq;
        self.chunks[place] = chunk.stream_seq + 1;
        self.bytes[place] += chunk.bytes.len() as u64;
    }

    fn to_bytes(self) -> [u8; TOTALS_LEN] {
        let mut bytes = [0; TOTALS_LEN];
        let numbers = [
            self.seq,
            self.chunks[0],
            self.chunks[1],
            self.bytes[0],
            self.bytes[1],
        ];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let number = |place: usize| u64_at(bytes, place * 8);
        Self {
            seq: number(0),
            chunks: [number(1), number(2)],
            bytes: [number(3), number(4)],
        }
    }
}

/// What lies in the folder.
struct Found {
    segments: VecDeque<Segment>,
    totals: Totals,
    head_end: Option<Totals>,
}

impl Found {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut indices: Vec<u64> = std::fs::read_dir(folder)?
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".seg")?
                    .parse()
                    .ok()
            })
            .collect();
        indices.sort_unstable();
        let mut found = Self {
            segments: VecDeque::new(),
            totals: Totals::default(),
            head_end: None,
        };
        let mut broken = false;
        for index in indices {
            let path = path_of(folder, index);
            if broken {
                // After a broken record nothing is in order; init sends it again.
                remove_file(&path)?;
                continue;
            }
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            let Some((part, start, head_end)) = read_header(&mut file)? else {
                remove_file(&path)?;
                broken = true;
                continue;
            };
            let mut segment = Segment {
                index,
                part,
                start,
                len: HEADER_LEN as u64,
                charge: 0,
            };
            found.totals = start;
            if part == Part::Tail {
                found.head_end = Some(head_end);
            }
            let mut reader = io::BufReader::new(file);
            while let Some((chunk, len)) = scan_record(&mut reader)? {
                found.totals.add(&chunk);
                segment.len += len;
                segment.charge += (chunk.bytes.len() as u64).max(CHUNK_CHARGE_MIN);
            }
            broken = segment.len < size;
            found.segments.push_back(segment);
        }
        Ok(found)
    }

    /// About what the deleted segments of the head held.
    fn deleted_head_charge(&self) -> u64 {
        self.segments
            .front()
            .filter(|segment| segment.part == Part::Head)
            .map_or(0, |first| {
                let bytes: u64 = first.start.bytes.iter().sum();
                bytes.max(first.start.seq * CHUNK_CHARGE_MIN)
            })
    }
}

fn segment_bytes(part_bytes: u64) -> u64 {
    part_bytes / SEGMENTS_MAX
}

fn path_of(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("{index:08}.seg"))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn create(folder: &Path, index: u64, part: Part, start: Totals, head_end: Totals) -> io::Result<Segment> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend(MAGIC);
    header.push(match part {
        Part::Head => 0,
        Part::Tail => 1,
    });
    header.extend(start.to_bytes());
    header.extend(head_end.to_bytes());
    header.extend(crc32fast::hash(&header).to_be_bytes());
    std::fs::write(path_of(folder, index), header)?;
    Ok(Segment {
        index,
        part,
        start,
        len: HEADER_LEN as u64,
        charge: 0,
    })
}

fn read_header(file: &mut File) -> io::Result<Option<(Part, Totals, Totals)>> {
    let mut header = [0; HEADER_LEN];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (body, crc) = header.split_at(HEADER_LEN - 4);
    if body[..4] != MAGIC || crc32fast::hash(body).to_be_bytes() != crc {
        return Ok(None);
    }
    let part = if body[4] == 0 { Part::Head } else { Part::Tail };
    Ok(Some((
        part,
        Totals::from_bytes(&body[5..]),
        Totals::from_bytes(&body[5 + TOTALS_LEN..]),
    )))
}

/// `len (4) | crc (4) | seq (8) | stream (1) | stream_seq (8) | bytes`, big-endian; the crc covers what follows it.
fn encode_record(chunk: &Chunk) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEAD_LEN + chunk.bytes.len());
    let len = u32::try_from(chunk.bytes.len()).expect("checked against CHUNK_BYTES_MAX");
    record.extend(len.to_be_bytes());
    record.extend([0; 4]);
    record.extend(chunk.seq.to_be_bytes());
    record.push(if chunk.stream == Stream::Stdout { 0 } else { 1 });
    record.extend(chunk.stream_seq.to_be_bytes());
    record.extend(&chunk.bytes);
    let crc = crc32fast::hash(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_be_bytes());
    record
}

fn record_len(head: &[u8; RECORD_HEAD_LEN]) -> Option<usize> {
    let len = head
        .iter()
        .take(4)
        .fold(0usize, |len, &byte| (len << 8) | usize::from(byte));
    (len <= CHUNK_BYTES_MAX).then_some(len)
}

fn decode_record(head: &[u8; RECORD_HEAD_LEN], bytes: Vec<u8>) -> Option<Chunk> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[8..]);
    hasher.update(&bytes);
    if hasher.finalize().to_be_bytes() != head[4..8] {
        return None;
    }
    Some(Chunk {
        seq: u64_at(head, 8),
        stream: Stream::from_index(head[16])?,
        stream_seq: u64_at(head, 17),
        bytes: Bytes::from(bytes),
    })
}

/// The next whole record, or none where the file ends or is broken.
fn scan_record(reader: &mut impl Read) -> io::Result<Option<(Chunk, u64)>> {
    let mut head = [0; RECORD_HEAD_LEN];
    if !read_whole(reader, &mut head)? {
        return Ok(None);
    }
    let Some(len) = record_len(&head) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len];
    if !read_whole(reader, &mut bytes)? {
        return Ok(None);
    }
    Ok(decode_record(&head, bytes).map(|chunk| (chunk, (RECORD_HEAD_LEN + len) as u64)))
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .iter()
        .skip(at)
        .take(8)
        .fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a record of the spool does not read back",
    )
}
