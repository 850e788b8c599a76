//! The database is killed or stopped: nothing acknowledged is lost, nothing hangs, and all comes back by itself.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mongo.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::ids::{AttemptId, FileId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, Lease, Revision};
use common::lifecycle::{JobEvent, Rules, step_by, testing};
use common::log::{LogChunk, Stream};
use common::secret::Secret;
use common::store::{Beat, Commit, Due, Held, Inserted, JobQuery, LogPosition, NewJob, StoreError};
use common::time::{Clock, SystemClock};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use storage::conformance::mongo_server::{Database, Server};
use storage::mongo::Rows;
use tokio::time::{Instant, timeout};

/// Kills of the database in one test; more by this variable.
const KILLS: &str = "JOBWORKER_TEST_KILLS";
const KILLS_DEFAULT: usize = 3;
/// Writers at a time, each with jobs of its own.
const WRITERS: usize = 8;
/// Generous: a machine that is busy with builds is slower by an order of magnitude.
const LONG: Duration = Duration::from_secs(90);

async fn open(uri: &Secret<String>) -> Rows {
    let until = Instant::now() + LONG;
    loop {
        match support::open(uri).await {
            Ok(rows) => return rows,
            Err(told) => assert!(Instant::now() < until, "{told}"),
        }
    }
}

fn new_job() -> Job {
    let now = SystemClock.now();
    let alice = UserId::new("alice").unwrap();
    Job::submitted(
        JobId::generate(now),
        testing::account("acme"),
        alice,
        testing::spec(),
        now,
    )
}

/// What a writer was told, and asked for without an answer.
#[derive(Default)]
struct Heard {
    acknowledged: Vec<(JobId, Revision)>,
    chunks: Vec<(AttemptId, u64)>,
    unknown: usize,
}

/// Jobs and log chunks, one after another, until told to stop. What is not answered is read back and asked again, as
/// the programs do.
async fn write_until(rows: &Rows, stop: &AtomicUsize, acknowledged: &AtomicUsize) -> Heard {
    let mut heard = Heard::default();
    while stop.load(Ordering::SeqCst) == 0 {
        let mut job = new_job();
        loop {
            match rows
                .jobs
                .insert(vec![NewJob {
                    job: job.clone(),
                    key: None,
                }])
                .await
            {
                Ok(answers) => {
                    assert_eq!(answers, [Inserted::Stored]);
                    break;
                }
                Err(error) => unknown(&mut heard, &error),
            }
        }
        acknowledge(&mut heard, &job, acknowledged);
        let attempt = AttemptId::random();
        let lease = Lease {
            worker: WorkerId::new("n").unwrap(),
            session: SessionId::random(),
        };
        let claim = JobEvent::Claimed {
            attempt,
            lease,
            epoch: Epoch(1),
        };
        for event in [claim, JobEvent::Started { attempt }] {
            job = change(rows, &job, event, &mut heard).await;
            acknowledge(&mut heard, &job, acknowledged);
        }
        for seq in 0..3 {
            let bytes = Bytes::from(format!("{attempt} {seq}"));
            let chunk = LogChunk {
                attempt,
                stream: Stream::Stdout,
                seq,
                bytes,
            };
            while let Err(error) = rows.logs.append(vec![chunk.clone()], SystemClock.now()).await {
                unknown(&mut heard, &error);
            }
            heard.chunks.push((attempt, seq));
        }
    }
    heard
}

fn acknowledge(heard: &mut Heard, job: &Job, acknowledged: &AtomicUsize) {
    heard.acknowledged.push((job.id, job.revision));
    acknowledged.fetch_add(1, Ordering::SeqCst);
}

fn unknown(heard: &mut Heard, error: &StoreError) {
    assert!(
        matches!(error, StoreError::Unavailable(_)),
        "an unknown fate is told as {error:?}"
    );
    heard.unknown += 1;
}

/// One change of a job that nobody else changes: so a conflict would be a lie.
async fn change(rows: &Rows, job: &Job, event: JobEvent, heard: &mut Heard) -> Job {
    let step = step_by(&Rules::default(), job, event, SystemClock.now()).unwrap();
    loop {
        let commit = Commit {
            job: step.job.clone(),
            expected: job.revision,
        };
        match rows.jobs.commit(vec![commit]).await {
            Ok(answers) => {
                assert_eq!(answers, [Ok(())], "a change of our own job alone was refused");
                return step.job;
            }
            Err(error) => unknown(heard, &error),
        }
        // Its effect is read back; only what is not there is asked for again.
        let found = loop {
            match rows.jobs.get(job.id).await {
                Ok(found) => break found.expect("an acknowledged job is there"),
                Err(error) => unknown(heard, &error),
            }
        };
        assert!(found.revision >= job.revision, "an acknowledged change is lost");
        if found.revision == step.job.revision {
            assert_eq!(found, step.job);
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_of_the_database() {
    let kills = std::env::var(KILLS).map_or(KILLS_DEFAULT, |kills| kills.parse().unwrap());
    let mut server = Server::start().await;
    let rows = open(&server.uri("kills")).await;
    let (stop, acknowledged) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let writers = join_all((0..WRITERS).map(|_| write_until(&rows, &stop, &acknowledged)));
    let killer = async {
        for kill in 1..=kills {
            // Another number each time, so that each ends in another place.
            let wanted = acknowledged.load(Ordering::SeqCst) + 37 * kill % 101 + 20;
            let until = Instant::now() + LONG;
            while acknowledged.load(Ordering::SeqCst) < wanted {
                assert!(
                    Instant::now() < until,
                    "kill {kill}: nothing is acknowledged any more"
                );
                // tidy: poll
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.kill();
            server.start_again().await;
        }
        stop.store(1, Ordering::SeqCst);
    };
    let (heard, ()) = tokio::join!(writers, killer);

    let unknown: usize = heard.iter().map(|heard| heard.unknown).sum();
    let jobs: usize = heard.iter().map(|heard| heard.acknowledged.len()).sum();
    eprintln!("{kills} kills: {jobs} acknowledged writes of jobs, {unknown} calls of unknown fate");
    assert!(jobs > 20 * kills);
    for heard in &heard {
        for (id, revision) in &heard.acknowledged {
            let stored = rows.jobs.get(*id).await.unwrap();
            assert!(
                stored.is_some_and(|job| job.revision >= *revision),
                "lost: {id} at {revision:?}"
            );
        }
        for (attempt, seq) in &heard.chunks {
            let extent = rows.logs.extent(*attempt).await.unwrap();
            assert!(extent.stdout.next_seq > *seq, "lost: chunk {seq} of {attempt}");
        }
    }
    rows.closing.close().await;
}

/// One call of each kind, each with its name.
fn calls(rows: &Rows) -> Vec<(&'static str, BoxFuture<'_, Result<(), StoreError>>)> {
    let (job, session, attempt) = (new_job(), SessionId::random(), AttemptId::random());
    let now = SystemClock.now();
    let commit = Commit {
        job: Job {
            revision: Revision(2),
            ..job.clone()
        },
        expected: Revision(1),
    };
    let chunk = LogChunk {
        attempt,
        stream: Stream::Stdout,
        seq: 0,
        bytes: Bytes::from_static(b"x"),
    };
    let alice = UserId::new("alice").unwrap();
    vec![
        (
            "get",
            async move { rows.jobs.get(job.id).await.map(|_| ()) }.boxed(),
        ),
        (
            "insert",
            async move {
                rows.jobs
                    .insert(vec![NewJob {
                        job: new_job(),
                        key: None,
                    }])
                    .await
                    .map(|_| ())
            }
            .boxed(),
        ),
        (
            "commit",
            async move { rows.jobs.commit(vec![commit]).await.map(|_| ()) }.boxed(),
        ),
        (
            "list",
            async move {
                rows.jobs
                    .list(&JobQuery {
                        limit: 5,
                        ..JobQuery::default()
                    })
                    .await
                    .map(|_| ())
            }
            .boxed(),
        ),
        (
            "held",
            async move { rows.jobs.held(&Held::Any, None, 5).await.map(|_| ()) }.boxed(),
        ),
        (
            "due",
            async move { rows.jobs.due(Due::Start, now, 5).await.map(|_| ()) }.boxed(),
        ),
        (
            "counts",
            async move { rows.jobs.count_by_state(None).await.map(|_| ()) }.boxed(),
        ),
        (
            "beat",
            async move { rows.workers.beat(&[Beat { session, conn: 1 }]).await.map(|_| ()) }.boxed(),
        ),
        (
            "sessions",
            async move { rows.workers.live_sessions().await.map(|_| ()) }.boxed(),
        ),
        (
            "term",
            async move { rows.terms.begin().await.map(|_| ()) }.boxed(),
        ),
        (
            "append",
            async move { rows.logs.append(vec![chunk], now).await.map(|_| ()) }.boxed(),
        ),
        (
            "page",
            async move { rows.logs.read(attempt, None, LogPosition(0), 5).await.map(|_| ()) }.boxed(),
        ),
        (
            "file",
            async move { rows.files.meta(FileId::random()).await.map(|_| ()) }.boxed(),
        ),
        (
            "user",
            async move { rows.identity.user(&alice).await.map(|_| ()) }.boxed(),
        ),
    ]
}

/// Every call answers that nothing is known, and soon.
async fn all_are_unavailable(rows: &Rows, how: &str) {
    let tried = calls(rows).into_iter().map(|(name, call)| async move {
        let begun = Instant::now();
        // 3 s is the promise; the rest is for a machine that is busy.
        let answer = timeout(Duration::from_secs(12), call).await;
        let answer = answer.unwrap_or_else(|_| panic!("{name} hangs while the database is {how}"));
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{name} while the database is {how}: {answer:?}"
        );
        begun.elapsed()
    });
    let slowest = join_all(tried).await.into_iter().max();
    eprintln!("{how}: the slowest answer took {slowest:?}");
}

async fn all_come_back(rows: &Rows) {
    let until = Instant::now() + LONG;
    loop {
        let answers = join_all(
            calls(rows)
                .into_iter()
                .map(|(name, call)| async move { (name, call.await) }),
        )
        .await;
        let failed: Vec<_> = answers
            .into_iter()
            .filter(|(_, answer)| answer.is_err())
            .collect();
        if failed.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "these do not come back: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_told_within_seconds_and_comes_back_by_itself() {
    let mut server = Server::start().await;
    let rows = open(&server.uri("away")).await;
    all_come_back(&rows).await;
    server.pause().await;
    all_are_unavailable(&rows, "stopped").await;
    server.resume();
    all_come_back(&rows).await;
    server.kill();
    all_are_unavailable(&rows, "gone").await;
    server.start_again().await;
    all_come_back(&rows).await;
    rows.closing.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_stores_answer_at_once() {
    let database = Database::shared().await;
    let rows = open(&database.uri()).await;
    let Rows { closing, .. } = open(&database.uri()).await;
    closing.close().await;
    // Those of another program are not touched by it.
    all_come_back(&rows).await;
    let again = open(&database.uri()).await;
    let jobs = Arc::clone(&again.jobs);
    again.closing.close().await;
    assert!(matches!(
        jobs.get(new_job().id).await,
        Err(StoreError::Unavailable(_))
    ));
    let inserted = jobs
        .insert(vec![NewJob {
            job: new_job(),
            key: None,
        }])
        .await;
    assert!(matches!(inserted, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_that_append_to_one_log_leave_no_hole() {
    const EACH: u64 = 60;
    let database = Database::shared().await;
    let (one, two) = (open(&database.uri()).await, open(&database.uri()).await);
    let attempt = AttemptId::random();
    let append = |rows: &Rows, stream: Stream, seq: u64| {
        // A neighbour sent along, as after a reconnect: it is a repeat, or ours, and stored once.
        let seqs = seq.saturating_sub(1)..=seq;
        let chunks = seqs.map(|seq| LogChunk {
            attempt,
            stream,
            seq,
            bytes: Bytes::from(format!("{seq} ")),
        });
        let (logs, chunks) = (Arc::clone(&rows.logs), chunks.collect::<Vec<_>>());
        async move { logs.append(chunks, SystemClock.now()).await.unwrap() }
    };
    let write = async |rows: &Rows, first: Stream, second: Stream| {
        for seq in 0..EACH {
            append(rows, first, seq).await;
            append(rows, second, seq).await;
        }
    };
    let follow = async {
        let (mut from, mut found) = (LogPosition::default(), Vec::new());
        let until = Instant::now() + LONG;
        while found.len() < 2 * EACH as usize {
            let page = one.logs.read(attempt, None, from, 1_000).await.unwrap();
            from = page.next;
            found.extend(page.chunks);
            assert!(
                Instant::now() < until,
                "a follower has seen {} chunks",
                found.len()
            );
        }
        found
    };
    let (found, (), ()) = tokio::join!(
        follow,
        write(&one, Stream::Stdout, Stream::Stderr),
        write(&two, Stream::Stderr, Stream::Stdout),
    );
    for (at, stored) in found.iter().enumerate() {
        assert_eq!(stored.position, LogPosition(at as u64));
    }
    for stream in Stream::ALL {
        let seqs: Vec<u64> = found
            .iter()
            .filter(|one| one.chunk.stream == stream)
            .map(|one| one.chunk.seq)
            .collect();
        assert_eq!(seqs, (0..EACH).collect::<Vec<_>>(), "{stream:?}");
        let range = two.logs.read_range(attempt, stream, 0, u64::MAX).await.unwrap();
        assert_eq!(range, (0..EACH).map(|seq| format!("{seq} ")).collect::<String>());
    }
    assert_eq!(one.logs.extent(attempt).await.unwrap().end, LogPosition(2 * EACH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_changed_by_two_programs_has_one_winner_a_revision() {
    const CHANGES: u64 = 40;
    let database = Database::shared().await;
    let (one, two) = (open(&database.uri()).await, open(&database.uri()).await);
    let job = new_job();
    one.jobs
        .insert(vec![NewJob {
            job: job.clone(),
            key: None,
        }])
        .await
        .unwrap();
    let write = async |rows: &Rows, name: &str| {
        let mut won = Vec::new();
        loop {
            let mut job = rows.jobs.get(job.id).await.unwrap().unwrap();
            let expected = job.revision;
            if expected.0 > CHANGES {
                return won;
            }
            job.revision = expected.next();
            job.submitted_by = UserId::new(name).unwrap();
            // Twice in one call: the same change of the same row has one winner there, too.
            let change = Commit {
                job: job.clone(),
                expected,
            };
            let answers = rows.jobs.commit(vec![change.clone(), change]).await.unwrap();
            assert!(
                answers.iter().filter(|answer| answer.is_ok()).count() <= 1,
                "{answers:?}"
            );
            if answers.iter().any(Result::is_ok) {
                won.push(job.revision.0);
            }
        }
    };
    let (mut all, others) = tokio::join!(write(&one, "one"), write(&two, "two"));
    all.extend(others);
    all.sort_unstable();
    assert_eq!(all, (2..=CHANGES + 1).collect::<Vec<_>>());
}
