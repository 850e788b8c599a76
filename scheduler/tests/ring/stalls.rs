//! A store that makes callers wait, or never answers: what one connection waits for holds up nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::attempt::{AttemptReport, Outcome};
use common::ids::AttemptId;
use common::lifecycle::testing::spec;
use common::log::{LogChunk, LogEnd, MissingLogs, Stream, StreamEnd};
use common::protocol::{Assignment, CloseCode, ResultVerdict};
use common::store::{Appended, LogExtent, LogPage, LogPosition, LogStore, StoreError, Stores};
use common::time::Timestamp;
use tokio::sync::{Semaphore, watch};

use crate::agent::{Agent, held};
use crate::ring::{BRIEF, DEADLINE, PATIENT, Ring};

/// A store of logs that answers one question at a time, as one with a single connection does. The look for missing
/// chunks keeps the connection until somebody asks for an extent, which a test may have unanswered for ever.
struct Narrow {
    inner: Arc<dyn LogStore>,
    connection: Semaphore,
    missing_asked: watch::Sender<bool>,
    extent_asked: watch::Sender<bool>,
    answers_extents: bool,
}

impl Narrow {
    fn new(inner: Arc<dyn LogStore>, answers_extents: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            connection: Semaphore::new(1),
            missing_asked: watch::Sender::new(false),
            extent_asked: watch::Sender::new(false),
            answers_extents,
        })
    }
}

#[async_trait]
impl LogStore for Narrow {
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError> {
        self.inner.append(chunks, now).await
    }

    async fn read(
        &self,
        attempt: AttemptId,
        stream: Option<Stream>,
        from: LogPosition,
        bytes_max: usize,
    ) -> Result<LogPage, StoreError> {
        self.inner.read(attempt, stream, from, bytes_max).await
    }

    async fn read_range(
        &self,
        attempt: AttemptId,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        self.inner.read_range(attempt, stream, start, end).await
    }

    async fn extent(&self, attempt: AttemptId) -> Result<LogExtent, StoreError> {
        self.extent_asked.send_replace(true);
        if !self.answers_extents {
            return std::future::pending().await;
        }
        let _connection = self.connection.acquire().await;
        self.inner.extent(attempt).await
    }

    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError> {
        let _connection = self.connection.acquire().await;
        self.missing_asked.send_replace(true);
        let _ = self.extent_asked.subscribe().wait_for(|asked| *asked).await;
        self.inner.missing(attempt, until).await
    }

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError> {
        self.inner.purge(attempt).await
    }
}

/// An agent that has come back, with so many attempts that it had before.
async fn back_with(ring: &Ring, count: usize) -> (Agent, Vec<Assignment>) {
    let mut agent = ring.agent("w").await;
    let mut assignments = Vec::with_capacity(count);
    for _ in 0..count {
        ring.submit(spec()).await;
        assignments.push(agent.hear_assignment().await);
    }
    let session = agent.session;
    drop(agent);
    let mut back = Agent::connect(ring, "w").await;
    let (resumed, _) = back.greet(session, assignments.iter().map(held).collect()).await;
    assert!(resumed);
    (back, assignments)
}

#[tokio::test]
async fn a_result_that_is_looked_into_does_not_hold_up_the_output_that_comes_behind_it() {
    let mut narrow = None;
    let ring = Ring::with(PATIENT, |stores| {
        let logs = narrow.insert(Narrow::new(Arc::clone(&stores.logs), true));
        Stores {
            logs: Arc::clone(logs) as Arc<dyn LogStore>,
            ..stores
        }
    })
    .await;
    let narrow = narrow.unwrap();
    let (mut agent, assignments) = back_with(&ring, 2).await;
    // This connection has seen none of its chunks, so the store is asked whether they are there.
    let chunks = StreamEnd {
        chunks: 1,
        bytes: 1,
        dropped: None,
    };
    let report = AttemptReport {
        logs: LogEnd {
            stdout: chunks,
            stderr: StreamEnd::default(),
        },
        ..AttemptReport::bare(Outcome::Exited { code: 0 })
    };
    agent.finish(&assignments[0], &report).await;
    let mut asked = narrow.missing_asked.subscribe();
    let looks = tokio::time::timeout(DEADLINE, asked.wait_for(|asked| *asked)).await;
    assert!(looks.is_ok(), "the result is not looked into");
    agent.chunk(&assignments[1], Stream::Stdout, 0, "x").await;
    assert_eq!(
        agent.hear_verdict(assignments[0].attempt).await,
        ResultVerdict::Accepted
    );
    assert_eq!(agent.exit(&assignments[1], 0).await, ResultVerdict::Accepted);
}

#[tokio::test]
async fn a_connection_whose_store_never_answers_ends_and_says_so() {
    let ring = Ring::with(BRIEF, |stores| Stores {
        logs: Narrow::new(Arc::clone(&stores.logs), false),
        ..stores
    })
    .await;
    let (mut agent, assignments) = back_with(&ring, 1).await;
    agent.chunk(&assignments[0], Stream::Stdout, 0, "x").await;
    assert_eq!(agent.hear_close().await, Some(CloseCode::GoingAway.code()));
}

#[tokio::test]
async fn a_newer_connection_ends_one_whose_store_does_not_answer() {
    let mut narrow = None;
    let ring = Ring::with(PATIENT, |stores| {
        let logs = narrow.insert(Narrow::new(Arc::clone(&stores.logs), false));
        Stores {
            logs: Arc::clone(logs) as Arc<dyn LogStore>,
            ..stores
        }
    })
    .await;
    let (mut agent, assignments) = back_with(&ring, 1).await;
    let session = agent.session;
    agent.chunk(&assignments[0], Stream::Stdout, 0, "x").await;
    let mut asked = narrow.unwrap().extent_asked.subscribe();
    let looks = tokio::time::timeout(DEADLINE, asked.wait_for(|asked| *asked)).await;
    assert!(looks.is_ok(), "the chunk is not looked into");
    let mut newer = Agent::connect(&ring, "w").await;
    assert!(
        newer
            .greet(session, assignments.iter().map(held).collect())
            .await
            .0
    );
    assert_eq!(agent.hear_close().await, Some(CloseCode::Superseded.code()));
}
