//! Ids that are not the sender's, numbers that cannot be, and artifacts that are not what they say.

use bytes::Bytes;
use common::attempt::{Artifact, AttemptReport, Outcome};
use common::ids::{AttemptId, FileId, JobId, UserId};
use common::lifecycle::testing::{account, spec};
use common::log::{DroppedRange, LogChunk, NUMBER_MAX, Stream};
use common::protocol::{FromWorker, HeldAttempt, ResultVerdict, Verdict, binary};
use common::store::{FilePurpose, NewFile};
use tokio_tungstenite::tungstenite::Message;

use super::{BAD, NOT_YOURS, Victim, ends_with, hostile, text};
use crate::agent::{Agent, hello};
use crate::ring::Ring;

fn report() -> Box<AttemptReport> {
    Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }))
}

#[tokio::test]
async fn each_message_about_anothers_attempt_is_turned_away() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let (job, attempt) = (victim.assignment.job, victim.assignment.attempt);
    let chunk = LogChunk {
        attempt,
        stream: Stream::Stderr,
        seq: 0,
        bytes: "forged".into(),
    };
    for frame in [
        text(&FromWorker::Started { job, attempt }),
        text(&FromWorker::CancelAck { job, attempt }),
        text(&FromWorker::Result {
            job,
            attempt,
            report: report(),
        }),
        text(&FromWorker::LogChunk {
            job,
            attempt,
            stream: Stream::Stdout,
            seq: 0,
            data: "aGk=".into(),
        }),
        Message::Binary(binary::encode(job, &chunk)),
    ] {
        let mut agent = hostile(&ring).await;
        agent.send(frame.clone()).await;
        assert_eq!(agent.hear_close().await, NOT_YOURS, "{frame}");
        victim.is_unchanged(&ring, "a forged message").await;
    }
    victim.goes_on().await;
}

/// An id in the message says nothing: the session does.
#[tokio::test]
async fn fields_that_name_a_worker_are_not_heeded() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let message = FromWorker::Result {
        job: victim.assignment.job,
        attempt: victim.assignment.attempt,
        report: report(),
    };
    for name in ["worker", "agent_id", "worker_id", "session", "conn"] {
        let mut forged = serde_json::to_value(&message).unwrap();
        forged[name] = victim.agent.session.unwrap().to_string().into();
        forged["worker"] = "victim".into();
        let mut agent = hostile(&ring).await;
        agent.send(Message::text(forged.to_string())).await;
        assert_eq!(agent.hear_close().await, NOT_YOURS, "{name}");
    }
    victim.is_unchanged(&ring, "forged names").await;
    victim.goes_on().await;
}

#[tokio::test]
async fn the_victims_job_with_an_attempt_of_nobodys_is_stale() {
    let ring = Ring::start().await;
    let victim = Victim::start(&ring).await;
    let mut agent = hostile(&ring).await;
    for (job, attempt) in [
        (victim.assignment.job, AttemptId::random()),
        (JobId::random(), AttemptId::random()),
        (JobId::random(), victim.assignment.attempt),
    ] {
        agent
            .say(&FromWorker::Result {
                job,
                attempt,
                report: report(),
            })
            .await;
        assert_eq!(agent.hear_verdict(attempt).await, ResultVerdict::Stale);
        agent.say(&FromWorker::Started { job, attempt }).await;
        let chunk = LogChunk {
            attempt,
            stream: Stream::Stdout,
            seq: 0,
            bytes: "x".into(),
        };
        agent.send(Message::Binary(binary::encode(job, &chunk))).await;
        assert_eq!(agent.hear_log_ack(Stream::Stdout).await, (0, true));
        let extent = ring.stores.logs.extent(attempt).await.unwrap();
        assert_eq!(extent.stdout.chunks, 0);
    }
    victim.is_unchanged(&ring, "stale words").await;
}

/// A list is no claim: what is listed and not held is answered `stop`.
#[tokio::test]
async fn the_victims_attempt_in_a_list_is_told_to_stop_and_its_session_is_not_taken() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let attempts = vec![HeldAttempt {
        job: victim.assignment.job,
        attempt: victim.assignment.attempt,
    }];
    let mut agent = Agent::connect(&ring, "hostile").await;
    agent.capacity.slots = 0;
    let (resumed, verdicts) = agent.greet(victim.agent.session, attempts.clone()).await;
    assert!(!resumed);
    assert_ne!(agent.session, victim.agent.session);
    assert_eq!(verdicts[0].verdict, Verdict::Stop);
    let listed = agent.beat(1, attempts).await;
    assert_eq!(listed, vec![(victim.assignment.attempt, Verdict::Stop)]);
    victim.is_unchanged(&ring, "a list").await;
    victim.goes_on().await;
}

#[tokio::test]
async fn a_chunk_with_an_impossible_number_closes_the_connection_and_is_not_stored() {
    let ring = Ring::start().await;
    let id = ring.submit(spec()).await;
    let mut session = None;
    for seq in [u64::MAX, 1 << 63, i64::MAX as u64, NUMBER_MAX + 1] {
        for as_text in [false, true] {
            let mut agent = Agent::connect(&ring, "w").await;
            agent.greet(session, vec![]).await;
            session = agent.session;
            let assignment = agent.hear_assignment().await;
            let frame = if as_text {
                text(&FromWorker::LogChunk {
                    job: id,
                    attempt: assignment.attempt,
                    stream: Stream::Stdout,
                    seq,
                    data: "aGk=".into(),
                })
            } else {
                let chunk = LogChunk {
                    attempt: assignment.attempt,
                    stream: Stream::Stdout,
                    seq,
                    bytes: "hi".into(),
                };
                Message::Binary(binary::encode(id, &chunk))
            };
            agent.send(frame).await;
            assert_eq!(agent.hear_close().await, BAD, "{seq} as text {as_text}");
            let extent = ring.stores.logs.extent(assignment.attempt).await.unwrap();
            assert_eq!(extent, Default::default());
        }
    }
    // The highest that is possible is stored, is acknowledged, and can be read.
    let mut agent = Agent::connect(&ring, "w").await;
    agent.greet(session, vec![]).await;
    let assignment = agent.hear_assignment().await;
    let chunk = LogChunk {
        attempt: assignment.attempt,
        stream: Stream::Stdout,
        seq: NUMBER_MAX,
        bytes: "hi".into(),
    };
    agent.send(Message::Binary(binary::encode(id, &chunk))).await;
    while agent.hear_log_ack(Stream::Stdout).await != (NUMBER_MAX, false) {}
    let stored = ring
        .stores
        .logs
        .read_range(assignment.attempt, Stream::Stdout, 0, 100)
        .await;
    assert_eq!(&stored.unwrap()[..], b"hi");
    // As many chunks missing as a report can claim are told in a bounded list.
    let mut claimed = *report();
    claimed.logs.stdout.chunks = NUMBER_MAX;
    agent.finish(&assignment, &claimed).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert_eq!(end.logs_missing.stdout, vec![(0, NUMBER_MAX)]);
}

#[tokio::test]
async fn a_report_that_counts_what_cannot_be_closes_the_connection_and_ends_nothing() {
    let ring = Ring::start().await;
    let id = ring.submit(spec()).await;
    let mut session = None;
    type Change = fn(&mut AttemptReport);
    let changes: [Change; 4] = [
        |report| report.logs.stdout.chunks = u64::MAX,
        |report| report.usage.cpu_ms = u64::MAX,
        |report| report.timings.run_ms = Some(1 << 60),
        |report| {
            report.logs.stderr.dropped = Some(DroppedRange {
                from: u64::MAX,
                until: 0,
                bytes: u64::MAX,
            });
        },
    ];
    for change in changes {
        let mut agent = Agent::connect(&ring, "w").await;
        agent.greet(session, vec![]).await;
        session = agent.session;
        let assignment = agent.hear_assignment().await;
        let mut forged = *report();
        change(&mut forged);
        agent.finish(&assignment, &forged).await;
        assert_eq!(agent.hear_close().await, BAD);
        assert!(ring.job(id).await.attempts[0].end.is_none());
    }
}

#[tokio::test]
async fn a_hello_of_impossible_length_is_refused_and_stores_no_worker() {
    let ring = Ring::start().await;
    let before = ring.stores.workers.list().await.unwrap();
    for (field, value) in [
        ("hostname", serde_json::json!("x".repeat(10_000))),
        ("version", serde_json::json!("1\u{1b}]0;x\u{7}")),
        ("pool", serde_json::json!("../x")),
        (
            "labels",
            (0..1_000)
                .map(|n| (n.to_string(), n.to_string().into()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        ),
    ] {
        let mut message = serde_json::to_value(hello(None, vec![])).unwrap();
        message["description"][field] = value;
        let mut agent = Agent::connect(&ring, "w").await;
        agent.send(Message::text(message.to_string())).await;
        assert_eq!(agent.hear_close().await, BAD, "{field}");
    }
    assert_eq!(ring.stores.workers.list().await.unwrap(), before);
    // What is only too much is cut.
    let mut agent = Agent::connect(&ring, "w").await;
    agent.capacity.slots = u32::MAX;
    agent.greet(None, vec![]).await;
    let row = ring.stores.workers.list().await.unwrap().remove(0);
    assert_eq!(row.description.capacity.slots, 512);
}

#[tokio::test]
async fn an_artifact_is_named_by_the_path_under_which_it_was_brought() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let new = |purpose| NewFile {
        id: FileId::random(),
        account: account("acme"),
        owner: UserId::new("alice").unwrap(),
        purpose,
        name: "out/a.txt".into(),
        content_type: "text/plain".into(),
        created_at: ring.clock.now(),
    };
    let mut artifacts = Vec::new();
    for (purpose, path) in [
        (
            FilePurpose::Artifact {
                attempt: assignment.attempt,
            },
            "out/a.txt",
        ),
        (
            FilePurpose::Artifact {
                attempt: assignment.attempt,
            },
            "../../../etc/cron.d/x",
        ),
        // Somebody's upload, and another attempt's file.
        (FilePurpose::Upload, "out/a.txt"),
        (
            FilePurpose::Artifact {
                attempt: AttemptId::random(),
            },
            "out/a.txt",
        ),
    ] {
        let mut writer = ring.stores.files.create(new(purpose)).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        let meta = writer.finish(None).await.unwrap();
        artifacts.push(Artifact {
            path: path.into(),
            file: meta.id,
            bytes: meta.bytes,
            sha256: meta.sha256,
        });
    }
    let good = artifacts[0].clone();
    let forged = AttemptReport {
        artifacts,
        ..*report()
    };
    agent.finish(&assignment, &forged).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert_eq!(end.artifacts, vec![good]);
    assert_eq!(end.artifacts_refused.len(), 3);
    assert_eq!(ends_with(&mut agent, 1).await, None);
}
