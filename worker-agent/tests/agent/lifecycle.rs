//! From assignment to acknowledgement.

use std::time::Duration;

use common::attempt::{NotStartedReason, Outcome};
use common::ids::FileId;
use common::job::InputFile;
use common::log::Stream;
use common::protocol::{FromWorker, InputSource, ResultVerdict, ToWorker, Verdict};
use common::worker::Condition;
use worker_agent::executor::fake::{FakeExecutor, RUN_REFUSED};
use worker_agent::executor::{StartFailure, StopWhy};

use super::rig::{Gateway, Rig, assignment, drain_within, within};

#[tokio::test]
async fn a_job_runs_and_is_put_away_when_its_result_is_acknowledged() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.print(given.attempt, Stream::Stdout, b"hello");
    let chunk = gateway.chunk().await;
    assert_eq!((chunk.seq, &chunk.bytes[..]), (0, &b"hello"[..]));
    gateway.ack_log(&given, Stream::Stdout, 0).await;
    rig.executor.exit(given.attempt, 3);
    let report = gateway.result(given.attempt).await;
    assert_eq!(report.outcome, Outcome::Exited { code: 3 });
    assert_eq!((report.logs.stdout.chunks, report.logs.stdout.bytes), (1, 5));
    assert_eq!(report.logs.stderr.chunks, 0);
    gateway.ack_result(&given, ResultVerdict::Accepted).await;
    gateway.until_nothing_is_held().await;
    let container = rig
        .container_until("its removal", given.attempt, |found| found.finished)
        .await;
    assert_eq!((container.runs, container.acked), (1, 2));
    assert!(!rig.attempt_folder(given.attempt).exists());
}

#[tokio::test]
async fn an_attempt_is_never_started_twice() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.exit(given.attempt, 0);
    gateway.result(given.attempt).await;
    gateway.assign(&given).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::Exited { code: 0 });
    gateway.ack_result(&given, ResultVerdict::Accepted).await;
    gateway.until_nothing_is_held().await;
    gateway.assign(&given).await;
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::InfraError { .. }
    ));
    rig.restart().await;
    let mut gateway = rig.resume(session).await;
    gateway.assign(&given).await;
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::InfraError { .. }
    ));
    assert_eq!(rig.executor.made(), 1);
}

#[tokio::test]
async fn a_cancel_is_confirmed_and_ends_the_run_as_cancelled() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let cancel = ToWorker::Cancel {
        job: given.job,
        attempt: given.attempt,
        why: Some("typo".into()),
    };
    gateway.send(cancel).await;
    assert!(
        matches!(gateway.next().await, FromWorker::CancelAck { attempt, .. } if attempt == given.attempt)
    );
    let outcome = gateway.outcome(given.attempt).await;
    assert!(
        matches!(&outcome, Outcome::Cancelled { why: Some(why), .. } if why == "typo"),
        "{outcome:?}"
    );
    let container = rig.executor.of(given.attempt).unwrap();
    assert_eq!(container.stops, [StopWhy::Cancelled]);
}

#[tokio::test]
async fn a_cancel_before_the_start_starts_nothing() {
    let mut rig = Rig::start();
    rig.executor.hold_back(true);
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway
        .send(ToWorker::Cancel {
            job: given.job,
            attempt: given.attempt,
            why: None,
        })
        .await;
    assert!(matches!(gateway.next().await, FromWorker::CancelAck { .. }));
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::Cancelled { .. }
    ));
    rig.executor.hold_back(false);
    let container = rig
        .container_until("its removal", given.attempt, |found| found.removed)
        .await;
    assert_eq!(container.runs, 0);
}

#[tokio::test]
async fn a_cancel_that_comes_before_its_assignment_keeps_it_from_starting() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway
        .send(ToWorker::Cancel {
            job: given.job,
            attempt: given.attempt,
            why: None,
        })
        .await;
    assert!(matches!(gateway.next().await, FromWorker::CancelAck { .. }));
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::Cancelled { .. }
    ));
    gateway.assign(&given).await;
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::InfraError { .. }
    ));
    assert_eq!(rig.executor.made(), 0);
}

#[tokio::test]
async fn a_run_past_its_limit_is_ended_as_run_timeout() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let mut given = assignment();
    given.spec.limits.run = Duration::from_millis(1);
    gateway.assign(&given).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::RunTimeout);
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    for (failure, expected) in [
        (
            StartFailure::ImageUnavailable { message: "m".into() },
            Outcome::ImageUnavailable { message: "m".into() },
        ),
        (
            StartFailure::Rejected { message: "m".into() },
            Outcome::RejectedByWorker { message: "m".into() },
        ),
        (
            StartFailure::Infra { message: "m".into() },
            Outcome::InfraError { message: "m".into() },
        ),
    ] {
        rig.executor.refuse(Some(failure));
        let given = assignment();
        gateway.assign(&given).await;
        assert_eq!(gateway.outcome(given.attempt).await, expected);
        gateway.ack_result(&given, ResultVerdict::Accepted).await;
    }
}

#[tokio::test]
async fn a_node_that_cannot_start_jobs_says_so_before_it_reports_the_first_that_it_could_not() {
    let message = "the engine does not answer".to_owned();
    let away = |executor: &FakeExecutor| {
        executor.refuse(Some(StartFailure::Infra {
            message: message.clone(),
        }));
    };
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    away(&rig.executor);
    gateway.assign(&assignment()).await;
    assert_eq!(told_before_the_failure(&mut gateway).await, unready(&message));

    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    rig.executor.refuse_run(true);
    gateway.assign(&assignment()).await;
    assert_eq!(told_before_the_failure(&mut gateway).await, unready(RUN_REFUSED));
}

fn unready(reason: &str) -> Condition {
    Condition::Ready.and(Some(reason.to_owned()))
}

/// The condition that was told last before the report of an attempt that failed for the node's sake.
async fn told_before_the_failure(gateway: &mut Gateway) -> Condition {
    let mut told = Condition::Ready;
    loop {
        match within("the report", gateway.end.control.recv()).await {
            Some(FromWorker::Heartbeat { condition, .. }) => told = condition,
            Some(FromWorker::Result { report, .. }) => {
                assert!(matches!(report.outcome, Outcome::InfraError { .. }), "{report:?}");
                return told;
            }
            other => panic!("expected heartbeats and a report, found {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_input_that_is_not_there_is_a_bad_input() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let mut given = assignment();
    let file = FileId::random();
    given.spec.inputs = vec![InputFile {
        file,
        path: "data.csv".into(),
        unpack: false,
    }];
    given.inputs = vec![InputSource {
        file,
        bytes: 1,
        sha256: String::new(),
    }];
    gateway.assign(&given).await;
    let outcome = gateway.outcome(given.attempt).await;
    assert!(
        matches!(
            outcome,
            Outcome::NotStarted {
                reason: NotStartedReason::BadInputs,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(rig.executor.made(), 0);
}

#[tokio::test]
async fn what_a_job_left_is_stored_before_its_result_is_sent() {
    let mut rig = Rig::start();
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.txt", "refused"] {
        std::fs::write(folder.path().join(name), name).unwrap();
        rig.executor.leave_file(name, folder.path().join(name));
    }
    let (mut gateway, _) = rig.connect().await;
    let mut given = assignment();
    given.spec.artifacts = vec!["*".into()];
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.exit(given.attempt, 1);
    let report = gateway.result(given.attempt).await;
    assert_eq!(report.artifacts.len(), 1);
    let stored = rig.files.stored.lock().unwrap();
    assert_eq!(
        stored[&report.artifacts[0].file],
        ("out.txt".to_owned(), b"out.txt".to_vec())
    );
    assert_eq!(report.artifacts_refused[0].path, "refused");
}

#[tokio::test]
async fn a_drain_ends_what_outstays_it_and_reports_before_it_leaves() {
    let mut rig = Rig::start_with(|config| config.on_stop = drain_within(Duration::from_millis(10)));
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let stopping = rig.stop();
    let served = async {
        let outcome = gateway.outcome(given.attempt).await;
        assert!(matches!(outcome, Outcome::InfraError { .. }), "{outcome:?}");
        gateway.ack_result(&given, ResultVerdict::Accepted).await;
    };
    tokio::join!(stopping, served);
    assert_eq!(rig.executor.of(given.attempt).unwrap().stops, [StopWhy::Drain]);
}

/// Work that is given to a worker that has left waits for its lease.
#[tokio::test]
async fn an_agent_that_is_stopped_asks_for_no_more_work_before_it_leaves() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let left = async {
        let number = gateway.farewell().await;
        gateway.verdict(number, given.attempt, Verdict::Keep).await;
        gateway
    };
    let (_, mut gateway) = tokio::join!(rig.stop(), left);
    assert!(gateway.end.control.recv().await.is_none(), "it was the last word");
    assert_eq!(
        rig.executor.of(given.attempt).unwrap().stops,
        [],
        "what it ran goes on"
    );
}

#[tokio::test]
async fn an_agent_that_is_stopped_waits_for_nobody_who_is_gone() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    // it has heard the welcome
    gateway.heartbeat().await;
    let gone = async {
        gateway.farewell().await;
        drop(gateway);
    };
    tokio::join!(rig.stop(), gone);
}
