//! Log chunks in memory, each key once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use common::ids::AttemptId;
use common::log::{LogChunk, MissingLogs, Stream};
use common::store::{
    Appended, LogExtent, LogPage, LogPosition, LogStore, StoreError, StoredChunk, StreamExtent,
};
use common::time::Timestamp;

use super::{Client, Service, held};

#[derive(Default)]
pub struct Logs {
    attempts: BTreeMap<AttemptId, AttemptLog>,
    /// Never reused.
    next_position: u64,
}

#[derive(Debug, Clone, Default)]
pub struct AttemptLog {
    in_order: Vec<StoredChunk>,
    streams: [BTreeMap<u64, Bytes>; 2],
}

impl AttemptLog {
    pub fn stream(&self, stream: Stream) -> &BTreeMap<u64, Bytes> {
        &self.streams[stream.index()]
    }

    fn extent_of(&self, stream: Stream) -> StreamExtent {
        let chunks = self.stream(stream);
        StreamExtent {
            chunks: chunks.len() as u64,
            bytes: chunks.values().map(|bytes| bytes.len() as u64).sum(),
            next_seq: (0..).find(|seq| !chunks.contains_key(seq)).unwrap_or(u64::MAX),
        }
    }

    fn missing_of(&self, stream: Stream, until: u64) -> Vec<(u64, u64)> {
        let (mut missing, mut from) = (Vec::new(), 0);
        for seq in self
            .stream(stream)
            .range(..until)
            .map(|(seq, _)| *seq)
            .chain([until])
        {
            if seq > from {
                missing.push((from, seq));
            }
            from = seq + 1;
        }
        missing.truncate(MissingLogs::RANGES_MAX);
        missing
    }
}

impl Logs {
    pub fn of(&self, attempt: AttemptId) -> AttemptLog {
        self.attempts.get(&attempt).cloned().unwrap_or_default()
    }

    fn append(&mut self, chunk: LogChunk, stored_at: Timestamp) -> Appended {
        let log = self.attempts.entry(chunk.attempt).or_default();
        let stream = &mut log.streams[chunk.stream.index()];
        if stream.contains_key(&chunk.seq) {
            return Appended::Repeat;
        }
        stream.insert(chunk.seq, chunk.bytes.clone());
        log.in_order.push(StoredChunk {
            position: LogPosition(self.next_position),
            stored_at,
            chunk,
        });
        self.next_position += 1;
        Appended::Stored
    }
}

fn page(log: &AttemptLog, stream: Option<Stream>, from: LogPosition, bytes_max: usize) -> LogPage {
    let (mut chunks, mut bytes): (Vec<StoredChunk>, usize) = (Vec::new(), 0);
    let wanted = log.in_order.iter().filter(|stored| {
        stored.position >= from && stream.is_none_or(|stream| stream == stored.chunk.stream)
    });
    for stored in wanted {
        bytes += stored.chunk.bytes.len();
        if !chunks.is_empty() && bytes > bytes_max {
            break;
        }
        chunks.push(stored.clone());
    }
    let next = chunks
        .last()
        .map_or(from, |last| LogPosition(last.position.0 + 1));
    LogPage { chunks, next }
}

fn range(log: &AttemptLog, stream: Stream, start: u64, end: u64) -> Bytes {
    let (mut found, mut at) = (BytesMut::new(), 0u64);
    for bytes in log.stream(stream).values() {
        let len = bytes.len() as u64;
        let from = start.clamp(at, at + len) - at;
        let until = end.clamp(at, at + len) - at;
        if from < until {
            let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            found.extend_from_slice(&bytes[place(from)..place(until)]);
        }
        at += len;
    }
    found.freeze()
}

#[async_trait]
impl LogStore for Client {
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError> {
        self.call(Service::Rows, "append", move |backends, _| {
            let mut logs = held(&backends.logs);
            Ok(chunks.into_iter().map(|chunk| logs.append(chunk, now)).collect())
        })
        .await
    }

    async fn read(
        &self,
        attempt: AttemptId,
        stream: Option<Stream>,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<LogPage, StoreError> {
        self.call(Service::Rows, "read_log", move |backends, _| {
            Ok(page(&held(&backends.logs).of(attempt), stream, from, bytes_max))
        })
        .await
    }

    async fn read_range(
        &self,
        attempt: AttemptId,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        self.call(Service::Rows, "read_log_range", move |backends, _| {
            Ok(range(&held(&backends.logs).of(attempt), stream, start, end))
        })
        .await
    }

    async fn extent(&self, attempt: AttemptId) -> Result<LogExtent, StoreError> {
        self.call(Service::Rows, "log_extent", move |backends, _| {
            let log = held(&backends.logs).of(attempt);
            Ok(LogExtent {
                stdout: log.extent_of(Stream::Stdout),
                stderr: log.extent_of(Stream::Stderr),
                end: log
                    .in_order
                    .last()
                    .map_or_else(LogPosition::default, |last| LogPosition(last.position.0 + 1)),
            })
        })
        .await
    }

    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError> {
        self.call(Service::Rows, "log_missing", move |backends, _| {
            let log = held(&backends.logs).of(attempt);
            Ok(MissingLogs {
                stdout: log.missing_of(Stream::Stdout, until[0]),
                stderr: log.missing_of(Stream::Stderr, until[1]),
            })
        })
        .await
    }

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError> {
        self.call(Service::Rows, "purge_log", move |backends, _| {
            held(&backends.logs).attempts.remove(&attempt);
            Ok(())
        })
        .await
    }
}
