//! A panic in a background task costs a pause and no more: the task begins anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use common::ids::AttemptId;
use common::job::Epoch;
use common::lifecycle::testing::spec;
use common::log::{LogChunk, MissingLogs, Stream};
use common::protocol::ResultVerdict;
use common::store::{Appended, LeaderTerms, LogExtent, LogPage, LogPosition, LogStore, StoreError, Stores};
use common::time::Timestamp;

use crate::ring::{BRIEF, PATIENT, Ring, until};

/// Panics at its first questions, then is the store that it stands before.
struct Panicking<S: ?Sized> {
    inner: Arc<S>,
    panics_left: AtomicU32,
}

impl<S: ?Sized> Panicking<S> {
    fn new(inner: Arc<S>, panics: u32) -> Arc<Self> {
        Arc::new(Self {
            inner,
            panics_left: AtomicU32::new(panics),
        })
    }

    fn perhaps(&self) {
        let left = self
            .panics_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "as the test asked");
    }
}

#[async_trait]
impl LeaderTerms for Panicking<dyn LeaderTerms> {
    async fn begin(&self) -> Result<Epoch, StoreError> {
        self.inner.begin().await
    }

    async fn current(&self) -> Result<Epoch, StoreError> {
        self.perhaps();
        self.inner.current().await
    }
}

#[async_trait]
impl LogStore for Panicking<dyn LogStore> {
    async fn append(&self, chunks: Vec<LogChunk>, now: Timestamp) -> Result<Vec<Appended>, StoreError> {
        self.perhaps();
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
        self.inner.extent(attempt).await
    }

    async fn missing(&self, attempt: AttemptId, until: [u64; 2]) -> Result<MissingLogs, StoreError> {
        self.inner.missing(attempt, until).await
    }

    async fn purge(&self, attempt: AttemptId) -> Result<(), StoreError> {
        self.inner.purge(attempt).await
    }
}

#[tokio::test]
async fn a_leader_that_panics_leads_again_and_gives_jobs_out() {
    let ring = Ring::with(BRIEF, |stores| Stores {
        terms: Panicking::new(Arc::clone(&stores.terms), 2),
        ..stores
    })
    .await;
    // Two panics lie between the first term and this one.
    until("a third term is led", || async {
        let led = ring.scheduler.leads();
        led.filter(|epoch| epoch.0 >= 3).ok_or(led)
    })
    .await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    assert_eq!(agent.hear_assignment().await.job, id);
}

#[tokio::test]
async fn a_lane_that_panics_stores_what_it_was_asked_to_in_its_next_life() {
    let ring = Ring::with(PATIENT, |stores| Stores {
        logs: Panicking::new(Arc::clone(&stores.logs), 3),
        ..stores
    })
    .await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    for seq in 0..10 {
        agent.chunk(&assignment, Stream::Stdout, seq, "a line\n").await;
    }
    while agent.hear_log_ack(Stream::Stdout).await != (9, false) {}
    let extent = ring.stores.logs.extent(assignment.attempt).await.unwrap();
    assert_eq!(extent.stdout.chunks, 10);
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
}
