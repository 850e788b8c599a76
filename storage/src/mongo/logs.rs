//! Log chunks: a document each. An attempt's chunks go through one lane of a few, chosen by its id, so that one process
//! never meets itself; two processes may, and [`append`] settles it.
//!
//! The callers' bytes that are under way are bounded by [`BYTES_UNDER_WAY_MAX`]; past it an append waits.

mod append;
mod chunk;
mod read;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::ids::AttemptId;
use common::log::{LogChunk, MissingLogs, Stream};
use common::store::{Appended, LogExtent, LogPage, LogPosition, LogStore, StoreError};
use common::tasks::Tasks;
use common::time::Timestamp;
use futures_util::future::try_join_all;
use mongodb::bson::doc;
use tokio::sync::Semaphore;

use self::append::{Appender, Heads, New};
use super::lane::Lane;
use super::link::{Link, Question, in_time};
use super::schema;
use super::trouble::Trouble;

/// Lanes side by side. Each has one command group under way.
const LANES: usize = 4;
/// Payload of all appends that wait or are being written: four groups.
const BYTES_UNDER_WAY_MAX: u32 = 32 * 1024 * 1024;
/// Longest wait to be let in, as for any other call.
const LET_IN_WITHIN: Duration = Duration::from_millis(2_800);
/// What a chunk weighs beside its payload.
const CHUNK_WEIGHT: usize = 512;
/// Chunks removed by one command of a purge, so that each is over long before its deadline.
const PURGE_STEP: usize = 1_000;

pub(super) struct Logs {
    link: Arc<Link>,
    heads: Arc<Heads>,
    lanes: Vec<Lane<Appender>>,
    under_way: Arc<Semaphore>,
}

impl Logs {
    pub(super) fn new(link: &Arc<Link>, tasks: &Tasks) -> Self {
        let heads = Arc::new(Heads::default());
        let appender = || Appender {
            link: Arc::clone(link),
            heads: Arc::clone(&heads),
        };
        let lanes = (0..LANES)
            .map(|_| Lane::start("store-logs", tasks, [appender()]))
            .collect();
        Self {
            link: Arc::clone(link),
            heads: Arc::clone(&heads),
            lanes,
            under_way: Arc::new(Semaphore::new(BYTES_UNDER_WAY_MAX as usize)),
        }
    }
}

/// Ids of attempts are random, so any bits of them spread evenly.
const fn lane_of(attempt: AttemptId) -> usize {
    (attempt.as_u128() % LANES as u128) as usize
}

#[async_trait]
impl LogStore for Logs {
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError> {
        let weight: usize = chunks.iter().map(|chunk| chunk.bytes.len() + CHUNK_WEIGHT).sum();
        let share = u32::try_from(weight).unwrap_or(u32::MAX).min(BYTES_UNDER_WAY_MAX);
        let let_in = Arc::clone(&self.under_way).acquire_many_owned(share);
        let permit = tokio::time::timeout(LET_IN_WITHIN, let_in)
            .await
            .map_err(|_| Trouble::Silent)?
            .map_err(|_| Trouble::Closed)?;
        let permit = Arc::new(permit);
        let mut parts: Vec<(Vec<usize>, Vec<New>)> = (0..LANES).map(|_| (Vec::new(), Vec::new())).collect();
        let count = chunks.len();
        for (at, chunk) in chunks.into_iter().enumerate() {
            let (places, news) = &mut parts[lane_of(chunk.attempt)];
            places.push(at);
            news.push(New {
                chunk,
                now,
                _share: Arc::clone(&permit),
            });
        }
        drop(permit);
        let writes = parts
            .into_iter()
            .zip(&self.lanes)
            .map(|((places, news), lane)| async move {
                let answers = lane.write(news).await?;
                Ok::<_, Trouble>(places.into_iter().zip(answers).collect::<Vec<_>>())
            });
        let mut answers = vec![Appended::Repeat; count];
        for (at, answer) in try_join_all(writes).await?.into_iter().flatten() {
            answers[at] = answer;
        }
        Ok(answers)
    }

    async fn read(
        &self,
        attempt: AttemptId,
        stream: Option<Stream>,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<LogPage, StoreError> {
        Ok(read::page(&self.link, attempt, stream, from, bytes_max).await?)
    }

    async fn read_range(
        &self,
        attempt: AttemptId,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        Ok(read::range(&self.link, attempt, stream, start, end).await?)
    }

    async fn extent(&self, attempt: AttemptId) -> Result<LogExtent, StoreError> {
        let head = append::head(&self.link, attempt).await?;
        Ok(head.map_or_else(LogExtent::default, |head| head.extent()))
    }

    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError> {
        Ok(read::missing(&self.link, attempt, until).await?)
    }

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError> {
        // From the beginning: the last chunk, which knows of all of them, goes last.
        loop {
            let question = Question::new(schema::LOGS, doc! { "_id": chunk::places(attempt, 0) })
                .sorted(doc! { "_id": 1 })
                .only(doc! { "_id": 1 })
                .at_most(PURGE_STEP);
            let ids = self
                .link
                .ask(question, |row| Ok(Some(row.get_str("_id")?.to_owned())))
                .await?;
            let more = ids.len() == PURGE_STEP;
            if !ids.is_empty() {
                let statement = doc! { "q": { "_id": { "$in": ids } }, "limit": 0 };
                let command = doc! { "delete": schema::LOGS, "deletes": [statement] };
                in_time(self.link.write(command)).await?.whole()?;
            }
            if !more {
                break;
            }
        }
        self.heads.forget(attempt);
        Ok(())
    }
}
