//! Reading logs: pages by position, ranges by offset, holes by number; each a run of one index.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use common::ids::AttemptId;
use common::log::{MissingLogs, Stream};
use common::store::{LogPage, LogPosition, StoredChunk};
use mongodb::bson::{Document, doc};

use super::super::link::{Link, Question};
use super::super::schema;
use super::super::trouble::Trouble;
use super::append::head;
use super::chunk::{Head, places, stored};

/// Chunks of one page at the most: empty or tiny ones must not make it long.
const PAGE_CHUNKS_MAX: usize = 4_096;
/// Chunks of a page's first look, 64 KiB each at the most; later looks go by the size of those seen.
const LOOK_FIRST: usize = 16;
/// Chunks of one look at the most.
const LOOK_MAX: usize = 1_024;
/// Bytes of one range at the most; callers that want more ask again.
const RANGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Ids in one question.
const IDS_MAX: usize = 1_000;

pub(super) async fn page(
    link: &Link,
    attempt: AttemptId,
    stream: Option<Stream>,
    from: LogPosition,
    bytes_max: usize,
) -> Result<LogPage, Trouble> {
    let mut page = LogPage {
        chunks: Vec::new(),
        next: from,
    };
    let mut bytes = 0;
    let mut look = LOOK_FIRST;
    // A place past the end of numbers is past the end of the log.
    while let Ok(at) = i64::try_from(page.next.0) {
        let found = chunks(link, attempt, stream, at, look).await?;
        let count = found.len();
        for one in found {
            let length = one.chunk.bytes.len();
            if !page.chunks.is_empty() && (bytes + length > bytes_max || page.chunks.len() == PAGE_CHUNKS_MAX)
            {
                return Ok(page);
            }
            bytes += length;
            page.next = LogPosition(one.position.0 + 1);
            page.chunks.push(one);
        }
        if count < look || bytes >= bytes_max {
            break;
        }
        let average = (bytes / page.chunks.len().max(1)).max(1);
        look = ((bytes_max - bytes) / average + 1).clamp(LOOK_FIRST, LOOK_MAX);
    }
    Ok(page)
}

async fn chunks(
    link: &Link,
    attempt: AttemptId,
    stream: Option<Stream>,
    from: i64,
    limit: usize,
) -> Result<Vec<StoredChunk>, Trouble> {
    let mut filter = doc! { "_id": places(attempt, from) };
    if let Some(stream) = stream {
        filter.insert("stream", stream.as_str());
    }
    let question = Question::new(schema::LOGS, filter)
        .sorted(doc! { "_id": 1 })
        .only(doc! { "attempt": 0, "after": 0 })
        .at_most(limit);
    link.ask(question, |row| stored(attempt, row).map(Some)).await
}

pub(super) async fn range(
    link: &Link,
    attempt: AttemptId,
    stream: Stream,
    start: u64,
    end: u64,
) -> Result<Bytes, Trouble> {
    let head = head(link, attempt).await?.unwrap_or(Head::EMPTY);
    let known = head.streams[stream.index()];
    let end = end
        .min(known.bytes.cast_unsigned())
        .min(start.saturating_add(RANGE_BYTES_MAX));
    if start >= end {
        return Ok(Bytes::new());
    }
    let (start, end) = (start.cast_signed(), end.cast_signed());
    let (first, parts) = if known.ordered {
        ordered(link, attempt, stream, start, end).await?
    } else {
        disordered(link, attempt, stream, start, end).await?
    };
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(&part);
    }
    let skipped = usize::try_from(start - first).unwrap_or(0).min(whole.len());
    let until = whole
        .len()
        .min(skipped + usize::try_from(end - start).unwrap_or(0));
    Ok(whole.freeze().slice(skipped..until))
}

fn of(attempt: AttemptId, stream: Stream) -> Document {
    doc! { "attempt": attempt.to_string(), "stream": stream.as_str() }
}

/// Chunks that touch `start..end`, found by their offsets; with the offset of the first of them.
async fn ordered(
    link: &Link,
    attempt: AttemptId,
    stream: Stream,
    start: i64,
    end: i64,
) -> Result<(i64, Vec<Bytes>), Trouble> {
    let mut filter = of(attempt, stream);
    filter.insert("start", doc! { "$lte": start });
    let question = Question::new(schema::LOGS, filter)
        .sorted(doc! { "start": -1 })
        .only(doc! { "_id": 0, "start": 1 });
    let first = link
        .ask_one(question, |row| Ok(row.get_i64("start")?))
        .await?
        .unwrap_or(0);
    let mut filter = of(attempt, stream);
    // Empty chunks share the offset of the next one; wherever they stand among themselves, they add nothing.
    filter.insert("start", doc! { "$gte": first, "$lt": end });
    let question = Question::new(schema::LOGS, filter)
        .sorted(doc! { "start": 1 })
        .only(doc! { "_id": 0, "data": 1 });
    let parts = link
        .ask(question, |row| {
            Ok(Some(Bytes::copy_from_slice(row.get_binary("data")?.bytes)))
        })
        .await?;
    Ok((first, parts))
}

/// As [`ordered`] for a stream whose chunks came out of order: offsets are counted anew.
async fn disordered(
    link: &Link,
    attempt: AttemptId,
    stream: Stream,
    start: i64,
    end: i64,
) -> Result<(i64, Vec<Bytes>), Trouble> {
    let question = Question::new(schema::LOGS, of(attempt, stream))
        .sorted(doc! { "seq": 1 })
        .only(doc! { "length": 1 });
    let (mut offset, mut first) = (0, None);
    let touched = link
        .ask(question, |row| {
            if offset >= end {
                return Ok(None);
            }
            let from = offset;
            offset += row.get_i64("length")?;
            let touches = offset > start;
            if touches && first.is_none() {
                first = Some(from);
            }
            Ok(Some(
                touches
                    .then(|| row.get_str("_id").map(str::to_owned))
                    .transpose()?,
            ))
        })
        .await?;
    let ids: Vec<String> = touched.into_iter().flatten().collect();
    let mut by_id: HashMap<String, Bytes> = HashMap::with_capacity(ids.len());
    for part in ids.chunks(IDS_MAX) {
        let question =
            Question::new(schema::LOGS, doc! { "_id": { "$in": part.to_vec() } }).only(doc! { "data": 1 });
        let read = |row: &mongodb::bson::RawDocument| {
            let data = Bytes::copy_from_slice(row.get_binary("data")?.bytes);
            Ok(Some((row.get_str("_id")?.to_owned(), data)))
        };
        by_id.extend(link.ask(question, read).await?);
    }
    let parts = ids.iter().filter_map(|id| by_id.remove(id)).collect();
    Ok((first.unwrap_or(0), parts))
}

pub(super) async fn missing(
    link: &Link,
    attempt: AttemptId,
    until: [u64; 2],
) -> Result<MissingLogs, Trouble> {
    let head = head(link, attempt).await?.unwrap_or(Head::EMPTY);
    let of = |stream: Stream| holes(link, attempt, stream, &head, until[stream.index()]);
    let (stdout, stderr) = tokio::try_join!(of(Stream::Stdout), of(Stream::Stderr))?;
    Ok(MissingLogs { stdout, stderr })
}

async fn holes(
    link: &Link,
    attempt: AttemptId,
    stream: Stream,
    head: &Head,
    until: u64,
) -> Result<Vec<(u64, u64)>, Trouble> {
    let known = head.streams[stream.index()];
    let mut next = known.next_seq.cast_unsigned();
    let mut holes = Vec::new();
    if next < until && known.next_seq <= known.top_seq {
        let mut filter = of(attempt, stream);
        filter.insert("seq", doc! { "$gte": known.next_seq });
        let question = Question::new(schema::LOGS, filter)
            .sorted(doc! { "seq": 1 })
            .only(doc! { "_id": 0, "seq": 1 });
        link.ask(question, |row| {
            if next >= until || holes.len() == MissingLogs::RANGES_MAX {
                return Ok(None);
            }
            let seq = row.get_i64("seq")?.cast_unsigned();
            if seq > next {
                holes.push((next, seq.min(until)));
            }
            next = seq + 1;
            Ok(Some(()))
        })
        .await?;
    }
    if next < until && holes.len() < MissingLogs::RANGES_MAX {
        holes.push((next, until));
    }
    Ok(holes)
}
