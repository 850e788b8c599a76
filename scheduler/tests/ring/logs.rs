//! Output on its way into the store.

use common::attempt::{AttemptReport, Outcome};
use common::lifecycle::testing::spec;
use common::log::{DroppedRange, LogEnd, Stream, StreamEnd};
use common::protocol::{FromWorker, ResultVerdict};
use common::store::LogPosition;

use crate::ring::Ring;

fn report(chunks: u64, dropped: Option<DroppedRange>) -> AttemptReport {
    let stdout = StreamEnd {
        chunks,
        bytes: chunks,
        dropped,
    };
    AttemptReport {
        logs: LogEnd {
            stdout,
            stderr: StreamEnd::default(),
        },
        ..AttemptReport::bare(Outcome::Exited { code: 0 })
    }
}

#[tokio::test]
async fn chunks_are_stored_before_they_are_acknowledged_and_before_the_result() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.chunk(&assignment, Stream::Stdout, 0, "hello ").await;
    agent.chunk(&assignment, Stream::Stdout, 1, "world").await;
    agent.finish(&assignment, &report(2, None)).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let bytes = ring
        .stores
        .logs
        .read_range(assignment.attempt, Stream::Stdout, 0, 100)
        .await
        .unwrap();
    assert_eq!(&bytes[..], b"hello world");
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert!(end.logs_missing.is_empty(), "{:?}", end.logs_missing);
}

#[tokio::test]
async fn shuffled_and_repeated_chunks_are_read_once_and_in_order() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    for seq in [3, 0, 2, 2, 1, 0, 4] {
        agent
            .chunk(
                &assignment,
                Stream::Stderr,
                seq,
                ["a", "b", "c", "d", "e"][seq as usize],
            )
            .await;
    }
    while agent.hear_log_ack(Stream::Stderr).await != (4, false) {}
    let bytes = ring
        .stores
        .logs
        .read_range(assignment.attempt, Stream::Stderr, 0, 100)
        .await
        .unwrap();
    assert_eq!(&bytes[..], b"abcde");
    let page = ring
        .stores
        .logs
        .read(assignment.attempt, None, LogPosition(0), 1 << 20)
        .await
        .unwrap();
    assert_eq!(page.chunks.len(), 5);
}

#[tokio::test]
async fn a_chunk_may_come_as_text() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent
        .say(&FromWorker::LogChunk {
            job: assignment.job,
            attempt: assignment.attempt,
            stream: Stream::Stdout,
            seq: 0,
            data: "aGk=".into(),
        })
        .await;
    assert_eq!(agent.hear_log_ack(Stream::Stdout).await, (0, false));
    let bytes = ring
        .stores
        .logs
        .read_range(assignment.attempt, Stream::Stdout, 0, 100)
        .await
        .unwrap();
    assert_eq!(&bytes[..], b"hi");
}

#[tokio::test]
async fn what_is_missing_is_named_and_what_was_dropped_on_purpose_is_not() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    for seq in [0, 1, 9] {
        agent.chunk(&assignment, Stream::Stdout, seq, "x").await;
    }
    // The gap is passed over, so that the tail is acknowledged as well.
    while agent.hear_log_ack(Stream::Stdout).await != (9, false) {}
    let dropped = DroppedRange {
        from: 4,
        until: 9,
        bytes: 5,
    };
    agent.finish(&assignment, &report(10, Some(dropped))).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert_eq!(end.logs_missing.stdout, vec![(2, 4)]);
}

#[tokio::test]
async fn chunks_of_an_ended_attempt_are_stale() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    agent.chunk(&assignment, Stream::Stdout, 0, "late").await;
    assert_eq!(agent.hear_log_ack(Stream::Stdout).await, (0, true));
}
