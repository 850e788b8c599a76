//! A job's life from submission to its accepted result.

use std::time::Duration;

use common::attempt::{AttemptReport, NotStartedReason, Outcome};
use common::ids::{FileId, UserId};
use common::job::{CancelRequest, CancelledBy, InputFile, JobState, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::spec;
use common::protocol::ResultVerdict;
use common::retry::RetryPolicy;
use common::service::Applied;
use common::store::Stores;
use std::sync::Arc;

use crate::agent::{Agent, held};
use crate::ring::{Deaf, PATIENT, Ring};

async fn lives(ring: &Ring) {
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(
        (assignment.job, assignment.number, &assignment.spec),
        (id, 1, &spec())
    );
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    let job = ring.job(id).await;
    assert_eq!(job.state.name(), StateName::Succeeded);
    assert_eq!(job.attempts.len(), 1);
    assert!(job.attempts[0].started_at.is_some());
}

#[tokio::test]
async fn a_job_is_assigned_started_and_accepted() {
    lives(&Ring::start().await).await;
}

#[tokio::test]
async fn everything_happens_without_any_hint() {
    lives(
        &Ring::with(PATIENT, |stores| Stores {
            hints: Arc::new(Deaf),
            ..stores
        })
        .await,
    )
    .await;
}

#[tokio::test]
async fn a_job_that_was_there_before_any_worker_is_run() {
    let ring = Ring::start().await;
    let id = ring.submit(spec()).await;
    ring.job_becomes(id, StateName::Queued).await;
    let mut agent = ring.agent("w").await;
    assert_eq!(agent.hear_assignment().await.job, id);
}

#[tokio::test]
async fn a_result_sent_again_is_accepted_again_and_another_one_is_stale() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    for _ in 0..3 {
        assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    }
    let accepted = ring.job(id).await;
    assert_eq!(agent.exit(&assignment, 1).await, ResultVerdict::Stale);
    assert_eq!(ring.job(id).await, accepted);
}

fn asked(by: &str) -> CancelRequest {
    CancelRequest {
        by: CancelledBy::User(UserId::new(by).unwrap()),
        why: Some("enough".into()),
        at: Default::default(),
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_agent_and_its_report_ends_the_job_as_cancelled() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    let applied = ring
        .jobs
        .apply(id, JobEvent::CancelAsked(asked("alice")))
        .await
        .unwrap();
    assert!(matches!(applied, Applied::Done(_)), "{applied:?}");
    assert_eq!(agent.hear_cancel().await, (id, assignment.attempt));
    let outcome = Outcome::Signaled { signal: 15 };
    agent
        .finish(&assignment, &AttemptReport::bare(outcome.clone()))
        .await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let job = ring.job(id).await;
    assert_eq!(job.state.name(), StateName::Cancelled);
    assert_eq!(
        job.attempts[0].end.as_ref().map(|end| &end.outcome),
        Some(&outcome)
    );
}

#[tokio::test]
async fn a_failure_is_retried_after_its_pause_as_another_attempt() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let mut spec = spec();
    spec.retry = RetryPolicy {
        backoff: Duration::from_millis(50),
        ..RetryPolicy::times(1)
    };
    let id = ring.submit(spec).await;
    let first = agent.hear_assignment().await;
    assert_eq!(agent.exit(&first, 7).await, ResultVerdict::Accepted);
    let second = agent.hear_assignment().await;
    assert_eq!((second.job, second.number), (id, 2));
    assert_ne!(second.attempt, first.attempt);
    assert_eq!(agent.exit(&second, 7).await, ResultVerdict::Accepted);
    let job = ring.job(id).await;
    assert_eq!((job.state.name(), job.attempts_total), (StateName::Failed, 2));
}

#[tokio::test]
async fn a_job_that_waits_for_too_long_fails_and_leaves_the_queue() {
    let ring = Ring::start().await;
    let mut spec = spec();
    spec.limits.queue = Some(Duration::from_millis(100));
    let id = ring.submit(spec).await;
    let job = ring.job_becomes(id, StateName::Failed).await;
    let JobState::Failed { cause, .. } = job.state else {
        unreachable!()
    };
    assert_eq!(cause.outcome, Outcome::QueueTimeout);
    crate::ring::until("the queue is empty", || async {
        match ring.stores.queue.len().await.unwrap() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test]
async fn a_job_is_not_started_before_its_time() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let mut spec = spec();
    let at = ring.clock.now().after(Duration::from_millis(300));
    spec.not_before = Some(at);
    ring.submit(spec).await;
    agent.hear_assignment().await;
    assert!(ring.clock.now() >= at);
}

#[tokio::test]
async fn a_job_whose_input_is_gone_fails_with_that_sentence() {
    let ring = Ring::start().await;
    let _agent = ring.agent("w").await;
    let mut spec = spec();
    spec.inputs = vec![InputFile {
        file: FileId::random(),
        path: "in.txt".into(),
        unpack: false,
    }];
    let id = ring.submit(spec).await;
    let job = ring.job_becomes(id, StateName::Failed).await;
    let JobState::Failed { cause, .. } = job.state else {
        unreachable!()
    };
    assert!(
        matches!(
            cause.outcome,
            Outcome::NotStarted {
                reason: NotStartedReason::BadInputs,
                ..
            }
        ),
        "{:?}",
        cause.outcome
    );
}

#[tokio::test]
async fn a_worker_gets_no_more_than_its_slots_and_the_rest_as_they_become_free() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    for _ in 0..10 {
        ring.submit(spec()).await;
    }
    let mut running = Vec::new();
    for _ in 0..agent.capacity.slots {
        running.push(agent.hear_assignment().await);
    }
    // Everything it holds is in the rows; a beat with all of it keeps all of it.
    let verdicts = agent.beat(1, running.iter().map(held).collect()).await;
    assert_eq!(verdicts.len(), 4);
    assert!(agent.heard_already().is_empty());
    for done in 0..10 {
        let assignment = if running.is_empty() {
            agent.hear_assignment().await
        } else {
            running.remove(0)
        };
        assert_eq!(
            agent.exit_keeping(&assignment, &mut running).await,
            ResultVerdict::Accepted,
            "{done}"
        );
    }
}

/// It may itself be what fails its workers: beside another like it the two would share their fate to the end.
#[tokio::test]
async fn a_job_that_was_lost_repeatedly_waits_while_its_worker_has_another_such() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let mut retried = spec();
    retried.retry.backoff = Duration::from_millis(20);
    let broken = AttemptReport::bare(Outcome::InfraError {
        message: "the engine is gone".into(),
    });
    let fails_twice = async |agent: &mut Agent| {
        let id = ring.submit(retried.clone()).await;
        for number in 1..=2 {
            let assignment = agent.hear_assignment().await;
            assert_eq!((assignment.job, assignment.number), (id, number));
            agent.finish(&assignment, &broken).await;
            assert_eq!(
                agent.hear_verdict(assignment.attempt).await,
                ResultVerdict::Accepted
            );
        }
        id
    };
    let first = fails_twice(&mut agent).await;
    let held = agent.hear_assignment().await;
    assert_eq!((held.job, held.number), (first, 3));
    let second = fails_twice(&mut agent).await;
    let waiting = ring.job_becomes(second, StateName::Queued).await;
    assert!(waiting.is_suspect());
    let well = ring.submit(spec()).await;
    let beside = agent.hear_assignment().await;
    assert_eq!(beside.job, well, "there is room, and it is held up by nobody");
    assert_eq!(agent.exit(&beside, 0).await, ResultVerdict::Accepted);

    let mut kept = Vec::new();
    assert_eq!(
        agent.exit_keeping(&held, &mut kept).await,
        ResultVerdict::Accepted
    );
    let last = match kept.pop() {
        Some(assignment) => assignment,
        None => agent.hear_assignment().await,
    };
    assert_eq!((last.job, last.number), (second, 3));
}
