//! Reading logs: rows of the index, then the bytes they name, checked against their sums.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use common::ids::AttemptId;
use common::log::{LogChunk, MissingLogs, Stream};
use common::store::{LogExtent, LogPage, LogPosition, StoreError, StoredChunk, StreamExtent};
use common::time::Timestamp;
use rusqlite::{Connection, Row, params};

use super::super::segments;
use super::super::sqlite::{corrupt, io, sql};
use super::append::{find, stream as stream_row};

/// Chunks of one page at the most: empty or tiny ones must not make it long.
const PAGE_CHUNKS_MAX: usize = 4_096;
/// Bytes of one range at the most; callers that want more ask again.
const RANGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where a chunk lies.
struct Place {
    position: i64,
    stream: Stream,
    seq: i64,
    stored_at: i64,
    segment: i64,
    place: i64,
    length: i64,
    start: i64,
    crc: u32,
}

const PLACE: &str = "position, stream, seq, stored_at, segment, place, length, start, crc";

impl Place {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let stream: u8 = row.get(1)?;
        Ok(Self {
            position: row.get(0)?,
            stream: if stream == 0 {
                Stream::Stdout
            } else {
                Stream::Stderr
            },
            seq: row.get(2)?,
            stored_at: row.get(3)?,
            segment: row.get(4)?,
            place: row.get(5)?,
            length: row.get(6)?,
            start: row.get(7)?,
            crc: row.get(8)?,
        })
    }

    fn length(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0)
    }

    fn follows(&self, other: &Self) -> bool {
        self.segment == other.segment && self.place == other.place + other.length
    }
}

/// Whether nothing is stored from there on.
pub(super) fn is_end(db: &Connection, attempt: AttemptId, from: LogPosition) -> Result<bool, StoreError> {
    let found = find(db, attempt).map_err(sql)?;
    Ok(found.is_none_or(|(_, next_position)| from.0 >= next_position.cast_unsigned()))
}

pub(super) fn page(
    db: &Connection,
    folder: &Path,
    attempt: AttemptId,
    stream: Option<Stream>,
    from: LogPosition,
    bytes_max: usize,
) -> Result<LogPage, StoreError> {
    let nothing = LogPage {
        chunks: Vec::new(),
        next: from,
    };
    let Some((key, _)) = find(db, attempt).map_err(sql)? else {
        return Ok(nothing);
    };
    // A place past the end of numbers is past the end of the log.
    let Ok(first) = i64::try_from(from.0) else {
        return Ok(nothing);
    };
    let mut places = Vec::new();
    let mut bytes = 0usize;
    {
        let mut statement = db
            .prepare_cached(&format!(
                "SELECT {PLACE} FROM chunks WHERE attempt = ?1 AND position >= ?2 AND (?3 IS NULL OR stream = ?3)
                 ORDER BY position"
            ))
            .map_err(sql)?;
        let wanted = stream.map(|stream| stream.index() as i64);
        let rows = statement
            .query_map(params![key, first, wanted], Place::of)
            .map_err(sql)?;
        for place in rows {
            let place = place.map_err(sql)?;
            let length = place.length();
            if !places.is_empty() && (bytes + length > bytes_max || places.len() == PAGE_CHUNKS_MAX) {
                break;
            }
            bytes += length;
            places.push(place);
        }
    }
    let next = places
        .last()
        .map_or(from, |last| LogPosition(last.position.cast_unsigned() + 1));
    let chunks = fetch(folder, &places)?
        .into_iter()
        .zip(&places)
        .map(|(bytes, place)| StoredChunk {
            position: LogPosition(place.position.cast_unsigned()),
            stored_at: Timestamp::from_millis(place.stored_at),
            chunk: LogChunk {
                attempt,
                stream: place.stream,
                seq: place.seq.cast_unsigned(),
                bytes,
            },
        })
        .collect();
    Ok(LogPage { chunks, next })
}

pub(super) fn range(
    db: &Connection,
    folder: &Path,
    attempt: AttemptId,
    stream: Stream,
    start: u64,
    end: u64,
) -> Result<Bytes, StoreError> {
    let Some((key, _)) = find(db, attempt).map_err(sql)? else {
        return Ok(Bytes::new());
    };
    let Some(row) = stream_row(db, key, stream).map_err(sql)? else {
        return Ok(Bytes::new());
    };
    let end = end
        .min(row.bytes.cast_unsigned())
        .min(start.saturating_add(RANGE_BYTES_MAX));
    if start >= end {
        return Ok(Bytes::new());
    }
    let (start, end) = (start.cast_signed(), end.cast_signed());
    let places = if row.ordered {
        ordered(db, key, stream, start, end)
    } else {
        disordered(db, key, stream, start, end)
    }
    .map_err(sql)?;
    let Some(first) = places.first() else {
        return Ok(Bytes::new());
    };
    let skipped = usize::try_from(start - first.start).unwrap_or(0);
    let wanted = usize::try_from(end - start).unwrap_or(0);
    let whole = fetch(folder, &places)?.concat();
    let until = whole.len().min(skipped + wanted);
    Ok(Bytes::from(whole).slice(skipped.min(until)..until))
}

/// Chunks that touch `start..end`, found by their offsets.
fn ordered(db: &Connection, key: i64, stream: Stream, start: i64, end: i64) -> rusqlite::Result<Vec<Place>> {
    // Offsets rise with seq, so the index by seq is searched in halves.
    let index = stream.index() as i64;
    let top: i64 = db
        .prepare_cached("SELECT top_seq FROM streams WHERE attempt = ?1 AND stream = ?2")?
        .query_row([key, index], |row| row.get(0))?;
    let mut at_or_before = db.prepare_cached(
        "SELECT seq, start FROM chunks WHERE attempt = ?1 AND stream = ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT 1",
    )?;
    let (mut low, mut high) = (0, top);
    let mut first = 0;
    while low <= high {
        let middle = low + (high - low) / 2;
        let found = at_or_before.query_row([key, index, middle], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        match found {
            Ok((seq, offset)) if offset <= start => {
                first = seq;
                low = middle + 1;
            }
            Ok((seq, _)) => high = seq - 1,
            Err(rusqlite::Error::QueryReturnedNoRows) => low = middle + 1,
            Err(error) => return Err(error),
        }
    }
    let mut statement = db.prepare_cached(&format!(
        "SELECT {PLACE} FROM chunks WHERE attempt = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq"
    ))?;
    let mut places = Vec::new();
    for place in statement.query_map([key, index, first], Place::of)? {
        let place = place?;
        if place.start >= end {
            break;
        }
        places.push(place);
    }
    Ok(places)
}

/// As [`ordered`] for a stream whose chunks came out of order: offsets are counted anew.
fn disordered(
    db: &Connection,
    key: i64,
    stream: Stream,
    start: i64,
    end: i64,
) -> rusqlite::Result<Vec<Place>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {PLACE} FROM chunks WHERE attempt = ?1 AND stream = ?2 ORDER BY seq"
    ))?;
    let (mut offset, mut places) = (0, Vec::new());
    for place in statement.query_map([key, stream.index() as i64], Place::of)? {
        let mut place = place?;
        if offset >= end {
            break;
        }
        place.start = offset;
        offset += place.length;
        if offset > start {
            places.push(place);
        }
    }
    Ok(places)
}

pub(super) fn extent(db: &Connection, attempt: AttemptId) -> Result<LogExtent, StoreError> {
    let Some((key, next_position)) = find(db, attempt).map_err(sql)? else {
        return Ok(LogExtent::default());
    };
    let of = |stream| {
        let row = stream_row(db, key, stream).map_err(sql)?;
        Ok::<_, StoreError>(row.map_or_else(StreamExtent::default, |row| StreamExtent {
            chunks: row.chunks.cast_unsigned(),
            bytes: row.bytes.cast_unsigned(),
            next_seq: row.next_seq.cast_unsigned(),
        }))
    };
    Ok(LogExtent {
        stdout: of(Stream::Stdout)?,
        stderr: of(Stream::Stderr)?,
        end: LogPosition(next_position.cast_unsigned()),
    })
}

pub(super) fn missing(
    db: &Connection,
    attempt: AttemptId,
    until: [u64; 2],
) -> Result<MissingLogs, StoreError> {
    let key = find(db, attempt).map_err(sql)?.map(|(key, _)| key);
    let of = |stream: Stream| holes(db, key, stream, until[stream.index()]).map_err(sql);
    Ok(MissingLogs {
        stdout: of(Stream::Stdout)?,
        stderr: of(Stream::Stderr)?,
    })
}

fn holes(db: &Connection, key: Option<i64>, stream: Stream, until: u64) -> rusqlite::Result<Vec<(u64, u64)>> {
    let row = match key {
        Some(key) => stream_row(db, key, stream)?.map(|row| (key, row)),
        None => None,
    };
    let mut next = row.as_ref().map_or(0, |(_, row)| row.next_seq.cast_unsigned());
    let mut holes = Vec::new();
    if let Some((key, _)) = row {
        let mut statement = db.prepare_cached(
            "SELECT seq FROM chunks WHERE attempt = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq",
        )?;
        let mut rows = statement.query([key, stream.index() as i64, next.cast_signed()])?;
        while next < until
            && holes.len() < MissingLogs::RANGES_MAX
            && let Some(row) = rows.next()?
        {
            let seq = row.get::<_, i64>(0)?.cast_unsigned();
            if seq > next {
                holes.push((next, seq.min(until)));
            }
            next = seq + 1;
        }
    }
    if next < until && holes.len() < MissingLogs::RANGES_MAX {
        holes.push((next, until));
    }
    Ok(holes)
}

/// The payloads of `places`; neighbours in one read.
fn fetch(folder: &Path, places: &[Place]) -> Result<Vec<Bytes>, StoreError> {
    let mut payloads = Vec::with_capacity(places.len());
    let mut open: Option<(i64, File)> = None;
    for run in places.chunk_by(|before, after| after.follows(before)) {
        let segment = run[0].segment;
        let file = match open.take() {
            Some((id, file)) if id == segment => file,
            _ => File::open(segments::path(folder, segment)).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => corrupt(format!("log segment {segment} is not there")),
                _ => io(error),
            })?,
        };
        let mut whole = vec![0; run.iter().map(Place::length).sum()];
        file.read_exact_at(&mut whole, run[0].place.cast_unsigned())
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => corrupt(format!("log segment {segment} is cut short")),
                _ => io(error),
            })?;
        let mut whole = Bytes::from(whole);
        for place in run {
            let payload = whole.split_to(place.length());
            if crc32fast::hash(&payload) != place.crc {
                return Err(corrupt(format!("a chunk in log segment {segment}")));
            }
            payloads.push(payload);
        }
        open = Some((segment, file));
    }
    Ok(payloads)
}
