//! Much of the same: rows change once, memory and disk stay bounded.

use common::attempt::{AttemptReport, Outcome};
use common::identity::Account;
use common::ids::{AttemptId, JobId};
use common::job::StateName;
use common::lifecycle::testing::{account, spec};
use common::log::{CHUNK_BYTES_MAX, LogChunk, Stream};
use common::protocol::{Assignment, FromWorker, ResultVerdict, binary};
use tokio_tungstenite::tungstenite::Message;

use super::{ends_with, heartbeat, resident, text};
use crate::agent::{Agent, held};
use crate::ring::{Ring, until};

const REPEATS: usize = 10_000;

/// What a flood may add to the memory of store, scheduler, and the test itself: buffers and caches that fill once.
const GROWTH_MAX: u64 = 48 * 1024 * 1024;

/// Sends a frame again and again, hearing what comes meanwhile.
async fn flood(agent: &mut Agent, frame: &Message, times: usize) {
    for sent in 0..times {
        agent.send(frame.clone()).await;
        if sent % 256 == 0 {
            drop(agent.heard_already());
        }
    }
}

fn chunk(assignment: &Assignment, seq: u64, bytes: Vec<u8>) -> Message {
    let chunk = LogChunk {
        attempt: assignment.attempt,
        stream: Stream::Stdout,
        seq,
        bytes: bytes.into(),
    };
    Message::Binary(binary::encode(assignment.job, &chunk))
}

#[tokio::test]
async fn ten_thousand_of_each_frame_change_the_row_once_and_grow_no_memory() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let (job, attempt) = (id, assignment.attempt);
    let (unknown_job, unknown) = (JobId::random(), AttemptId::random());
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    let started = text(&FromWorker::Started { job, attempt });
    let frames = [
        started.clone(),
        text(&FromWorker::CancelAck { job, attempt }),
        chunk(&assignment, 0, b"x".to_vec()),
        text(&FromWorker::Result {
            job: unknown_job,
            attempt: unknown,
            report: report.clone(),
        }),
        Message::Ping("ping".into()),
    ];
    // What fills once is filled before it is measured.
    for frame in &frames {
        flood(&mut agent, frame, 500).await;
    }
    let running = ring.job_becomes(id, StateName::Running).await;
    let before = resident();
    for frame in &frames {
        flood(&mut agent, frame, REPEATS).await;
    }
    assert_eq!(ends_with(&mut agent, 1).await, None);
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more");
    assert_eq!(ring.job(id).await, running);
    let extent = ring.stores.logs.extent(attempt).await.unwrap();
    assert_eq!((extent.stdout.chunks, extent.stdout.bytes), (1, 1));

    let result = text(&FromWorker::Result { job, attempt, report });
    flood(&mut agent, &result, REPEATS).await;
    assert_eq!(agent.hear_verdict(attempt).await, ResultVerdict::Accepted);
    let ended = ring.job(id).await;
    flood(&mut agent, &started, 100).await;
    assert_eq!(ends_with(&mut agent, 2).await, None);
    assert_eq!(ring.job(id).await, ended);
    assert_eq!(ended.revision.0, running.revision.0 + 1);
}

#[tokio::test]
async fn ten_thousand_heartbeats_are_few_renewals_and_each_waits_its_turn() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let session = agent.session.unwrap();
    let before = resident();
    for number in 1..=REPEATS as u64 {
        agent.say(&heartbeat(number, vec![])).await;
        if number % 256 == 0 {
            drop(agent.heard_already());
        }
    }
    assert_eq!(ends_with(&mut agent, 1 << 20).await, None);
    let beats = ring.stores.workers.sessions(&[session]).await.unwrap()[0].beat;
    assert!(beats < REPEATS as u64 / 4, "{beats} renewals");
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more");
}

#[tokio::test]
async fn ten_thousand_attempts_of_nobodys_are_forgotten_and_the_own_one_is_not_lost() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    let before = resident();
    for sent in 0..REPEATS {
        let (job, attempt) = (JobId::random(), AttemptId::random());
        agent.say(&FromWorker::Started { job, attempt }).await;
        if sent % 256 == 0 {
            drop(agent.heard_already());
        }
    }
    assert_eq!(ends_with(&mut agent, 1).await, None);
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more");
    assert_eq!(agent.beat(2, vec![held(&assignment)]).await.len(), 1);
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
}

/// The cap of a log is the agent's to keep; the gateway holds one that does not to twice of it and a little more.
#[tokio::test]
async fn output_far_past_its_accounts_cap_is_not_stored() {
    const CAP: u64 = 1024 * 1024;
    let ring = Ring::start().await;
    let row = Account {
        id: account("small"),
        name: "Small".into(),
        plan: "free".into(),
        weight: 1,
        log_bytes_max: CAP,
        running_max: None,
        waiting_max: None,
        created_at: ring.clock.now(),
    };
    ring.stores.identity.create_account(&row).await.unwrap();
    let mut agent = ring.agent("w").await;
    let id = ring.submit_for(&row.id, spec()).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(assignment.log_bytes_max, CAP);
    let chunks = 24 * 1024 * 1024 / CHUNK_BYTES_MAX as u64;
    for seq in 0..chunks {
        agent
            .send(chunk(&assignment, seq, vec![b'x'; CHUNK_BYTES_MAX]))
            .await;
        if seq % 64 == 0 {
            drop(agent.heard_already());
        }
    }
    until("the flood is told to be stale", || async {
        let extent = ring.stores.logs.extent(assignment.attempt).await.unwrap();
        let bytes = extent.stdout.bytes;
        if bytes >= 2 * CAP { Ok(()) } else { Err(bytes) }
    })
    .await;
    agent
        .send(chunk(&assignment, chunks, vec![b'x'; CHUNK_BYTES_MAX]))
        .await;
    while !agent.hear_log_ack(Stream::Stdout).await.1 {}
    let stored = ring.stores.logs.extent(assignment.attempt).await.unwrap();
    // Two looks, each after another 4 MiB, and what was on its way at the second.
    assert!(stored.stdout.bytes < 10 * CAP, "{} bytes", stored.stdout.bytes);
    // Empty chunks count too, and the job still ends.
    for seq in chunks..chunks + 1_000 {
        agent.send(chunk(&assignment, seq, vec![])).await;
    }
    // Everything before this heartbeat was heard.
    assert_eq!(ends_with(&mut agent, 1).await, None);
    let after = ring.stores.logs.extent(assignment.attempt).await.unwrap();
    // What was on its way when the first was refused is stored, and of the empty ones nothing.
    assert!(after.stdout.bytes < 10 * CAP, "{after:?}");
    assert_eq!(
        after.stdout.chunks * CHUNK_BYTES_MAX as u64,
        after.stdout.bytes,
        "{after:?}"
    );
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    assert_eq!(ring.job(id).await.state.name(), StateName::Succeeded);
}
