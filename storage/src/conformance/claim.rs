//! Claims, compare-and-set, and what the leader finds in the rows.

use std::collections::BTreeSet;
use std::time::Duration;

use common::ids::{AttemptId, JobId, SessionId};
use common::job::{Job, JobSpec, JobState};
use common::lifecycle::{JobEvent, Refusal};
use common::service::Applied;
use common::store::{Commit, CommitError, Due};
use common::time::Clock;

use super::Backend;
use super::kit::{claimed, done, jobs, load, new_job, spec, submit, turn};

pub async fn two_claimers_never_both_win(backend: &mut impl Backend) {
    for _ in 0..20 {
        let job = submit(backend, spec()).await;
        let service = jobs(backend);
        let claims =
            (0..8).map(|_| service.apply(job.id, claimed(AttemptId::random(), SessionId::random(), 1)));
        let answers = futures_util::future::join_all(claims).await;
        let won: Vec<Job> = answers
            .into_iter()
            .filter_map(|answer| match answer.unwrap() {
                Applied::Done(job) => Some(job),
                Applied::Refused(Refusal::WrongState(_), _) => None,
                other => panic!("neither won nor lost: {other:?}"),
            })
            .collect();
        assert_eq!(won.len(), 1);
        let stored = load(backend, job.id).await;
        assert_eq!(stored, won[0]);
        assert_eq!(stored.attempts_total, 1);
    }
}

pub async fn a_row_that_changed_is_a_conflict(backend: &mut impl Backend) {
    let before = submit(backend, spec()).await;
    let after = done(
        backend,
        before.id,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    let service = jobs(backend);
    let late = service
        .decide(&before, claimed(AttemptId::random(), SessionId::random(), 1))
        .unwrap();
    let answers = service.commit(vec![(&before, late)]).await.unwrap();
    assert_eq!(answers, [Err(CommitError::Conflict)]);
    assert_eq!(load(backend, before.id).await, after);
}

pub async fn an_unknown_row_is_not_found(backend: &mut impl Backend) {
    let job = new_job(backend, "acme", spec());
    let expected = job.revision;
    let answers = backend.stores().jobs.commit(vec![Commit { job, expected }]).await;
    assert_eq!(answers.unwrap(), [Err(CommitError::NotFound)]);
}

pub async fn a_batch_fails_element_by_element(backend: &mut impl Backend) {
    let (good, stale) = (submit(backend, spec()).await, submit(backend, spec()).await);
    done(
        backend,
        stale.id,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    let unknown = new_job(backend, "acme", spec());
    let service = jobs(backend);
    let steps = [&stale, &good, &unknown].map(|job| {
        let event = claimed(AttemptId::random(), SessionId::random(), 1);
        (job, service.decide(job, event).unwrap())
    });
    let answers = service.commit(steps.into()).await.unwrap();
    assert_eq!(answers[0], Err(CommitError::Conflict));
    assert!(answers[1].is_ok());
    assert_eq!(answers[2], Err(CommitError::NotFound));
    assert!(matches!(
        load(backend, good.id).await.state,
        JobState::Assigned { .. }
    ));
}

pub async fn due_jobs_are_found_when_their_time_has_come(backend: &mut impl Backend) {
    let store = backend.stores().jobs;
    let now = backend.clock().now();
    let at = |seconds| JobSpec {
        not_before: Some(now.after(Duration::from_secs(seconds))),
        ..spec()
    };
    let (late, early) = (submit(backend, at(20)).await, submit(backend, at(10)).await);
    let mut impatient = spec();
    impatient.limits.queue = Some(Duration::from_secs(15));
    let impatient = submit(backend, impatient).await;
    submit(backend, spec()).await;

    let found = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(found(store.due(Due::Start, now, 10).await.unwrap()), []);
    turn(backend, Duration::from_secs(20));
    let now = backend.clock().now();
    assert_eq!(
        found(store.due(Due::Start, now, 10).await.unwrap()),
        [early.id, late.id]
    );
    assert_eq!(found(store.due(Due::Start, now, 1).await.unwrap()), [early.id]);
    assert_eq!(
        found(store.due(Due::QueueDeadline, now, 10).await.unwrap()),
        [impatient.id]
    );

    done(backend, early.id, JobEvent::Due).await;
    done(backend, impatient.id, JobEvent::QueueDeadlinePassed).await;
    assert_eq!(found(store.due(Due::Start, now, 10).await.unwrap()), [late.id]);
    assert_eq!(found(store.due(Due::QueueDeadline, now, 10).await.unwrap()), []);
}

pub async fn the_queue_is_made_anew_from_the_rows(backend: &mut impl Backend) {
    let mut waiting = BTreeSet::new();
    for _ in 0..25 {
        waiting.insert(submit(backend, spec()).await.id);
    }
    let taken = *waiting.first().unwrap();
    done(
        backend,
        taken,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    waiting.remove(&taken);

    let (mut after, mut found): (Option<JobId>, Vec<JobId>) = (None, Vec::new());
    loop {
        let page = backend.stores().jobs.queued(after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        found.extend(page.iter().map(|job| job.id));
    }
    assert_eq!(found, waiting.into_iter().collect::<Vec<_>>());
}
