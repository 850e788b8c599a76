//! Good messages at the wrong time: before hello, twice, after the end, repeated, shuffled.

use common::attempt::{AttemptReport, Outcome};
use common::job::StateName;
use common::lifecycle::testing::spec;
use common::log::{LogChunk, LogEnd, Stream, StreamEnd};
use common::protocol::{CloseCode, FromWorker, ResultVerdict, binary};
use tokio_tungstenite::tungstenite::Message;

use super::{BAD, Dice, Victim, ends_with, heartbeat, text};
use crate::agent::{Agent, held, hello};
use crate::ring::Ring;

#[tokio::test]
async fn nothing_but_hello_comes_first() {
    let ring = Ring::start().await;
    let victim = Victim::start(&ring).await;
    let (job, attempt) = (victim.assignment.job, victim.assignment.attempt);
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    let chunk = LogChunk {
        attempt,
        stream: Stream::Stdout,
        seq: 0,
        bytes: "x".into(),
    };
    let first = [
        text(&heartbeat(1, vec![])),
        text(&FromWorker::Started { job, attempt }),
        text(&FromWorker::CancelAck { job, attempt }),
        text(&FromWorker::Result { job, attempt, report }),
        text(&FromWorker::LogChunk {
            job,
            attempt,
            stream: Stream::Stdout,
            seq: 0,
            data: String::new(),
        }),
        Message::Binary(binary::encode(job, &chunk)),
    ];
    for frame in first {
        // Even with the victim's own name and key: without a hello there is no session.
        let mut agent = Agent::connect(&ring, "victim").await;
        agent.send(frame.clone()).await;
        assert_eq!(agent.hear_close().await, BAD, "{frame}");
    }
    victim.is_unchanged(&ring, "messages before hello").await;
}

#[tokio::test]
async fn hello_comes_once() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    agent.say(&hello(agent.session, vec![])).await;
    assert_eq!(agent.hear_close().await, BAD);
}

#[tokio::test]
async fn a_heartbeat_that_comes_again_closes_and_renews_nothing() {
    let ring = Ring::start().await;
    for again in [5, 4, 0] {
        let mut agent = ring.agent("w").await;
        agent.beat(4, vec![]).await;
        agent.beat(5, vec![]).await;
        let session = agent.session.unwrap();
        let before = ring.stores.workers.sessions(&[session]).await.unwrap();
        agent.say(&heartbeat(again, vec![])).await;
        assert_eq!(agent.hear_close().await, BAD, "{again}");
        assert_eq!(ring.stores.workers.sessions(&[session]).await.unwrap(), before);
    }
}

#[tokio::test]
async fn what_is_said_after_the_result_changes_nothing() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    let ended = ring.job(id).await;
    let (job, attempt) = (id, assignment.attempt);
    agent.say(&FromWorker::Started { job, attempt }).await;
    agent.say(&FromWorker::CancelAck { job, attempt }).await;
    agent.chunk(&assignment, Stream::Stdout, 0, "late").await;
    assert_eq!(agent.hear_log_ack(Stream::Stdout).await, (0, true));
    assert_eq!(agent.exit(&assignment, 7).await, ResultVerdict::Stale);
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    agent.beat(1, vec![held(&assignment)]).await;
    assert_eq!(ring.job(id).await, ended);
    assert_eq!(ring.stores.logs.extent(attempt).await.unwrap().stdout.chunks, 0);
}

#[tokio::test]
async fn a_result_before_its_start_counts_and_the_start_behind_it_is_told_to_stop() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    let ended = ring.job(id).await;
    assert_eq!(ended.state.name(), StateName::Succeeded);
    agent.start(&assignment).await;
    agent.beat(1, vec![]).await;
    assert_eq!(ring.job(id).await, ended);
}

/// Each result and each log frame three times, shuffled within a window of 64.
#[tokio::test]
async fn repeated_and_shuffled_frames_are_one_log_and_one_result() {
    const CHUNKS: u64 = 640;
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let line = |seq: u64| format!("line {seq}\n");
    let mut dice = Dice(64);
    for window in 0..CHUNKS / 64 {
        let mut seqs: Vec<u64> = (window * 64..(window + 1) * 64)
            .flat_map(|seq| [seq; 3])
            .collect();
        dice.shuffle(&mut seqs);
        for seq in seqs {
            let chunk = LogChunk {
                attempt: assignment.attempt,
                stream: Stream::Stdout,
                seq,
                bytes: line(seq).into(),
            };
            agent
                .send(Message::Binary(binary::encode(assignment.job, &chunk)))
                .await;
        }
    }
    let whole: String = (0..CHUNKS).map(line).collect();
    let report = AttemptReport {
        logs: LogEnd {
            stdout: StreamEnd {
                chunks: CHUNKS,
                bytes: whole.len() as u64,
                dropped: None,
            },
            stderr: StreamEnd::default(),
        },
        ..AttemptReport::bare(Outcome::Exited { code: 0 })
    };
    for _ in 0..3 {
        agent.start(&assignment).await;
        agent.finish(&assignment, &report).await;
    }
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    assert_eq!(ends_with(&mut agent, 1).await, None);
    let stored = ring
        .stores
        .logs
        .read_range(assignment.attempt, Stream::Stdout, 0, u64::MAX)
        .await
        .unwrap();
    assert!(stored == whole.as_bytes(), "{} bytes", stored.len());
    let extent = ring.stores.logs.extent(assignment.attempt).await.unwrap();
    assert_eq!((extent.stdout.chunks, extent.stdout.next_seq), (CHUNKS, CHUNKS));
    let job = ring.job(id).await;
    assert_eq!((job.state.name(), job.attempts_total), (StateName::Succeeded, 1));
    assert!(job.attempts[0].end.as_ref().unwrap().logs_missing.is_empty());
}

#[tokio::test]
async fn frames_of_an_older_connection_are_not_heard() {
    let ring = Ring::start().await;
    let mut old = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = old.hear_assignment().await;
    let mut new = Agent::connect(&ring, "w").await;
    assert!(new.greet(old.session, vec![held(&assignment)]).await.0);
    let _ = old
        .try_send(text(&FromWorker::Started {
            job: id,
            attempt: assignment.attempt,
        }))
        .await;
    assert_eq!(old.hear_close().await, Some(CloseCode::Superseded.code()));
    assert_eq!(ends_with(&mut new, 1).await, None);
    assert_eq!(ring.job(id).await.state.name(), StateName::Assigned);
}
